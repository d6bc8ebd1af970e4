#!lua
-- Guarantee: a note about a session is written only while the row names its node and epoch, so a late note never describes a newer
--   session (I3). Notes are for people: nothing is decided by them.
-- KEYS  1 device row    hash    {shard}
-- ARGV  1 node   2 epoch   3 subscription state, JSON
-- Returns 'NOTED' | 'STALE'
local deviceKey = KEYS[1]
local node, epoch, subscription = ARGV[1], ARGV[2], ARGV[3]

local row = redis.call('HMGET', deviceKey, 'node', 'epoch')
if row[1] ~= node or row[2] ~= epoch then return 'STALE' end
redis.call('HSET', deviceKey, 'sub', subscription)
return 'NOTED'
