#!lua
-- Guarantee: each due moment is moved on from once; a paused or removed schedule stays as it is.
-- KEYS  1 due  zset {schedules}   2 schedule  hash {schedules}
-- ARGV  1 id   2 the moment that was due, ms   3 next firing, ms   4 what became of it, JSON   5 further missed moments
-- Returns 1 moved on, or 0 not due at that moment any more
local dueKey, scheduleKey = KEYS[1], KEYS[2]
local id, from, nextAt, last, missed = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
if redis.call('HGET', scheduleKey, 'next') ~= from then return 0 end
redis.call('HSET', scheduleKey, 'next', nextAt, 'last', last)
redis.call('HINCRBY', scheduleKey, 'missed', missed)
redis.call('ZADD', dueKey, nextAt, id)
return 1
