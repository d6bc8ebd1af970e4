#!lua
-- Guarantee: a schedule goes with all that leads to it.
-- KEYS  1 all  zset {schedules}   2 due  zset {schedules}   3 schedule  hash {schedules}
-- ARGV  1 id
-- Returns 1 removed, or 0 there was none
redis.call('ZREM', KEYS[1], ARGV[1])
redis.call('ZREM', KEYS[2], ARGV[1])
return redis.call('DEL', KEYS[3])
