#!lua flags=allow-oom
-- Guarantee: the point of no return (I7). Only the owner of the current epoch gets a command, only the head of the lane (I6), only inside the
--   window, only before its deadline; from here on it counts as written until the caller gives it back. What is out under older epochs has
--   been given up before (I3).
-- KEYS, ARGV 1–4: see lane.lua
-- ARGV  5 lane (n u)   6 node   7 epoch   8 window
-- Returns {'BEGUN', id, number of the begin, method, url, body, ms left, ended, commands that still wait in this lane, attempts that may be written, this one included} | {'IDLE', ms until something may start ('' = not by time), ended} | {'BUSY', ended}
--   | {'FENCED'} | {'LATE'}
--#include lane.lua
local laneName, callerNode, callerEpoch, window = ARGV[5], ARGV[6], ARGV[7], tonumber(ARGV[8])
if isLate then return { 'LATE' } end
if node ~= callerNode or epoch ~= callerEpoch then return { 'FENCED' } end
tidy()
if outOf(laneName) >= window then
  rest()
  return { 'BUSY', ended }
end

local id, record
repeat
  id = redis.call('ZRANGE', LANE_KEYS[laneName], 0, 0)[1]
  record = id and load(id)
  local passedOver = false
  if id and (not record or record.st ~= 'queued') then
    -- Lost with the store's last writes, or a lane that came back older than its record.
    redis.call('ZREM', LANE_KEYS[laneName], id)
    passedOver = true
  elseif record and tonumber(record.exp) <= nowMs then
    endWaiting(id, record, 'expired', 'expired')
    passedOver = true
  end
until not passedOver

if not record or record.rt > nowMs then
  rest()
  return { 'IDLE', record and integer(record.rt - nowMs) or '', ended }
end

leaveLane(id, record)
record.n = record.n + 1
-- Never given out again, also after a give-back: what a stale node still says about an attempt must not meet a later one (I3).
record.k = record.k + 1
record.w = record.w + 1
record.ep = epoch
-- No answer is awaited beyond the deadline (I4).
local dueMs = math.min(nowMs + tonumber(record.to), tonumber(record.exp))
redis.call('HSET', recordKey(id), 'st', 'sent', 'k', record.k, 'n', record.n, 'w', record.w, 'ep', epoch, 'sa', nowText, 'rc', '')
takeOff(laneName, epoch, id, dueMs)
announce(id, record, 'sent')
rest()
return { 'BEGUN', id, record.k, record.m, record.u, redis.call('HGET', recordKey(id), 'b'), integer(dueMs - nowMs), ended, lane[laneName], record.w }
