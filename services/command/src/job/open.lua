#!lua
-- Guarantee: a job begins to exist in one step, complete, once.
-- KEYS  1 job  hash {j:id}
-- ARGV  field, value …
-- Returns 'OPENED' | 'EXISTS'
local jobKey = KEYS[1]
if redis.call('EXISTS', jobKey) == 1 then return 'EXISTS' end
redis.call('HSET', jobKey, unpack(ARGV))
return 'OPENED'
