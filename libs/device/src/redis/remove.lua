#!lua flags=allow-oom
-- Guarantee: provisioning, secrets and index entries of a device go in one step, and only if nobody changed them since the caller read them.
--   Epoch and last revision stay for 30 days, so that both go on growing (I2); an owner stays named until it releases. allow-oom: it frees.
--   Whoever tends lanes is told to look at once, because what waits there must not outlive the device.
-- KEYS  1 device row       hash  {shard}
--       2 sealed secrets   hash  {shard}
--       3 all codes        zset  {shard}
--       4 lane             hash  {shard}  exists while a command waits or is out
--       5 due lanes        zset  {shard}
--       6… indexes to leave (tag:…, type:…)   zset  {shard}
-- ARGV  1 device code   2 revision that the caller read   3 how long the rest of the row stays, s
-- Returns 'REMOVED' | 'CHANGED'
local deviceKey, secretKey = KEYS[1], KEYS[2]
local code, readRevision, keepS = ARGV[1], ARGV[2], ARGV[3]

local revision = redis.call('HGET', deviceKey, 'rev')
if revision ~= readRevision then return 'CHANGED' end
redis.call('HDEL', deviceKey, 'rev', 'profile', 'type', 'tags', 'firmware', 'enabled', 'created', 'updated')
redis.call('HSET', deviceKey, 'gone', revision)
redis.call('EXPIRE', deviceKey, keepS)
redis.call('DEL', secretKey)
redis.call('ZREM', KEYS[3], code)
for i = 6, #KEYS do redis.call('ZREM', KEYS[i], code) end
if redis.call('EXISTS', KEYS[4]) == 1 then redis.call('ZADD', KEYS[5], 0, code) end
return 'REMOVED'
