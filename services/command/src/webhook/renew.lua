#!lua
-- Guarantee: only who holds a lane holds it longer.
-- KEYS  1 due  zset {webhooks}   2 holders  hash {webhooks}
-- ARGV  1 lease, ms   then pairs: lane, token
-- Returns for each pair 1 renewed, or 0 lost
local dueKey, holdersKey = KEYS[1], KEYS[2]
local leaseMs = tonumber(ARGV[1])
--#include lanes.lua
local answer = {}
for i = 2, #ARGV, 2 do
  local held = redis.call('HGET', holdersKey, ARGV[i]) == ARGV[i + 1]
  if held then redis.call('ZADD', dueKey, integer(nowMs + leaseMs), ARGV[i]) end
  answer[#answer + 1] = held and 1 or 0
end
return answer
