#!lua
-- Guarantee: of two changes at once none is lost; what runs stops, and goes on with the new settings.
-- KEYS  1 webhook  hash {webhooks}   2 due  zset {webhooks}   3 holders  hash {webhooks}
-- ARGV  1 id   2 spec that was read, JSON   3 new spec, JSON   4 lanes   5 1 where it leads elsewhere: what failed there says nothing any more
-- Returns 'CHANGED', 'STALE' (it was changed meanwhile) or 'GONE'
local webhookKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3]
local id, before, spec, lanes, elsewhere = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
--#include lanes.lua
local webhook = redis.call('HMGET', webhookKey, 'spec', 'off')
if not webhook[1] then return 'GONE' end
if webhook[1] ~= before then return 'STALE' end
redis.call('HSET', webhookKey, 'spec', spec, 'lanes', lanes)
if elsewhere == '1' then redis.call('HDEL', webhookKey, 'failures', 'failingSince', 'openUntil', 'opens') end
if not webhook[2] then restart(id) end
return 'CHANGED'
