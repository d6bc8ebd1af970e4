#!lua flags=allow-oom
-- Guarantee: the name is free, if it still means this group.
-- KEYS  1 all groups  zset {groups}   2 group  hash {groups}
-- ARGV  1 name   2 key
-- Returns 1 | 0
if redis.call('HGET', KEYS[2], 'key') ~= ARGV[2] then return 0 end
redis.call('UNLINK', KEYS[2])
redis.call('ZREM', KEYS[1], ARGV[1])
return 1
