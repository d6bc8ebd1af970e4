-- Shared by the scripts that keep a stream within its limits; needs append-event.lua.
--   <events>:marks  zset  id of an entry → bytes ever added up to it and with it; one per STEPS-th part of the limit, so at most a few more
-- The bytes after an entry are those ever added less its mark: what fits is found without counting what is there.
local STEPS = 64
-- Entries that one call removes, about: it blocks Redis for a few ms.
local MAX_TRIMMED = 20000

-- Answers whether the last entry was marked.
local function mark(events, keptBytes)
  if events.b - events.m < keptBytes / STEPS then return false end
  -- Where a Cluster has moved the marks already, one of the next entries gets it.
  local added = redis.pcall('ZADD', events.key .. ':marks', string.format('%.0f', events.b), lastId(events))
  if type(added) == 'table' then return false end
  events.m = events.b
  return true
end

-- Removes what is older than keptMs, and whole marks' worth of the oldest until the rest fits into keptBytes,
-- or only the last is left. Answers how many entries went.
local function trimEvents(events, nowMs, keptMs, keptBytes)
  local fromMs, fromN = math.max(0, nowMs - keptMs), 0
  local excess = events.b - keptBytes
  if excess > 0 then
    redis.call('ZREMRANGEBYSCORE', events.key .. ':marks', '-inf', string.format('(%.0f', excess))
    local fitting = redis.call('ZRANGE', events.key .. ':marks', 0, 0)[1]
    local ms, n = string.match(fitting or '', '^(%d+)-(%d+)$')
    -- The last entry stays, however large it is.
    if ms and tonumber(ms) >= fromMs then fromMs, fromN = tonumber(ms), math.min(tonumber(n) + 1, events.n) end
  end
  local fromId = string.format('%.0f-%.0f', fromMs, fromN)
  local removed = redis.call('XTRIM', events.key, 'MINID', '~', fromId, 'LIMIT', MAX_TRIMMED)
  -- Whole nodes are gone; exact is then a matter of one node.
  if removed < MAX_TRIMMED / 2 then removed = removed + redis.call('XTRIM', events.key, 'MINID', fromId) end
  return removed
end
