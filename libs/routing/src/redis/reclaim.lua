#!lua flags=allow-oom
-- Guarantee: a session that survived the fence of its node goes on under a new epoch, unless anybody claimed the device since: the old
--   epoch must still be the row's last one (I3). Presence stays one online and one offline per epoch: the old epoch gets its offline
--   (fenced) here only if neither reaper nor release wrote one. Running twice for one session changes nothing the second time, so a
--   caller whose answer was lost asks again. Refused once its end began a quarantine. allow-oom: what was online before Redis filled up stays online.
-- No not-after: the compare on the epoch makes a late run harmless to every other owner.
-- KEYS  1 device row    hash    {shard}
--       2 owned codes   zset    {shard}  of the fenced incarnation
--       3 owned codes   zset    {shard}  of the new incarnation
--       4 events        stream  {shard}
--       5 lane          hash    {shard}  exists while a command waits or is out
-- ARGV  1 device code   2 fenced node   3 its epoch   4 new node   5 session
-- Returns {'RECLAIMED', epoch, lane busy (1 0)} | {'LOST'}
--#include redis/append-event.lua
--#include presence.lua
local deviceKey, oldOwnedKey, ownedKey, eventsKey, laneKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local code, from, oldEpoch, to, session = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local events = openEvents(eventsKey)
local row = redis.call('HMGET', deviceKey, 'node', 'epoch', 'session', 'rev', 'enabled', 'tags', 'addr', 'hu', 'hk')
local node, epochNow, tags, address = row[1], row[2], joinedTags(row[6]), row[7] or ''
local laneBusy = redis.call('EXISTS', laneKey)
if node == to and row[3] == session then return { 'RECLAIMED', epochNow, laneBusy } end
if epochNow ~= oldEpoch or (node and node ~= from) then return { 'LOST' } end
-- Removed or disabled while its node was away: the row names the fenced node until that one releases or is reaped.
if not row[4] or row[5] ~= '1' then return { 'LOST' } end

local time = redis.call('TIME')
local nowUs = tonumber(time[1]) * 1000000 + tonumber(time[2])
local nowMs = math.floor(nowUs / 1000)
if not node and row[9] == 'quarantined' and nowMs < tonumber(row[8] or '0') then return { 'LOST' } end
local last = tonumber(epochNow)
local epoch = math.max(last + 1, nowUs)
if epoch <= last then return redis.error_reply('EPOCH no higher epoch left for ' .. code) end

redis.call('HSET', deviceKey, 'node', to, 'epoch', integer(epoch), 'session', session, 'since', integer(nowMs))
redis.call('PERSIST', deviceKey)
redis.call('ZREM', oldOwnedKey, code)
redis.call('ZADD', ownedKey, 0, code)
if node then
  local offlineData = '{"reason":"fenced","node":' .. cjson.encode(from) .. '}'
  addEvent(events, nowMs, { 'c', code, 'k', 'presence.offline', 'u', '', 't', integer(nowMs), 'e', oldEpoch, 's', row[3] or '', 'n', '0',
    'g', tags, 'q', '', 'd', offlineData }, #offlineData)
end
local onlineData = '{"node":' .. cjson.encode(to) .. ',"session":' .. cjson.encode(session) .. ',"address":' .. cjson.encode(address) .. '}'
addEvent(events, nowMs, { 'c', code, 'k', 'presence.online', 'u', '', 't', integer(nowMs), 'e', integer(epoch), 's', session, 'n', '0',
  'g', tags, 'q', '', 'd', onlineData }, #onlineData)
closeEvents(events)
return { 'RECLAIMED', integer(epoch), laneBusy }
