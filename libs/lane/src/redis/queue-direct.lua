#!lua
-- Guarantee: a direct call that was certainly not written becomes a waiting command at the end of its lane, or, where there is no room, ends as
--   failed with its Idempotency-Key free again.
-- KEYS, ARGV 1–5: see lane.lua
-- ARGV  6 id   7 commands per lane   8 bytes per device
-- Returns as submit.lua
--#include lane.lua
local id, maxCommands, maxBytes = ARGV[6], tonumber(ARGV[7]), tonumber(ARGV[8])
local record = load(id)
if not record then return { 'EXPIRED' } end
if record.st ~= 'sent' or record.md ~= 'direct-then-queue' or record.ep ~= '0' then return { 'REPEATED', id, record.st } end
land(id)
record.n, record.w, record.ep = '0', '0', ''
redis.call('HSET', recordKey(id), 'n', '0', 'w', '0', 'ep', '')
redis.call('HDEL', recordKey(id), 'sa')

local refusal
if tonumber(record.exp) <= nowMs then
  finish(id, record, 'expired', 'no', 'expired')
  refusal = { 'EXPIRED' }
else
  local count = tonumber(redis.call('HGET', laneKey, record.ln) or '0')
  local used = tonumber(redis.call('HGET', laneKey, 'bytes') or '0')
  local limit = count >= maxCommands and 'commands' or (used + tonumber(record.bb) > maxBytes and 'bytes')
  if limit then
    finish(id, record, 'failed', 'no', 'lane_full')
    if record.ik ~= '' then redis.call('DEL', prefix .. 'idem:' .. code .. ':' .. record.ik) end
    refusal = { 'FULL', limit }
  end
end
if refusal then
  rest(lapse())
  return refusal
end

if record.ck ~= '' then
  local replacedId = redis.call('HGET', laneKey, coalesceField(record))
  local replaced = replacedId and load(replacedId)
  if replaced and replaced.st == 'queued' then endWaiting(replacedId, replaced, 'cancelled', 'superseded') end
end
record.pl = integer(redis.call('HINCRBY', laneKey, 'seq', 1))
redis.call('HSET', recordKey(id), 'st', 'queued', 'pl', record.pl, 'at', integer(nowMs))
enterLane(id, record)
announce(id, record, 'queued')
local _, timer = rest(lapse())
return { 'ACCEPTED', 'queued', node or '', epoch, timer, ended }
