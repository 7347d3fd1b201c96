-- Sets each key to its value unless it has one as great or greater; returns how many were set, or -1 where the mark is another one.
--
-- KEYS  the keys, each once
-- ARGV  the key of a mark, and what it must hold before the server's id, both empty where nothing is marked; the keys' values; then
--       no ttl, or one ttl for all keys, or one for each: milliseconds, empty for never
--
-- Values are ordered as unsigned bytes. NOTE: Lua's own < on strings follows the server's locale (strcoll).

-- The value that is held may be missing (false).
local function outdoes(value, held)
  if not held then return true end
  if value == held then return false end
  local shorter = math.min(#value, #held)
  local at = 1
  -- Sixteen bytes at a time, as numbers of four: more bytes than that a Lua number cannot hold exactly.
  while at + 15 <= shorter do
    local a, b, c, d = struct.unpack('>I4I4I4I4', value, at)
    local e, f, g, h = struct.unpack('>I4I4I4I4', held, at)
    if a ~= e then return a > e end
    if b ~= f then return b > f end
    if c ~= g then return c > g end
    if d ~= h then return d > h end
    at = at + 16
  end
  while at <= shorter do
    local a, b = string.byte(value, at), string.byte(held, at)
    if a ~= b then return a > b end
    at = at + 1
  end
  return #value > #held
end

if ARGV[1] ~= '' then
  -- The id is another one after each restart and failover: what the mark stood for may be lost, though the mark is not.
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
  if redis.call('MGET', ARGV[1])[1] ~= ARGV[2] .. ' ' .. id then return -1 end
end

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
