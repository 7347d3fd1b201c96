-- Returns what fields hold, one after the other; false for one that is not there.
--
-- KEYS  the hashes, one for each field
-- ARGV  the fields

local call = redis.call
local held = {}
for i = 1, #KEYS do held[i] = call('HGET', KEYS[i], ARGV[i]) end
return held
