#!lua
-- Guarantee: the secret before signs along for as long as was asked, and no older one does.
-- KEYS  1 webhook  hash {webhooks}   2 due  zset {webhooks}   3 holders  hash {webhooks}
-- ARGV  1 id   2 sealed secret   3 how long the one before signs along, ms
-- Returns the end of that, ms, or 0 gone
local webhookKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3]
local id, secret, overlapMs = ARGV[1], ARGV[2], tonumber(ARGV[3])
--#include lanes.lua
local webhook = redis.call('HMGET', webhookKey, 'secret', 'off')
if not webhook[1] then return 0 end
redis.call('HSET', webhookKey, 'secret', secret, 'previous', webhook[1], 'previousUntil', integer(nowMs + overlapMs))
if not webhook[2] then restart(id) end
return integer(nowMs + overlapMs)
