#!lua flags=no-writes
-- KEYS, ARGV 1–2: see group.lua
-- Returns {number of its place, number of the last entry, open, out, dead, acknowledged, dead letters dropped, ms of the oldest that is not settled ('' = none)} | 'GONE'
--#include group.lua
-- Members by deadline or place in which the oldest is looked for.
local LOOKED_AT = 100
if not exists() then return 'GONE' end
local group = redis.call('HMGET', groupKey, 'c', 'n', 'a', 'd')
local _, lastNumber = lastEntry()
local oldest
local function see(member)
  local ms = not isGap(member) and msOf(member)
  if ms and (not oldest or ms < oldest) then oldest = ms end
end
for _, key in ipairs({ readyKey, outKey, laterKey }) do
  for _, member in ipairs(redis.call('ZRANGE', key, 0, LOOKED_AT - 1)) do see(member) end
end
if not oldest and tonumber(group[2]) < tonumber(lastNumber) then
  local entry = redis.call('XRANGE', eventsKey, '(' .. group[1], '+', 'COUNT', 1)[1]
  if entry then see(entry[1]) end
end
local dead = redis.call('ZCARD', deadKey)
return { group[2], lastNumber, redis.call('HLEN', itemKey) - dead, redis.call('ZCARD', outKey), dead, group[3] or '0', group[4] or '0',
  oldest and integer(oldest) or '' }
