#!lua flags=allow-oom
-- Guarantee: what is overdue may be handed out again, or is dead after its last attempt; nothing is handed out here.
--   allow-oom, as of all that hands out: consumers make a full Redis emptier.
-- KEYS, ARGV 1–2: see group.lua
-- Returns {place, its number, last entry, ready, out, open in all, ms until something is due ('' = nothing)} | 'GONE'
--#include group.lua
if not exists() then return 'GONE' end
moveDue()
tellLost()
local place = redis.call('HMGET', groupKey, 'c', 'n')
local due
for _, key in ipairs({ outKey, laterKey }) do
  local ms = tonumber(redis.call('ZRANGE', key, 0, 0, 'WITHSCORES')[2])
  if ms and (not due or ms < due) then due = ms end
end
return { place[1], place[2], (lastEntry()), redis.call('ZCARD', readyKey), redis.call('ZCARD', outKey),
  redis.call('HLEN', itemKey) - redis.call('ZCARD', deadKey), due and integer(math.max(0, due - nowMs)) or '' }
