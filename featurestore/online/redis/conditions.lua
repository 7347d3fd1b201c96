-- What a write is subject to. Every script that writes begins with this file.

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

-- Returns whether the mark is another one. ARGV: its key, and what it must hold before the server's id, both empty where nothing is marked.
local function unmarked()
  if ARGV[1] == '' then return false end
  -- The id is another one after each restart and failover: what the mark stood for may be lost, though the mark is not.
  local id = string.match(redis.call('INFO', 'replication'), 'master_replid:(%w+)') or ''
  return redis.call('MGET', ARGV[1])[1] ~= ARGV[2] .. ' ' .. id
end
