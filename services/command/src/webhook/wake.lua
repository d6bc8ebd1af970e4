#!lua
-- Guarantee: a lane that is seen to, or waits for its time, is not asked for again.
-- KEYS  1 due  zset {webhooks}   2 holders  hash {webhooks}
-- ARGV  1 lane
-- Returns 1 it is due now, or 0 it stood there already
local dueKey, holdersKey = KEYS[1], KEYS[2]
--#include lanes.lua
return redis.call('ZADD', dueKey, 'NX', integer(nowMs), ARGV[1])
