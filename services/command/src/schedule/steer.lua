#!lua
-- Guarantee: a pause holds from the moment of this script; a resume neither fires what passed meanwhile nor moves a schedule that runs.
-- KEYS  1 due  zset {schedules}   2 schedule  hash {schedules}
-- ARGV  1 id   2 next firing, ms ('' = pause)
-- Returns 'STEERED', 'SAME' (is paused, or runs, already) or 'GONE'
local dueKey, scheduleKey = KEYS[1], KEYS[2]
local id, nextAt = ARGV[1], ARGV[2]
local before = redis.call('HGET', scheduleKey, 'next')
if not before then return 'GONE' end
if (before == '') == (nextAt == '') then return 'SAME' end
redis.call('HSET', scheduleKey, 'next', nextAt)
if nextAt == '' then
  redis.call('ZREM', dueKey, id)
else
  redis.call('ZADD', dueKey, nextAt, id)
end
return 'STEERED'
