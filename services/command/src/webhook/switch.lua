#!lua
-- Guarantee: of all that switch a webhook on or off, one sees that it did. Switched on, it begins with a closed breaker.
-- KEYS  1 webhook  hash {webhooks}   2 due  zset {webhooks}   3 holders  hash {webhooks}
-- ARGV  1 id   2 why it is off ('' = on)
-- Returns 'SWITCHED', 'SAME' or 'GONE'
local webhookKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3]
local id, reason = ARGV[1], ARGV[2]
--#include lanes.lua
local webhook = redis.call('HMGET', webhookKey, 'spec', 'off')
if not webhook[1] then return 'GONE' end
if (not webhook[2]) == (reason == '') then return 'SAME' end
if reason == '' then
  redis.call('HDEL', webhookKey, 'off', 'offAt', 'failures', 'failingSince', 'openUntil', 'opens')
  restart(id)
else
  redis.call('HSET', webhookKey, 'off', reason, 'offAt', integer(nowMs))
  takeAway(id)
end
return 'SWITCHED'
