-- Sets each field to its value if what it holds begins with certain bytes; returns how many were set, or -1 where the mark is another
-- one.
--
-- KEYS  the hashes, one for each field
-- ARGV  the key of a mark, and what it must hold before the server's id, both empty where nothing is marked; the fields; their
--       values behind a zero byte; then what each must begin with, empty for a field that must hold nothing; then no ttl, or one ttl for all fields, or
--       one for each: milliseconds, empty for never

local call, sub = redis.call, string.sub

if unmarked() then return -1 end

local count = #KEYS
local before = 2 + 3 * count
local now = #ARGV > before and present() or 0
local written = 0

for i = 1, count do
  local field, begins = ARGV[2 + i], ARGV[2 + 2 * count + i]
  local stored = call('HGET', KEYS[i], field)
  local held = false
  local ends
  if stored then ends, held = taken_apart(stored) end
  local expected
  if begins == '' then expected = not held else expected = held and sub(held, 1, #begins) == begins end
  if expected then
    call('HSET', KEYS[i], field, put_together(ending(i, before, now), ARGV[2 + count + i]))
    written = written + 1
  end
end

return written
