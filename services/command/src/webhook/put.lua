#!lua
-- Guarantee: never more webhooks than the limit, however many processes make them at once. A new one is off until it is switched on.
-- KEYS  1 all  zset {webhooks}   2 webhook  hash {webhooks}   3 due  zset {webhooks}   4 holders  hash {webhooks}
-- ARGV  1 id   2 limit   3 spec, JSON   4 lanes   5 sealed secret   6 created, ms
-- Returns 1 stored, or 0 full
local allKey, webhookKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, limit, spec, lanes, secret, created = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], ARGV[5], ARGV[6]
--#include lanes.lua
if redis.call('ZCARD', allKey) >= limit then return 0 end
redis.call('HSET', webhookKey, 'spec', spec, 'lanes', lanes, 'secret', secret, 'created', created, 'off', 'new', 'offAt', integer(nowMs))
redis.call('ZADD', allKey, 0, id)
return 1
