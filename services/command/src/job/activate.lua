#!lua
-- Guarantee: an ended job becomes active again only below the limit of active jobs, and only while it is listed.
-- KEYS  1 all  zset {jobs}   2 active  zset {jobs}
-- ARGV  1 job id   2 active jobs allowed   3 ms until somebody looks at it
-- Returns 'ACTIVE' | 'FULL' | 'GONE'
local allKey, activeKey = KEYS[1], KEYS[2]
local id, maxActive, lookMs = ARGV[1], tonumber(ARGV[2]), tonumber(ARGV[3])
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if not redis.call('ZSCORE', allKey, id) then return 'GONE' end
if not redis.call('ZSCORE', activeKey, id) and redis.call('ZCARD', activeKey) >= maxActive then return 'FULL' end
redis.call('ZADD', activeKey, string.format('%.0f', nowMs + lookMs), id)
return 'ACTIVE'
