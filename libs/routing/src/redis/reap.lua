#!lua flags=allow-oom
-- Guarantee: of the given devices exactly those whose row still names the dead incarnation go offline (node_lost), each with one
--   presence.offline for its epoch; a device that was claimed meanwhile is only taken off the dead node's index (I3). The epoch stays
--   in the row (I2). Safe to run by many at once. allow-oom: a full Redis must not keep devices online.
-- Only for an incarnation whose lease ended. The lease lies in another slot, so this script cannot look; a lapsed lease never comes back.
-- KEYS  1 owned codes    zset    {shard}  of the dead incarnation
--       2 events         stream  {shard}
--       then two for each device: its row, hash {shard}; its timeline, list {shard}
-- ARGV  1 node   2 life of a timeline after its last entry, ms; 0 = none is kept   3… device codes
-- Returns {'REAPED', devices turned offline, codes left in the index}
--#include redis/append-event.lua
--#include redis/timeline.lua
--#include presence.lua
local ownedKey, eventsKey = KEYS[1], KEYS[2]
local node, keepTimelineMs = ARGV[1], ARGV[2]

-- What the node itself would have written, as far as the row knows it.
local function lostSession(row, endedMs)
  return string.format('{"s":%s,"n":%s,"e":%s,"a":%s,"o":%s,"x":%s,"r":"node_lost"}', cjson.encode(row[3] or ''), cjson.encode(node),
    row[2], cjson.encode(row[6] or ''), row[5] or '0', integer(endedMs))
end

local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
local offlineData = '{"reason":"node_lost","node":' .. cjson.encode(node) .. '}'
local offline = 0
local events = openEvents(eventsKey)
for i = 1, #ARGV - 2 do
  local deviceKey, timelineKey, code = KEYS[2 * i + 1], KEYS[2 * i + 2], ARGV[i + 2]
  local row = redis.call('HMGET', deviceKey, 'node', 'epoch', 'session', 'tags', 'since', 'addr')
  if row[1] == node then
    redis.call('HDEL', deviceKey, 'node', 'session', 'since', 'sub')
    redis.call('HSET', deviceKey, 'off', 'node_lost', 'offAt', integer(nowMs))
    addEvent(events, nowMs, { 'c', code, 'k', 'presence.offline', 'u', '', 't', integer(nowMs), 'e', row[2], 's', row[3] or '', 'n', '0',
      'g', joinedTags(row[4]), 'q', '', 'd', offlineData }, #offlineData)
    if keepTimelineMs ~= '0' then pushEntry(timelineKey, lostSession(row, nowMs), keepTimelineMs) end
    offline = offline + 1
  end
  redis.call('ZREM', ownedKey, code)
end
if offline > 0 then closeEvents(events) end
return { 'REAPED', offline, redis.call('ZCARD', ownedKey) }
