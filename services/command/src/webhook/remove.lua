#!lua
-- Guarantee: a webhook goes with all that leads to it.
-- KEYS  1 all  zset {webhooks}   2 webhook  hash {webhooks}   3 log  list {webhooks}   4 due  zset {webhooks}   5 holders  hash {webhooks}
-- ARGV  1 id
-- Returns 1 removed, or 0 there was none
local allKey, webhookKey, logKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local id = ARGV[1]
--#include lanes.lua
takeAway(id)
redis.call('ZREM', allKey, id)
redis.call('DEL', logKey)
return redis.call('DEL', webhookKey)
