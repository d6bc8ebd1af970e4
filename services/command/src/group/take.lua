#!lua flags=allow-oom
-- Guarantee: the group goes on only from the place that the caller has read from, to an entry that the stream has, and what matched in between
--   is open from then on: no entry is skipped, none counted twice. Who knows an older
--   spec of the group than another who went on here does not go on, so a changed filter counts for all of them. A member is handed out to one caller at a time.
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 hand out so many   4 ack deadline, ms   5 place that was read from ('' = goes on from nowhere)   6 place to go on to   7 its number
--       8 gap before what was read: from, '' = none   9 to   10 its count
--       11 was the entry to go on to read (1), or is everything up to it gone (0)   12 revision of the spec
--       13… member and code of what matched
-- Returns {member, attempt, …} | 'MOVED' the place is another by now, or the stream has changed: look again | 'CHANGED' the spec is a newer one | 'GONE'
--#include group.lua
local wanted, deadlineMs, readFrom, goOnTo, number = tonumber(ARGV[3]), tonumber(ARGV[4]), ARGV[5], ARGV[6], ARGV[7]
local gapFrom, gapTo, gapCount = ARGV[8], ARGV[9], ARGV[10]
if not exists() then return 'GONE' end
if readFrom ~= '' then
  local revision, known = tonumber(ARGV[12]), tonumber(redis.call('HGET', groupKey, 'r') or '0')
  if revision < known then return 'CHANGED' end
  local _, lastNumber = lastEntry()
  if redis.call('HGET', groupKey, 'c') ~= readFrom or tonumber(number) > tonumber(lastNumber) then return 'MOVED' end
  -- Has this store, perhaps another than the one that was read from, got it?
  if ARGV[11] == '1' and not redis.call('XRANGE', eventsKey, goOnTo, goOnTo)[1] then return 'MOVED' end
  redis.call('HSET', groupKey, 'c', goOnTo, 'n', number, 'r', ARGV[12])
  if gapFrom ~= '' then addGap(gapFrom, gapTo, gapCount) end
  for i = 13, #ARGV, 2 do admit(ARGV[i], { attempts = 0, diedAt = '0', code = ARGV[i + 1] }) end
end

local taken = {}
for _, member in ipairs(redis.call('ZRANGE', readyKey, 0, wanted - 1)) do
  redis.call('ZREM', readyKey, member)
  local item = load(member)
  if item then
    item.attempts = item.attempts + 1
    save(member, item)
    redis.call('ZADD', outKey, nowMs + deadlineMs, member)
    taken[#taken + 1] = member
    taken[#taken + 1] = item.attempts
  end
end
return taken
