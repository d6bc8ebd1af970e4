#!lua
-- Guarantee: changes the group that is meant, not one of the same name that came after it.
-- KEYS  1 group  hash {groups}
-- ARGV  1 key   2… fields and values
-- Returns 1 | 0
if redis.call('HGET', KEYS[1], 'key') ~= ARGV[1] then return 0 end
for i = 2, #ARGV, 2 do redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1]) end
return 1
