-- Counts what a group was done with, and finds what the server dropped before that.
--
-- All entries that ever came into a stream up to a group's place in it were acknowledged, are pending, or are lost. So with the
-- first counted here, what is lost follows: by XTRIM, MAXLEN, XDEL, XGROUP DELCONSUMER or DEL, while it was pending or unread.
--
-- KEYS[1]: the stream, KEYS[2]: the counts, a hash. ARGV[1]: the group, ARGV[2]: '1' where it was just made, the rest: ids to
-- acknowledge. Returns how many are lost by now.
local topic, counts, group = KEYS[1], KEYS[2], ARGV[1]

local function fields(list)
  local made = {}
  for i = 1, #list, 2 do made[list[i]] = list[i + 1] end
  return made
end

local function above(one, other)
  local a, b = string.match(one, '(%d+)-(%d+)')
  local c, d = string.match(other, '(%d+)-(%d+)')
  local function longer(x, y) if #x ~= #y then return #x - #y end return x == y and 0 or (x > y and 1 or -1) end
  local first = longer(a, c)
  return first > 0 or (first == 0 and longer(b, d) > 0)
end

if #ARGV > 2 then
  local done = redis.call('XACK', topic, group, unpack(ARGV, 3))
  if redis.call('HEXISTS', counts, 'done') == 1 then redis.call('HINCRBY', counts, 'done', done) end
end

local told = redis.pcall('XINFO', 'STREAM', topic)
if told['err'] then return tonumber(redis.call('HGET', counts, 'lost') or 0) end  -- it was deleted; whoever makes it anew counts
local stream = fields(told)
local mine
for _, each in ipairs(redis.call('XINFO', 'GROUPS', topic)) do
  local found = fields(each)
  if found['name'] == group then mine = found end
end
local added, length = tonumber(stream['entries-added']), tonumber(stream['length'])
if not mine or not added then return 0 end
local last = mine['last-delivered-id']

local place
local sure = true
if not above(stream['last-generated-id'], last) then
  place = added
elseif length == 0 or above(stream['first-entry'][1], last) then
  place = added - length
elseif not above(stream['max-deleted-entry-id'] or '0-0', last) and mine['lag'] then
  place, sure = added - tonumber(mine['lag']), false  -- Redis 7.0 counts what was trimmed as read or not, as it comes
else
  return tonumber(redis.call('HGET', counts, 'lost') or 0)  -- it can be told once the deleted ones are behind
end

local was = redis.call('HMGET', counts, 'done', 'lost', 'added')
local done, lost, seen = tonumber(was[1]), tonumber(was[2] or 0), tonumber(was[3])
local pending = tonumber(mine['pending'])
if done and ARGV[2] == '1' and seen then
  -- The group was not there, so the stream or the group was deleted: with it whatever was not done when it was seen last.
  lost = lost + math.max(0, seen - done - lost)
  done = nil
end
local more = done and place - done - lost - pending or 0
if more > 0 then lost = lost + more end
if more < 0 and not sure then return lost end
if not done or more < 0 then done = place - lost - pending end  -- the first look, or somebody set the group back
redis.call('HSET', counts, 'done', done, 'lost', lost, 'added', added)
return lost
