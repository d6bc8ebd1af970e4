#!lua
-- Guarantee: each claim that is let through gets an epoch of its own, above every earlier one of this device, also after Redis lost its
--   last writes or its clock went back (I1, I2). A nonce serves once per DeviceCode (protocol F9). Owner, index and presence change in
--   one step: one presence.online for the new epoch, one presence.offline (superseded) for an epoch that this claim ends (protocol D5).
-- A refused claim changes no owner and uses up no nonce; the one that begins a hold-down (protocol D8) notes it and appends its alarm, and
--   those that it refuses are told nowhere. A quarantine, which release.lua begins, refuses also while nobody owns the device.
-- KEYS  1 device row       hash    {shard}
--       2 used nonce       string  {shard}
--       3 owned codes      zset    {shard}  of the claiming node
--       4 events           stream  {shard}
--       5 lane             hash    {shard}  exists while a command waits or is out
-- ARGV  1 device code   2 node   3 session   4 revision that verified the Sign   5 not after, ms of Redis time   6 nonce TTL, ms
--       7 address   8 vendor   9 device type   10 algorithm   11 data of presence.online, JSON
--       12 take-overs per window   13 window, ms   14 hold-down, ms   15 quarantine, ms
-- Returns {'CLAIMED', epoch, lane busy (1 0)} | the same and {…, previous node, its epoch, its session, since when in ms}
--   | {'HELD', ms, reason} | {'STALE'} | {'REPLAYED'} | {'LATE'}
--#include redis/append-event.lua
--#include presence.lua
local deviceKey, nonceKey, ownedKey, eventsKey, laneKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5]
local code, node, session, revision = ARGV[1], ARGV[2], ARGV[3], ARGV[4]
local notAfterMs, nonceTtlMs = tonumber(ARGV[5]), ARGV[6]
local address, vendor, deviceType, algorithm, onlineData = ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11]
local takeOverLimit, windowMs, holdMs, quarantineMs = ARGV[12], ARGV[13], ARGV[14], ARGV[15]

local events = openEvents(eventsKey)
local time = redis.call('TIME')
local nowUs = tonumber(time[1]) * 1000000 + tonumber(time[2])
local nowMs = math.floor(nowUs / 1000)
if nowMs > notAfterMs then return { 'LATE' } end

local row = redis.call('HMGET', deviceKey, 'rev', 'enabled', 'epoch', 'node', 'session', 'since', 'tags', 'fw', 'hu', 'sub',
  'hk', 'addr')
if row[1] ~= revision or row[2] ~= '1' then return { 'STALE' } end
local oldEpoch, oldNode, oldSession, oldSince = row[3], row[4], row[5] or '', row[6] or ''

local last = tonumber(oldEpoch or '0')
local epoch = math.max(last + 1, nowUs)
-- Above 2^53 adding 1 changes nothing, and two ownerships would share an epoch (I1).
if epoch <= last then return redis.error_reply('EPOCH no higher epoch left for ' .. code) end

local epochText, nowText = integer(epoch), integer(nowMs)

local heldUntilMs, heldFor = tonumber(row[9] or '0'), row[11] or 'flapping'
-- An end that is further away than any hold lasts was written before the clock went back, and would keep the device away for as long.
local lasts = nowMs < heldUntilMs and heldUntilMs - nowMs <= math.max(tonumber(holdMs), tonumber(quarantineMs))
local held = lasts and (oldNode or heldFor == 'quarantined')
-- Before the guard: a replay must not count as a take-over.
if (oldNode or held) and redis.call('EXISTS', nonceKey) == 1 then return { 'REPLAYED' } end
if held then return { 'HELD', integer(heldUntilMs - nowMs), heldFor } end
local tags = joinedTags(row[7])

if oldNode then
  local recent, addresses, known, stretches, before = {}, {}, {}, 0, nil
  local function count(takeOver, by)
    recent[#recent + 1] = takeOver
    if by ~= before then stretches = stretches + 1 end
    if not known[by] then addresses[#addresses + 1] = by end
    known[by], before = true, by
  end
  for at, by in string.gmatch(row[8] or '', '(%d+)@([^,]*)') do
    if tonumber(at) > nowMs - tonumber(windowMs) and tonumber(at) <= nowMs then count(at .. '@' .. by, by) end
  end
  count(nowText .. '@' .. address, address)
  if #recent > tonumber(takeOverLimit) then
    -- One address that came back after another: two devices with one code. One device that moves does not do that.
    local reason, untilMs = stretches > #addresses and 'conflict' or 'flapping', nowMs + tonumber(holdMs)
    redis.call('HDEL', deviceKey, 'fw')
    redis.call('HSET', deviceKey, 'hu', integer(untilMs), 'hk', reason, 'ha', table.concat(addresses, ','))
    local data = string.format('{"takeOvers":%d,"windowSeconds":%.14g,"heldUntil":"%s","address":%s,"incumbentAddress":%s,"addresses":%s}',
      #recent, tonumber(windowMs) / 1000, timeText(untilMs), cjson.encode(address), cjson.encode(row[12] or ''), cjson.encode(addresses))
    addEvent(events, nowMs, { 'c', code, 'k', 'device.' .. reason, 'u', '', 't', nowText, 'e', oldEpoch, 's', oldSession, 'n', '0',
      'g', tags, 'q', '', 'd', data }, #data)
    closeEvents(events)
    return { 'HELD', holdMs, reason }
  end
  redis.call('HSET', deviceKey, 'fw', table.concat(recent, ','))
end

if not redis.call('SET', nonceKey, '1', 'PX', nonceTtlMs, 'NX') then return { 'REPLAYED' } end
redis.call('HSET', deviceKey, 'node', node, 'epoch', epochText, 'session', session, 'since', nowText,
  'addr', address, 'vendor', vendor, 'kind', deviceType, 'algo', algorithm)
if row[10] then redis.call('HDEL', deviceKey, 'sub') end
if row[9] and not lasts then redis.call('HDEL', deviceKey, 'hu', 'hk', 'ha') end
redis.call('PERSIST', deviceKey)
redis.call('ZADD', ownedKey, 0, code)
if oldNode then
  local offlineData = '{"reason":"superseded","node":' .. cjson.encode(oldNode) .. '}'
  addEvent(events, nowMs, { 'c', code, 'k', 'presence.offline', 'u', '', 't', nowText, 'e', oldEpoch, 's', oldSession, 'n', '0', 'g', tags,
    'q', '', 'd', offlineData }, #offlineData)
end
addEvent(events, nowMs, { 'c', code, 'k', 'presence.online', 'u', '', 't', nowText, 'e', epochText, 's', session, 'n', '0', 'g', tags,
  'q', '', 'd', onlineData }, #onlineData)
closeEvents(events)
local laneBusy = redis.call('EXISTS', laneKey)
if not oldNode then return { 'CLAIMED', epochText, laneBusy } end
return { 'CLAIMED', epochText, laneBusy, oldNode, oldEpoch, oldSession, oldSince }
