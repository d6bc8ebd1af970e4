#!lua
-- Guarantee: a direct call that was certainly not written becomes a waiting command at the end of its lane; or ends: where there is no room as
--   failed with its Idempotency-Key free again, where a command accepted later under its coalesce key waits as superseded.
-- KEYS, ARGV 1–4: see lane.lua
-- ARGV  5 id   6 commands per lane   7 bytes per device
-- Returns as submit.lua
--#include lane.lua
local id, maxCommands, maxBytes = ARGV[5], tonumber(ARGV[6]), tonumber(ARGV[7])
local record = load(id)
if not record then return { 'EXPIRED' } end
if record.st ~= 'sent' or record.md ~= 'direct-then-queue' or record.ep ~= '0' then return { 'REPEATED', id, record.st } end
land(id)
record.n, record.w, record.ep = 0, 0, ''
redis.call('HDEL', recordKey(id), 'sa')

tidy()

local refusal
local _, rival = rivalOf(record)
if tonumber(record.exp) <= nowMs then
  finish(id, record, 'expired', 'no', 'expired')
  refusal = { 'EXPIRED' }
elseif not provisioned then
  finish(id, record, 'cancelled', 'no', 'device_removed')
  refusal = { 'REPEATED', id, 'cancelled' }
elseif rival and tonumber(rival.at) > tonumber(record.at) then
  finish(id, record, 'cancelled', 'no', 'superseded')
  refusal = { 'REPEATED', id, 'cancelled' }
else
  local limit = makeRoom(record, maxCommands, maxBytes)
  if limit then
    finish(id, record, 'failed', 'no', 'lane_full')
    if record.ik ~= '' then freeIdempotencyKey(id, record) end
    refusal = { 'FULL', limit }
  end
end
if refusal then
  redis.call('HSET', recordKey(id), 'ep', '')
  rest()
  return refusal
end

record.pl = nextPlace()
redis.call('HSET', recordKey(id), 'st', 'queued', 'n', 0, 'w', 0, 'ep', '', 'pl', record.pl)
enterLane(id, record)
announce(id, record, 'queued')
local _, timer = rest('unwatched')
return { 'ACCEPTED', 'queued', node or '', epoch, timer, ended }
