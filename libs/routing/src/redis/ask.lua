#!lua flags=allow-oom
-- Guarantee: only an incarnation whose lease lives is asked, and each word has a higher number than the one before, so that it is heard once.
--   allow-oom: nodes can be taken out while Redis is full.
-- KEYS  1 node   hash, expires with the lease
-- ARGV  1 incarnation   2 drain or resume   3 seconds, or '' for the node's own
-- Returns {'ASKED'} | {'GONE'}
local nodeKey = KEYS[1]
local incarnation, ask, seconds = ARGV[1], ARGV[2], ARGV[3]

local row = redis.call('HMGET', nodeKey, 'inc', 'asked')
if row[1] ~= incarnation then return { 'GONE' } end
local time = redis.call('TIME')
local number = tonumber(time[1]) * 1000000 + tonumber(time[2])
local last = tonumber(string.match(row[2] or '', '^%d+')) or 0
if number <= last then number = last + 1 end
redis.call('HSET', nodeKey, 'asked', string.format('%.0f %s %s', number, ask, seconds))
return { 'ASKED' }
