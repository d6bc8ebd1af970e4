#!lua flags=no-writes
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 ms of the oldest wanted   4 at most
-- Returns {member, attempts, died at, …}, oldest first
--#include group.lua
local found = {}
for _, member in ipairs(redis.call('ZRANGEBYSCORE', deadKey, ARGV[3], '+inf', 'LIMIT', 0, tonumber(ARGV[4]))) do
  local item = load(member)
  if item then
    found[#found + 1] = member
    found[#found + 1] = item.attempts
    found[#found + 1] = item.diedAt
  end
end
return found
