-- Shared by all scripts that append to the stream of a shard: the only way an event enters it.
-- Guarantee: the id of an entry is <ms>-<n>. n is its number in the shard: 1, 2, 3 … without a hole, whoever appends, so that every count is
--   arithmetic on ids. ms is the time of Redis, but never before that of the entry before it: ids grow though a clock goes back.
-- Beside the stream and in its slot, so that a failover throws them back together:
--   <events>:count  hash  n entries ever added   b bytes ever added   t ms of the last   m bytes at the last mark
-- Nothing is trimmed here.

-- What an entry costs beside its data and pictures, roughly.
local ENTRY_BYTES = 256

-- Numbers on from the last entry of the stream: for one that is ahead of its counter, because somebody wrote it who does not count.
local function catchUp(events)
  local facts = redis.call('XINFO', 'STREAM', events.key)
  for i = 1, #facts, 2 do
    if facts[i] == 'last-generated-id' then
      local ms, n = string.match(facts[i + 1], '^(%d+)-(%d+)$')
      events.t = math.max(events.t, tonumber(ms))
      events.n = math.max(events.n, tonumber(n))
    end
  end
end

-- To be called before the first write of a script: while a Cluster moves the slot, the counter may be gone already, and then nothing may have
-- been changed.
local function openEvents(eventsKey)
  local stored = redis.call('HMGET', eventsKey .. ':count', 'n', 'b', 't', 'm')
  local events = {
    key = eventsKey, n = tonumber(stored[1] or 0), b = tonumber(stored[2] or 0), t = tonumber(stored[3] or 0), m = tonumber(stored[4] or 0),
  }
  if not stored[1] and redis.call('EXISTS', eventsKey) == 1 then
    -- The counter was lost: the stream has the last number still, and the last mark knows the bytes up to it.
    catchUp(events)
    events.b = tonumber(redis.call('ZRANGE', eventsKey .. ':marks', -1, -1, 'WITHSCORES')[2] or 0)
    events.m = events.b
  end
  return events
end

local function lastId(events)
  return string.format('%.0f-%.0f', events.t, events.n)
end

-- fields: names and values, in all or from first to last of the table. bytes: of data and pictures. Answers the id.
local function addEvent(events, nowMs, fields, bytes, first, last)
  events.n = events.n + 1
  events.b = events.b + bytes + ENTRY_BYTES
  events.t = math.max(events.t, nowMs)
  local added = redis.pcall('XADD', events.key, lastId(events), unpack(fields, first or 1, last or #fields))
  if type(added) == 'string' then return added end
  events.n = events.n - 1
  catchUp(events)
  events.n = events.n + 1
  return redis.call('XADD', events.key, lastId(events), unpack(fields, first or 1, last or #fields))
end

-- After the last addEvent, or after each of them.
local function closeEvents(events)
  redis.call('HSET', events.key .. ':count', 'n', string.format('%.0f', events.n), 'b', string.format('%.0f', events.b),
    't', string.format('%.0f', events.t), 'm', string.format('%.0f', events.m))
end
