#!lua flags=allow-oom
-- Guarantee: devices whose lanes somebody should tend now, each handed to one caller at a time; who does not do it loses the turn after a while.
-- KEYS  1 due  zset  {shard}
-- ARGV  1 at most so many   2 ms for which others do not get them
-- Returns device codes, the most overdue first
local dueKey = KEYS[1]
local limit, turnMs = ARGV[1], tonumber(ARGV[2])
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local codes = redis.call('ZRANGEBYSCORE', dueKey, '-inf', string.format('%.0f', nowMs), 'LIMIT', 0, limit)
for _, code in ipairs(codes) do redis.call('ZADD', dueKey, string.format('%.0f', nowMs + turnMs), code) end
return codes
