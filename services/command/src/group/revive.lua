#!lua flags=allow-oom
-- Guarantee: a dead letter is handed out again as if for the first time, or discarded, once; in an ordered group it takes the next place of its
--   device.
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 verdict (replay discard)   4 at most   5… members; none = the oldest ones
-- Returns how many there were | 'GONE'
--#include group.lua
local verdict, limit = ARGV[3], tonumber(ARGV[4])
if not exists() then return 'GONE' end
local members = {}
if #ARGV > 4 then
  for i = 5, #ARGV do members[#members + 1] = ARGV[i] end
else
  members = redis.call('ZRANGE', deadKey, 0, limit - 1)
end
local count = 0
for _, member in ipairs(members) do
  local item = redis.call('ZSCORE', deadKey, member) and load(member)
  if item then
    if verdict == 'replay' then
      redis.call('ZREM', deadKey, member)
      admit(member, { attempts = 0, diedAt = '0', code = item.code })
    else
      forget(member, item)
    end
    count = count + 1
  end
end
return count
