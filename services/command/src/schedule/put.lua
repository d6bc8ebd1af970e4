#!lua
-- Guarantee: never more schedules than the limit, however many processes make them at once.
-- KEYS  1 all  zset {schedules}   2 due  zset {schedules}   3 schedule  hash {schedules}
-- ARGV  1 id   2 limit   3 next firing, ms ('' = paused)   4 spec, JSON
-- Returns 1 stored, or 0 full
local allKey, dueKey, scheduleKey = KEYS[1], KEYS[2], KEYS[3]
local id, limit, nextAt, spec = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4]
if not redis.call('ZSCORE', allKey, id) and redis.call('ZCARD', allKey) >= limit then return 0 end
redis.call('HSET', scheduleKey, 'spec', spec, 'next', nextAt)
redis.call('ZADD', allKey, 0, id)
if nextAt ~= '' then redis.call('ZADD', dueKey, nextAt, id) end
return 1
