#!lua
-- Guarantee: the group gets its first place in this shard once; a second call changes nothing.
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 where (now start time entry)   4 ms (time), id (entry)
-- Returns 'BEGUN' | 'EXISTS'
--#include group.lua
local where, place = ARGV[3], ARGV[4]
if exists() then return 'EXISTS' end

local REWIND_MS = 10000
local lastId, lastNumber = lastEntry()
local id, number = lastId, lastNumber

local function from(place)
  local entry = redis.call('XRANGE', eventsKey, place, '+', 'COUNT', 1)[1]
  if not entry then return nil end
  local before = integer(numberOf(entry[1]) - 1)
  id, number = integer(msOf(entry[1])) .. '-' .. before, before
  return entry[1]
end

if where == 'start' then
  from('-')
elseif where == 'entry' and numberOf(place) <= tonumber(lastNumber) then
  id, number = place, integer(numberOf(place))
elseif where ~= 'now' then
  -- A place behind the end belongs to entries that the store has lost: what it took since may lie a little before it.
  local ms = where == 'time' and tonumber(place) or msOf(lastId) - REWIND_MS
  local first = from(integer(math.max(0, ms)))
  local oldest = first and redis.call('XRANGE', eventsKey, '-', '+', 'COUNT', 1)[1]
  local mayMiss = first and oldest[1] == first and numberOf(first) > 1 and msOf(first) > ms
  -- Everything was trimmed: the last entry is all that is known, and it is missing too.
  if not first and tonumber(lastNumber) > 0 and msOf(lastId) >= ms then
    mayMiss, first = true, integer(msOf(lastId)) .. '-' .. integer(numberOf(lastId) + 1)
  end
  if mayMiss then addGap(integer(math.max(0, ms)) .. '-0', first, 'x') end
end
redis.call('HSET', groupKey, 'c', id, 'n', number)
return 'BEGUN'
