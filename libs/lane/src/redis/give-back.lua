#!lua flags=allow-oom
-- Guarantee: an attempt that was certainly not written is undone: the command is queued again at its place, or expired; the attempt does not
--   count. Only for the epoch and attempt that it belongs to (I3).
-- KEYS, ARGV 1–4: see lane.lua
-- ARGV  5 id   6 epoch   7 number of the begin
-- Returns {'SETTLED', state, '0', ended} | {'REQUEUED', '0', ended} | {'STALE'}
--#include lane.lua
local id, attemptEpoch, attempt = ARGV[5], ARGV[6], ARGV[7]
local record = load(id)
if not record or record.st ~= 'sent' or record.ep ~= attemptEpoch or record.k ~= tonumber(attempt) then return { 'STALE' } end
land(id)
record.n = record.n - 1
record.w = record.w - 1
if tonumber(record.exp) <= nowMs then
  finish(id, record, 'expired', executedUnsent(record), 'expired')
else
  requeue(id, record, nowMs, 'not_written')
end
lapse()
rest()
if record.st == 'queued' then return { 'REQUEUED', '0', ended } end
return { 'SETTLED', record.st, '0', ended }
