#!lua
-- Guarantee: a job begins to exist in one step, complete, once, and not after its reservation may have been given up.
-- KEYS  1 job  hash {j:id}   2 targets  hash {j:id}   3 codes  list {j:id}
-- ARGV  1 not after, ms of Redis time   2 number of targets   then field, value …
-- Returns 'OPENED' | 'EXISTS' | 'PARTIAL' | 'LATE'
local jobKey, targetsKey, codesKey = KEYS[1], KEYS[2], KEYS[3]
local notAfterMs, total = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if redis.call('EXISTS', jobKey) == 1 then return 'EXISTS' end
if nowMs > notAfterMs then return 'LATE' end
if redis.call('LLEN', codesKey) ~= total then return 'PARTIAL' end
redis.call('PERSIST', codesKey)
redis.call('PERSIST', targetsKey)
redis.call('HSET', jobKey, unpack(ARGV, 3))
return 'OPENED'
