#!lua flags=allow-oom
-- Guarantee: a job leaves the active ones only if nobody has asked for attention since the caller looked.
-- KEYS  1 active  zset {jobs}
-- ARGV  1 job id   2 score that the caller saw
-- Returns 'LEFT' | 'CHANGED'
local activeKey, id, seen = KEYS[1], ARGV[1], ARGV[2]
local score = redis.call('ZSCORE', activeKey, id)
if not score or tonumber(score) ~= tonumber(seen) then return 'CHANGED' end
redis.call('ZREM', activeKey, id)
return 'LEFT'
