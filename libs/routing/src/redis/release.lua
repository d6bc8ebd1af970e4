#!lua flags=allow-oom
-- Guarantee: only the ownership that is named by node and epoch ends; a late close never takes a newer session offline (I3, protocol D4).
--   The epoch stays in the row (I2). One presence.offline for the ended epoch. allow-oom: a full Redis must not keep devices online.
--   More ends for misbehaviour than are let through within the window begin a quarantine: it is noted and told in the same step.
-- A stale call only cleans the caller's index, and not even that while the row names the caller's node (a newer session on the same node).
-- KEYS  1 device row    hash    {shard}
--       2 owned codes   zset    {shard}  of the releasing node
--       3 events        stream  {shard}
-- ARGV  1 device code   2 node   3 epoch   4 reason, a word of OfflineReason   5 misbehaviour (1 0)   6 such ends per window   7 window, ms
--       8 quarantine, ms
-- Returns 'RELEASED' | 'QUARANTINED' | 'STALE'
--#include redis/append-event.lua
--#include presence.lua
local deviceKey, ownedKey, eventsKey = KEYS[1], KEYS[2], KEYS[3]
local code, node, epoch, reason, misbehaved = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local endLimit, windowMs, holdMs = tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8])

local events = openEvents(eventsKey)
local row = redis.call('HMGET', deviceKey, 'node', 'epoch', 'session', 'tags', 'bad', 'addr')
if row[1] ~= node then
  redis.call('ZREM', ownedKey, code)
  return 'STALE'
end
if row[2] ~= epoch then return 'STALE' end

local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
local nowText, session, tags, address = integer(nowMs), row[3] or '', joinedTags(row[4]), row[6] or ''
local ends = {}
if misbehaved == '1' then
  for at in string.gmatch(row[5] or '', '%d+') do
    if tonumber(at) > nowMs - windowMs and tonumber(at) <= nowMs then ends[#ends + 1] = at end
  end
  ends[#ends + 1] = nowText
end
local quarantined, untilMs = #ends > endLimit, nowMs + holdMs
local offReason = quarantined and 'quarantined' or reason

redis.call('HDEL', deviceKey, 'node', 'session', 'since', 'sub')
redis.call('HSET', deviceKey, 'off', offReason, 'offAt', nowText)
if quarantined then
  redis.call('HDEL', deviceKey, 'bad')
  redis.call('HSET', deviceKey, 'hu', integer(untilMs), 'hk', 'quarantined', 'ha', address)
elseif #ends > 0 then
  redis.call('HSET', deviceKey, 'bad', table.concat(ends, ','))
end
redis.call('ZREM', ownedKey, code)
local function tell(kind, data)
  addEvent(events, nowMs, { 'c', code, 'k', kind, 'u', '', 't', nowText, 'e', epoch, 's', session, 'n', '0', 'g', tags, 'q', '', 'd', data }, #data)
end
tell('presence.offline', '{"reason":' .. cjson.encode(offReason) .. ',"node":' .. cjson.encode(node) .. '}')
if quarantined then
  tell('device.quarantined', string.format('{"reason":%s,"ends":%d,"windowSeconds":%.14g,"heldUntil":"%s","address":%s}',
    cjson.encode(reason), #ends, windowMs / 1000, timeText(untilMs), cjson.encode(address)))
end
closeEvents(events)
return quarantined and 'QUARANTINED' or 'RELEASED'
