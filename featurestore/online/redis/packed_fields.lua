-- What a field of a packed hash holds: when the store may forget it, and the value. A zero byte for never, or six bytes, big-endian,
-- of milliseconds since 1970, of which the first is never zero.

local first, last = 2 ^ 40, 2 ^ 48 - 1

-- Returns when a field may be forgotten, nil for never, and its value.
local function taken_apart(stored)
  if string.byte(stored, 1) == 0 then return nil, string.sub(stored, 2) end
  if #stored < 6 then return nil, '' end
  local high, low = struct.unpack('>I2I4', stored)
  return high * 4294967296 + low, string.sub(stored, 7)
end

-- Returns what a field holds from when on it may be forgotten, of what it holds for ever.
local function put_together(ends, kept)
  if not ends then return kept end
  ends = math.max(first, math.min(last, ends))
  return struct.pack('>I2I4', math.floor(ends / 4294967296), ends % 4294967296) .. string.sub(kept, 2)
end

local function present()
  local time = redis.call('TIME')
  return tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
end

-- Returns when the entry of a number may be forgotten, nil for never: of no ttl, one for all, or one for each, behind what is before.
local function ending(number, before, now)
  local ttls = #ARGV - before
  local ttl = ''
  if ttls == 1 then ttl = ARGV[before + 1] elseif ttls > 1 then ttl = ARGV[before + number] end
  if ttl == '' then return nil end
  return now + tonumber(ttl)
end
