#!lua flags=allow-oom
-- Guarantee: what is over the limits of a shard goes, also when nobody appends. Changes nothing else; safe to run by many at once.
--   allow-oom: a full Redis is made emptier.
-- KEYS  1 events  stream  {shard}; :count and :marks beside it, see append-event.lua and trim-events.lua
-- ARGV  1 ms kept   2 bytes kept
-- Returns {entries removed, may there be more to remove (1 0), entries left, their bytes, about}
--#include redis/append-event.lua
--#include trim-events.lua
local eventsKey, keptMs, keptBytes = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2])

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local events = openEvents(eventsKey)
-- Scripts that append without knowing the limits make no marks.
if mark(events, keptBytes) then closeEvents(events) end
local removed = trimEvents(events, nowMs, keptMs, keptBytes)

local left = redis.call('XLEN', eventsKey)
-- What is left begins at the last mark before it, or a little later.
local trimmedBytes = left == 0 and events.b or 0
local marks = redis.call('ZRANGE', eventsKey .. ':marks', 0, -1, 'WITHSCORES')
for i = 1, #marks, 2 do
  if tonumber(string.match(marks[i], '%d+$')) <= events.n - left then trimmedBytes = math.max(trimmedBytes, tonumber(marks[i + 1])) end
end
return { removed, removed >= MAX_TRIMMED / 2 and 1 or 0, left, string.format('%.0f', events.b - trimmedBytes) }
