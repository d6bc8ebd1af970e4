#!lua flags=allow-oom
-- Guarantee: nobody who knows an older spec of the group goes on in this shard.
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 revision of the spec
-- Returns 'HEEDED' | 'GONE'
--#include group.lua
if not exists() then return 'GONE' end
redis.call('HSET', groupKey, 'r', ARGV[3])
return 'HEEDED'
