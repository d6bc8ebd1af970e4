#!lua
-- Guarantee: a command is accepted once (by id, and by Idempotency-Key for its time), within the limits of its lane, at the end of its lane, or
--   not at all. Direct ones are recorded as sent by the caller. What a refusal leaves behind: nothing.
-- KEYS, ARGV 1–4: see lane.lua, and KEYS 9 history  zset  {shard}
-- ARGV  5 id   6 mode   7 lane (n u)   8 method   9 url   10 body   11 timeout, ms   12 deadline   13 not before ('' = at once)
--       14 attempts allowed   15 backoff, ms   16 coalesce key   17 hash of the idempotency key   18 hash of the request   19 API key   20 job
--       21 retry of   22 who waits   23 commands per lane   24 bytes per device   25 length of the history   26 its life, ms   27 life of the key at least, ms
--       28 end of a direct call ('' in queue mode)
-- Returns {'ACCEPTED', state, node, epoch, timer, ended} | {'REPEATED', id, state} | {'CONFLICT', id} | {'FULL', 'commands' | 'bytes'}
--   | {'UNKNOWN'} | {'EXPIRED'} | {'LATE'}
--#include lane.lua
local historyKey = KEYS[9]
local id, mode, laneName, method, url, body, timeoutMs, expiresAt, notBefore =
  ARGV[5], ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13]
local maxAttempts, backoff, coalesceKey, idempotencyHash, requestHash, keyId, job, retryOf, replyTo =
  ARGV[14], ARGV[15], ARGV[16], ARGV[17], ARGV[18], ARGV[19], ARGV[20], ARGV[21], ARGV[22]
local maxCommands, maxBytes, historyLength, historyMs, idempotencyMs =
  tonumber(ARGV[23]), tonumber(ARGV[24]), tonumber(ARGV[25]), tonumber(ARGV[26]), tonumber(ARGV[27])
local directUntil = ARGV[28]
local isDirect = mode ~= 'queue'

if isLate then return { 'LATE' } end
if not provisioned then return { 'UNKNOWN' } end
local known = redis.call('HGET', recordKey(id), 'st')
if known then return { 'REPEATED', id, known } end
local idempotencyKey = prefix .. 'idem:' .. code .. ':' .. idempotencyHash
if idempotencyHash ~= '' then
  local earlierId, earlierHash = string.match(redis.call('GET', idempotencyKey) or '', '^(%w+) (%w+)$')
  local earlierState = earlierId and redis.call('HGET', recordKey(earlierId), 'st')
  if earlierState then
    if earlierHash ~= requestHash then return { 'CONFLICT', earlierId } end
    return { 'REPEATED', earlierId, earlierState }
  end
end
-- Who has no room for anything only asks whether it was accepted before.
if maxCommands == 0 then return { 'FULL', 'commands' } end
if tonumber(expiresAt) <= nowMs then return { 'EXPIRED' } end

local rq = table.concat({ mode, laneName, method, url, #body + #url, nowText, expiresAt, notBefore, timeoutMs, maxAttempts, backoff,
  coalesceKey, idempotencyHash, keyId, job, retryOf, replyTo, code, '' }, '\n')
local record = withCore({ k = 0, n = 0, w = 0, ep = '' }, rq)
-- What is due comes first: it has an older right to the next place, or none any more to its own.
tidy()
local limit = not isDirect and makeRoom(record, maxCommands, maxBytes)
if limit then
  rest()
  return { 'FULL', limit }
end
-- A command that still waits must never be taken for a new one (I7).
local keyLifeMs = integer(math.max(idempotencyMs, tonumber(expiresAt) - nowMs))
if idempotencyHash ~= '' then redis.call('SET', idempotencyKey, id .. ' ' .. requestHash, 'PX', keyLifeMs) end
local waits = notBefore ~= '' and tonumber(notBefore) > nowMs
if isDirect then
  -- The caller is about to write it, and may die while it does.
  record.k, record.n, record.w, record.ep = 1, 1, 1, '0'
  redis.call('HSET', recordKey(id), 'st', 'sent', 'rq', rq, 'b', body, 'k', 1, 'n', 1, 'w', 1, 'ep', '0', 'sa', nowText)
  takeOff('d', '0', id, tonumber(directUntil))
else
  record.pl = waits and -nextPlace() or nextPlace()
  redis.call('HSET', recordKey(id), 'st', 'queued', 'rq', rq, 'b', body, 'n', 0, 'w', 0, 'pl', record.pl)
  enterLane(id, record)
  if waits then redis.call('ZADD', clockKey, notBefore, 'n' .. id) end
end
redis.call('ZADD', historyKey, nowText, id)
if redis.call('ZCARD', historyKey) > historyLength then redis.call('ZREMRANGEBYRANK', historyKey, 0, -historyLength - 1) end
if redis.call('PTTL', historyKey) < historyMs - 3600000 then redis.call('PEXPIRE', historyKey, historyMs) end
local state = isDirect and 'sent' or 'queued'
announce(id, record, state)
local _, timer = rest(waits and 'always' or 'unwatched')
return { 'ACCEPTED', state, node or '', epoch, timer, ended }
