#!lua
-- Guarantee: only the holder gives a lane back.
-- KEYS  1 due  zset {webhooks}   2 holders  hash {webhooks}
-- ARGV  1 lane   2 token   3 when somebody must look again, ms from now ('' = when it is asked for)
-- Returns 1 given back, or 0 not held
local dueKey, holdersKey = KEYS[1], KEYS[2]
local member, token, restMs = ARGV[1], ARGV[2], ARGV[3]
--#include lanes.lua
if redis.call('HGET', holdersKey, member) ~= token then return 0 end
redis.call('HDEL', holdersKey, member)
if restMs == '' then
  redis.call('ZREM', dueKey, member)
else
  redis.call('ZADD', dueKey, integer(nowMs + tonumber(restMs)), member)
end
return 1
