-- Sets each key to its value if what it holds begins with certain bytes; returns how many were set.
--
-- KEYS  the keys, each once
-- ARGV  their values; then what each must begin with, empty for a key that must hold nothing; then no ttl, or one ttl for
--       all keys, or one for each: milliseconds, empty for never
--
-- NOTE: == on Lua's strings compares bytes, whatever the server's locale. A missing key has an empty range.

local count = #KEYS
local ttls = #ARGV - 2 * count
local written = 0
local forever = {}

for i = 1, count do
  local begins = ARGV[count + i]
  local held
  if begins == '' then
    held = redis.call('EXISTS', KEYS[i]) == 0
  else
    held = redis.call('GETRANGE', KEYS[i], 0, #begins - 1) == begins
  end
  if held then
    local ttl = ''
    if ttls == 1 then ttl = ARGV[2 * count + 1] elseif ttls > 1 then ttl = ARGV[2 * count + i] end
    if ttl == '' then
      forever[#forever + 1] = KEYS[i]
      forever[#forever + 1] = ARGV[i]
    else
      redis.call('SET', KEYS[i], ARGV[i], 'PX', ttl)
    end
    written = written + 1
  end
end

if #forever > 0 then redis.call('MSET', unpack(forever)) end
return written
