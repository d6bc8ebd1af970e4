#!lua
-- Guarantee: only the ownership that is named by node and epoch may say something about its session; a late note of an old session never
--   describes a newer one (I3). Claim, release and reaper take the note away. No allow-oom: a note can wait, leases cannot.
-- KEYS  1 device row   hash  {shard}
-- ARGV  1 node   2 epoch   3 state of the event subscription, JSON
-- Returns 'NOTED' | 'STALE'
local deviceKey = KEYS[1]
local node, epoch, subscription = ARGV[1], ARGV[2], ARGV[3]
local row = redis.call('HMGET', deviceKey, 'node', 'epoch')
if row[1] ~= node or row[2] ~= epoch then return 'STALE' end
redis.call('HSET', deviceKey, 'sub', subscription)
return 'NOTED'
