#!lua flags=allow-oom
-- Guarantee: the end of one attempt counts once, and only for the epoch and attempt that it belongs to (I3). A repeatable command whose answer
--   did not come waits again at its place; every other one ends. An answer that comes late makes a guess true.
-- KEYS, ARGV 1–4: see lane.lua
-- ARGV  5 id   6 epoch   7 number of the begin   8 kind (answered timed_out lost refused)   9 success (1 0)   10 response code   11 response   12 reason
--       13 ms after its end in which an answer is taken   14 bytes kept in the record   15 life of a larger response, ms
-- Returns {'SETTLED', state, late (1 0), ended} | {'REQUEUED', ms until the next attempt, ended} | {'STALE'}
--#include lane.lua
local id, attemptEpoch, attempt, kind, isSuccess, responseCode, response, reason =
  ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9] == '1', ARGV[10], ARGV[11], ARGV[12]
local lateMs, inlineBytes, resultMs = tonumber(ARGV[13]), tonumber(ARGV[14]), ARGV[15]

local record = load(id)
if not record or record.ep ~= attemptEpoch or record.k ~= tonumber(attempt) then return { 'STALE' } end
local isOut = record.st == 'sent'
local isLateAnswer = kind == 'answered' and (record.st == 'timed_out' or record.st == 'unknown') and nowMs <= record.ea + lateMs
if not isOut and not isLateAnswer then return { 'STALE' } end

if kind == 'answered' then
  record.st = isSuccess and 'succeeded' or 'failed'
  local why = isSuccess and '' or 'device_error'
  local isInline = #response <= inlineBytes
  redis.call('HSET', recordKey(id), 'st', record.st, 'ex', 'yes', 'rc', why, 'cd', responseCode, 'rb', #response, 'ea', nowText,
    'res', isInline and response or '', 'lt', isOut and '' or '1')
  redis.call('PEXPIRE', recordKey(id), keepMs)
  if not isInline then redis.call('SET', prefix .. 'result:' .. id, response, 'PX', resultMs) end
  announce(id, record, record.st, 'yes', why, not isOut, responseCode)
  ended[#ended + 1] = { id, record.st, record.rp }
  if isOut then land(id) end
elseif kind == 'refused' then
  land(id)
  record.w = record.w - 1
  finish(id, record, 'failed', executedUnsent(record), reason)
  -- Nothing happened: the caller of a direct call may come again under the same key.
  if attemptEpoch == '0' and record.ik ~= '' then freeIdempotencyKey(id, record) end
elseif kind == 'timed_out' then
  giveUp(id, record, 'timed_out', 'timeout')
else
  giveUp(id, record, 'unknown', reason)
end
lapse()
rest()
if record.st == 'queued' then return { 'REQUEUED', integer(math.max(0, record.rt - nowMs)), ended } end
return { 'SETTLED', record.st, isOut and '0' or '1', ended }
