#!lua
-- Guarantee: one runner at a time. Each lease has a higher fence than all before; what carries a lower one changes nothing any more.
-- KEYS  1 job  hash {j:id}
-- ARGV  1 lease, ms
-- Returns {'LEASED', fence, lease ends, now} | {'BUSY', its end} | {'ENDED'} | {'GONE'}      times in ms of Redis time
local jobKey, leaseMs = KEYS[1], tonumber(ARGV[1])
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function integer(number)
  return string.format('%.0f', number)
end
local ENDS = { succeeded = true, finished_with_failures = true, aborted = true, cancelled = true }

local job = redis.call('HMGET', jobKey, 'state', 'until')
if not job[1] then return { 'GONE' } end
if ENDS[job[1]] then return { 'ENDED' } end
local untilMs = tonumber(job[2] or '0') or 0
if untilMs > nowMs then return { 'BUSY', integer(untilMs) } end
local fence = redis.call('HINCRBY', jobKey, 'fence', 1)
redis.call('HSET', jobKey, 'until', integer(nowMs + leaseMs))
return { 'LEASED', integer(fence), integer(nowMs + leaseMs), integer(nowMs) }
