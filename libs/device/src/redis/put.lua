#!lua
-- Guarantee: provisioning, secrets and indexes of a device change in one step, and only if nobody changed them since the caller read them.
--   The revision grows with every change, also over a removal and after Redis lost its last writes, so that no revision ever stands for
--   two contents: the claim compares it, and a cached copy never registers a device with a revoked secret. Both hashes carry it, so a reader
--   of both sees whether they belong together. Session fields and epoch are left alone; a row that waited for its end lives on.
-- KEYS  1 device row       hash  {shard}
--       2 sealed secrets   hash  {shard}
--       3 all codes        zset  {shard}
--       4… indexes to leave, then indexes to enter (tag:…, type:…)   zset  {shard}
-- ARGV  1 device code   2 revision that the caller read, empty = not provisioned   3 profile   4 type   5 tags, JSON   6 enabled, 1 or 0   7 firmware
--       8 'keep' | 'set' the secret   9 sealed secret   10 'keep' | 'set' | 'clear' the next secret   11 sealed next secret
--       12 how many indexes to leave
-- Returns {'STORED', revision} | {'CHANGED'}
local deviceKey, secretKey, codesKey = KEYS[1], KEYS[2], KEYS[3]
local code, readRevision = ARGV[1], ARGV[2]
local profile, deviceType, tags, enabled, firmware = ARGV[3], ARGV[4], ARGV[5], ARGV[6], ARGV[7]
local secretChange, secret, nextChange, nextSecret = ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local leaving = tonumber(ARGV[12])

local row = redis.call('HMGET', deviceKey, 'rev', 'gone')
if (row[1] or '') ~= readRevision then return { 'CHANGED' } end

local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
local now = string.format('%.0f', nowMs)
local last = tonumber(row[1] or row[2] or '0')
local revision = string.format('%.0f', math.max(last + 1, nowMs))

redis.call('HSET', deviceKey, 'rev', revision, 'profile', profile, 'type', deviceType, 'tags', tags, 'firmware', firmware,
  'enabled', enabled, 'updated', now)
redis.call('HSETNX', deviceKey, 'created', now)
redis.call('HDEL', deviceKey, 'gone')
redis.call('PERSIST', deviceKey)
redis.call('HSET', secretKey, 'rev', revision)
if secretChange == 'set' then redis.call('HSET', secretKey, 'current', secret) end
if nextChange == 'set' then redis.call('HSET', secretKey, 'next', nextSecret) end
if nextChange == 'clear' then redis.call('HDEL', secretKey, 'next') end
redis.call('ZADD', codesKey, 0, code)
for i = 4, 3 + leaving do redis.call('ZREM', KEYS[i], code) end
for i = 4 + leaving, #KEYS do redis.call('ZADD', KEYS[i], 0, code) end
return { 'STORED', revision }
