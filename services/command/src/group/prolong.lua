#!lua flags=allow-oom
-- Guarantee: permits that are still held are held for so long from now.
-- KEYS  1 permits  zset {g:<key>}
-- ARGV  1 life, ms   2… permits
-- Returns 1
local LIFE_MS = 3600000
local time = redis.call('TIME')
local untilMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000) + tonumber(ARGV[1])
for i = 2, #ARGV do redis.call('ZADD', KEYS[1], 'XX', untilMs, ARGV[i]) end
redis.call('PEXPIRE', KEYS[1], LIFE_MS)
return 1
