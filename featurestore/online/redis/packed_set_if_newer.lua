-- Sets each field to its value unless it has one as great or greater; returns how many were set, or -1 where the mark is another one.
--
-- KEYS  the hashes, one for each field
-- ARGV  the key of a mark, and what it must hold before the server's id, both empty where nothing is marked; the fields; their
--       values behind a zero byte; then no ttl, or one ttl for all fields, or one for each: milliseconds, empty for never

local call, byte, sub = redis.call, string.byte, string.sub

if unmarked() then return -1 end

local count = #KEYS
local before = 2 + 2 * count
local now = #ARGV > before and present() or 0
local written = 0

for i = 1, count do
  local field, kept = ARGV[2 + i], ARGV[2 + count + i]
  local ends = ending(i, before, now)
  local stored = call('HGET', KEYS[i], field)
  if not ends and (not stored or byte(stored, 1) == 0) then
    -- Neither has an end, so both are compared as they are, without copies.
    if outdoes(kept, stored) then
      call('HSET', KEYS[i], field, kept)
      written = written + 1
    end
  else
    local value = sub(kept, 2)
    local held_ends, held = nil, false
    if stored then held_ends, held = taken_apart(stored) end
    if held == value then
      -- A ttl that has become longer keeps what is there for longer; nothing is ever forgotten sooner.
      if held_ends and (not ends or ends > held_ends) then call('HSET', KEYS[i], field, put_together(ends, kept)) end
    elseif outdoes(value, held) then
      call('HSET', KEYS[i], field, put_together(ends, kept))
      written = written + 1
    end
  end
end

return written
