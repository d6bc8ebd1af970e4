#!lua flags=allow-oom
-- Guarantee: only the lease of this incarnation ends; a successor of the same name keeps its own.
-- KEYS  1 node   hash, expires with the lease
-- ARGV  1 incarnation
-- Returns 'LEFT' | 'FOREIGN'
local nodeKey, incarnation = KEYS[1], ARGV[1]
if redis.call('HGET', nodeKey, 'inc') ~= incarnation then return 'FOREIGN' end
redis.call('DEL', nodeKey)
return 'LEFT'
