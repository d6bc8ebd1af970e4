#!lua
-- Guarantee: each list keeps its newest entries up to the bound, and lives on for the given time after the last one. A refusal that follows one
--   of the same reason closely enough is counted there instead of being added, whichever node saw the first.
--   A code that is not provisioned is remembered for the shorter time: anybody can make one up.
-- KEYS  two for each entry: the list it belongs to, list {shard}; device row, hash {shard}
-- ARGV  1 life after the last entry, ms   2 the same for codes that are not provisioned, ms   3 closeness of refusals, ms
--       4 refusals that are searched
--       then five for each entry: text (JSON), reason of a refusal or '', its first and its last time (ms), its count
-- Returns 'APPENDED'
--#include redis/timeline.lua
local keepMs, unknownKeepMs, windowMs, searched = ARGV[1], ARGV[2], tonumber(ARGV[3]), tonumber(ARGV[4])

local function decoded(text)
  local readable, value = pcall(cjson.decode, text)
  if readable and type(value) == 'table' and type(value.l) == 'number' and type(value.c) == 'number' then return value end
end

-- The new text has address, node and reason; first time and count go on from what is known.
local function countedOn(listKey, text, reason, firstMs, lastMs, count)
  for at, item in ipairs(redis.call('LRANGE', listKey, 0, searched - 1)) do
    local known = decoded(item)
    if known and known.r == reason and firstMs - known.l <= windowMs then
      local entry = cjson.decode(text)
      entry.f = math.min(known.f, firstMs)
      entry.l = math.max(known.l, lastMs)
      entry.c = known.c + count
      redis.call('LSET', listKey, at - 1, cjson.encode(entry))
      return true
    end
  end
  return false
end

for i = 1, #KEYS / 2 do
  local listKey, deviceKey = KEYS[2 * i - 1], KEYS[2 * i]
  local first = 5 * i
  local text, reason = ARGV[first], ARGV[first + 1]
  local counted = reason ~= ''
    and countedOn(listKey, text, reason, tonumber(ARGV[first + 2]), tonumber(ARGV[first + 3]), tonumber(ARGV[first + 4]))
  local lifeMs = redis.call('HEXISTS', deviceKey, 'rev') == 1 and keepMs or unknownKeepMs
  if counted then redis.call('PEXPIRE', listKey, lifeMs) else pushEntry(listKey, text, lifeMs) end
end
return 'APPENDED'
