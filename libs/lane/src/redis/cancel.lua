#!lua flags=allow-oom
-- Guarantee: only what waits is cancelled; what is out or has ended stays as it is.
-- KEYS, ARGV 1–4: see lane.lua
-- ARGV  5 id
-- Returns {'CANCELLED', ended} | {'NOT_QUEUED', state} | {'GONE'} | {'LATE'}
--#include lane.lua
local id = ARGV[5]
if isLate then return { 'LATE' } end
local record = load(id)
if not record then return { 'GONE' } end
if record.st ~= 'queued' then return { 'NOT_QUEUED', record.st } end
endWaiting(id, record, 'cancelled', 'cancelled')
lapse()
rest()
return { 'CANCELLED', ended }
