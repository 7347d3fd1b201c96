-- Deletes the fields that may be forgotten; returns how many there were.
--
-- KEYS  the hashes

local now = present()
local swept = 0

for i = 1, #KEYS do
  local fields = redis.call('HGETALL', KEYS[i])
  for place = 1, #fields, 2 do
    local ends = taken_apart(fields[place + 1])
    if ends and ends <= now then swept = swept + redis.call('HDEL', KEYS[i], fields[place]) end
  end
end

return swept
