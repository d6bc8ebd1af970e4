#!lua flags=allow-oom
-- Guarantee: only the ownership that is named by node and epoch ends; a late close never takes a newer session offline (I3, protocol D4).
--   The epoch stays in the row (I2). One presence.offline for the ended epoch. allow-oom: a full Redis must not keep devices online.
-- A stale call only cleans the caller's index, and not even that while the row names the caller's node (a newer session on the same node).
-- KEYS  1 device row    hash    {shard}
--       2 owned codes   zset    {shard}  of the releasing node
--       3 events        stream  {shard}
-- ARGV  1 device code   2 node   3 epoch   4 reason, a word of OfflineReason
-- Returns 'RELEASED' | 'STALE'
--#include redis/append-event.lua
local deviceKey, ownedKey, eventsKey = KEYS[1], KEYS[2], KEYS[3]
local code, node, epoch, reason = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local function integer(number)
  return string.format('%.0f', number)
end

-- A damaged row costs the event its tags, never the change itself. Most devices have none.
local function joinedTags(json)
  if not json or json == '[]' then return '' end
  local parsed, tags = pcall(function() return table.concat(cjson.decode(json), ',') end)
  return parsed and tags or ''
end

local events = openEvents(eventsKey)
local row = redis.call('HMGET', deviceKey, 'node', 'epoch', 'session', 'tags')
if row[1] ~= node then
  redis.call('ZREM', ownedKey, code)
  return 'STALE'
end
if row[2] ~= epoch then return 'STALE' end

local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
redis.call('HDEL', deviceKey, 'node', 'session', 'since', 'sub')
redis.call('HSET', deviceKey, 'off', reason, 'offAt', integer(nowMs))
redis.call('ZREM', ownedKey, code)
local offlineData = '{"reason":' .. cjson.encode(reason) .. ',"node":' .. cjson.encode(node) .. '}'
addEvent(events, nowMs, { 'c', code, 'k', 'presence.offline', 'u', '', 't', integer(nowMs), 'e', epoch, 's', row[3] or '', 'n', '0',
  'g', joinedTags(row[4]), 'q', '', 'd', offlineData }, #offlineData)
closeEvents(events)
return 'RELEASED'
