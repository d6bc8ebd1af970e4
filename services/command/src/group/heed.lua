#!lua flags=allow-oom
-- Guarantee: nobody who knows an older spec of the group goes on in this shard.
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 revision of the spec   4 also when a newer one is known here (1 0)
-- Returns 'HEEDED' | 'GONE'
--#include group.lua
if not exists() then return 'GONE' end
if ARGV[4] == '1' or tonumber(ARGV[3]) > tonumber(redis.call('HGET', groupKey, 'r') or '0') then
  redis.call('HSET', groupKey, 'r', ARGV[3])
end
return 'HEEDED'
