#!lua
-- Guarantee: one holder of a lane at a time; none of a webhook that is off; while the breaker is open nobody, and then the first lane alone.
-- KEYS  1 webhook  hash {webhooks}   2 due  zset {webhooks}   3 holders  hash {webhooks}
-- ARGV  1 id   2 number of the lane   3 token   4 lease, ms
-- Returns {'TAKEN', name, value, …} | {'REST', ms until somebody may look} | {'BUSY'} | {'IDLE'} nobody need look at it
local webhookKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3]
local id, lane, token, leaseMs = ARGV[1], tonumber(ARGV[2]), ARGV[3], tonumber(ARGV[4])
--#include lanes.lua
local member = id .. ':' .. ARGV[2]
local webhook = redis.call('HMGET', webhookKey, 'lanes', 'off', 'openUntil')
local due = redis.call('ZSCORE', dueKey, member)
if due and tonumber(due) > nowMs then return { 'BUSY' } end
redis.call('HDEL', holdersKey, member)
if not webhook[1] or webhook[2] or lane >= tonumber(webhook[1]) or (webhook[3] and lane > 0) or not due then
  redis.call('ZREM', dueKey, member)
  return { 'IDLE' }
end
local untilMs = tonumber(webhook[3] or '0')
if untilMs > nowMs then
  redis.call('ZADD', dueKey, integer(untilMs), member)
  return { 'REST', integer(untilMs - nowMs) }
end
redis.call('ZADD', dueKey, integer(nowMs + leaseMs), member)
redis.call('HSET', holdersKey, member, token)
local answer = { 'TAKEN' }
for _, each in ipairs(redis.call('HGETALL', webhookKey)) do answer[#answer + 1] = each end
return answer
