#!lua flags=allow-oom
-- Guarantee: an acknowledged event is never handed out again. Only who holds the last attempt may ask for another, or for more time.
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 verdict (ack nack extend release lost)   4 ms (delay of nack, new deadline of extend)   5… member and attempt
-- Returns 1 (done) or 0 (stale) for each | 'GONE'
--#include group.lua
local verdict, ms = ARGV[3], tonumber(ARGV[4])
if not exists() then return 'GONE' end

local function settle(member, attempt)
  local item = load(member)
  if not item then return 0 end
  if verdict == 'ack' then
    forget(member, item)
    if not isGap(member) then redis.call('HINCRBY', groupKey, 'a', 1) end
    return 1
  end
  if item.attempts ~= attempt or not redis.call('ZSCORE', outKey, member) then return 0 end
  if verdict == 'nack' then
    comeAgain(member, item, ms)
  elseif verdict == 'extend' then
    redis.call('ZADD', outKey, nowMs + ms, member)
  elseif verdict == 'release' then
    item.attempts = item.attempts - 1
    save(member, item)
    redis.call('ZREM', outKey, member)
    getReady(member)
  else
    lose(member, item)
  end
  return 1
end

local results = {}
for i = 5, #ARGV, 2 do results[#results + 1] = settle(ARGV[i], tonumber(ARGV[i + 1])) end
tellLost()
return results
