-- Sets each key to its value if what it holds begins with certain bytes; returns how many were set, or -1 where the mark is another
-- one.
--
-- KEYS  the keys, each once
-- ARGV  the key of a mark, and what it must hold before the server's id, both empty where nothing is marked; the keys' values; then
--       what each must begin with, empty for a key that must hold nothing; then no ttl, or one ttl for all keys, or one for each:
--       milliseconds, empty for never
--
-- NOTE: == on Lua's strings compares bytes, whatever the server's locale. A missing key has an empty range.

if unmarked() then return -1 end

local count = #KEYS
local ttls = #ARGV - 2 * count - 2
local written = 0
local forever = {}

for i = 1, count do
  local begins = ARGV[2 + count + i]
  local held
  if begins == '' then
    -- What is of another type is nothing to a reader, and would be in the way for ever.
    held = not redis.call('MGET', KEYS[i])[1]
  else
    held = redis.call('GETRANGE', KEYS[i], 0, #begins - 1) == begins
  end
  if held then
    local ttl = ''
    if ttls == 1 then ttl = ARGV[2 * count + 3] elseif ttls > 1 then ttl = ARGV[2 * count + 2 + i] end
    if ttl == '' then
      forever[#forever + 1] = KEYS[i]
      forever[#forever + 1] = ARGV[2 + i]
    else
      redis.call('SET', KEYS[i], ARGV[2 + i], 'PX', ttl)
    end
    written = written + 1
  end
end

if #forever > 0 then redis.call('MSET', unpack(forever)) end
return written
