-- Sets each key to its value unless it has one as great or greater; returns how many were set, or -1 where the mark is another one.
--
-- KEYS  the keys, each once
-- ARGV  the key of a mark, and what it must hold before the server's id, both empty where nothing is marked; the keys' values; then
--       no ttl, or one ttl for all keys, or one for each: milliseconds, empty for never

if unmarked() then return -1 end

local count = #KEYS
local ttls = #ARGV - count - 2
local held = redis.call('MGET', unpack(KEYS))
local written = 0
local forever = {}

for i = 1, count do
  local ttl = ''
  if ttls == 1 then ttl = ARGV[count + 3] elseif ttls > 1 then ttl = ARGV[count + 2 + i] end
  local value = ARGV[2 + i]
  if held[i] == value then
    -- A ttl that has become longer keeps what is there for longer; nothing is ever forgotten sooner.
    if ttl == '' then redis.call('PERSIST', KEYS[i]) else redis.call('PEXPIRE', KEYS[i], ttl, 'GT') end
  elseif outdoes(value, held[i]) then
    if ttl == '' then
      forever[#forever + 1] = KEYS[i]
      forever[#forever + 1] = value
    else
      redis.call('SET', KEYS[i], value, 'PX', ttl)
    end
    written = written + 1
  end
end

if #forever > 0 then redis.call('MSET', unpack(forever)) end
return written
