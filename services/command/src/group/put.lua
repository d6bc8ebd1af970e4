#!lua
-- Guarantee: at most one group of a name, and at most so many groups.
-- KEYS  1 all groups  zset {groups}   2 group  hash {groups}
-- ARGV  1 name   2 groups allowed   3 key   4 owner   5 start   6 spec (JSON)
-- Returns {'CREATED', ms of creation} | 'EXISTS' | 'FULL'
local name, allowed = ARGV[1], tonumber(ARGV[2])
if redis.call('EXISTS', KEYS[2]) == 1 then return 'EXISTS' end
if redis.call('ZCARD', KEYS[1]) >= allowed then return 'FULL' end
local time = redis.call('TIME')
local now = string.format('%.0f', tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000))
redis.call('ZADD', KEYS[1], 0, name)
redis.call('HSET', KEYS[2], 'key', ARGV[3], 'owner', ARGV[4], 'start', ARGV[5], 'spec', ARGV[6], 'created', now, 'state', 'opening')
return { 'CREATED', now }
