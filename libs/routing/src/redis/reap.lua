#!lua flags=allow-oom
-- Guarantee: of the given devices exactly those whose row still names the dead incarnation go offline (node_lost), each with one
--   presence.offline for its epoch; a device that was claimed meanwhile is only taken off the dead node's index (I3). The epoch stays
--   in the row (I2). Safe to run by many at once. allow-oom: a full Redis must not keep devices online.
-- Only for an incarnation whose lease ended. The lease lies in another slot, so this script cannot look; a lapsed lease never comes back.
-- KEYS  1 owned codes    zset    {shard}  of the dead incarnation
--       2 events         stream  {shard}
--       3… device rows   hash    {shard}  in the order of the codes
-- ARGV  1 node   2… device codes
-- Returns {'REAPED', devices turned offline, codes left in the index}
--#include redis/append-event.lua
local ownedKey, eventsKey = KEYS[1], KEYS[2]
local node = ARGV[1]

local function integer(number)
  return string.format('%.0f', number)
end

-- A damaged row costs the event its tags, never the change itself. Most devices have none.
local function joinedTags(json)
  if not json or json == '[]' then return '' end
  local parsed, tags = pcall(function() return table.concat(cjson.decode(json), ',') end)
  return parsed and tags or ''
end

local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
local offlineData = '{"reason":"node_lost","node":' .. cjson.encode(node) .. '}'
local offline = 0
local events = openEvents(eventsKey)
for i = 3, #KEYS do
  local deviceKey, code = KEYS[i], ARGV[i - 1]
  local row = redis.call('HMGET', deviceKey, 'node', 'epoch', 'session', 'tags')
  if row[1] == node then
    redis.call('HDEL', deviceKey, 'node', 'session', 'since', 'sub')
    redis.call('HSET', deviceKey, 'off', 'node_lost', 'offAt', integer(nowMs))
    addEvent(events, nowMs, { 'c', code, 'k', 'presence.offline', 'u', '', 't', integer(nowMs), 'e', row[2], 's', row[3] or '', 'n', '0',
      'g', joinedTags(row[4]), 'q', '', 'd', offlineData }, #offlineData)
    offline = offline + 1
  end
  redis.call('ZREM', ownedKey, code)
end
if offline > 0 then closeEvents(events) end
return { 'REAPED', offline, redis.call('ZCARD', ownedKey) }
