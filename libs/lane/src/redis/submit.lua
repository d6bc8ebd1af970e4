#!lua
-- Guarantee: a command is accepted once (by id, and by Idempotency-Key for its time), within the limits of its lane, at the end of its lane, or
--   not at all. Direct ones are recorded as sent by the caller. What a refusal leaves behind: nothing.
-- KEYS, ARGV 1–5: see lane.lua, and KEYS 10 history  zset  {shard}
-- ARGV  6 id   7 mode   8 lane (n u)   9 method   10 url   11 body   12 timeout, ms   13 deadline   14 not before ('' = at once)
--       15 attempts allowed   16 backoff, ms   17 coalesce key   18 hash of the idempotency key   19 hash of the request   20 API key   21 job
--       22 retry of   23 who waits   24 commands per lane   25 bytes per device   26 length of the history   27 its life, ms   28 life of the key, ms
--       29 end of a direct call ('' in queue mode)
-- Returns {'ACCEPTED', state, node, epoch, timer, ended} | {'REPEATED', id, state} | {'CONFLICT', id} | {'FULL', 'commands' | 'bytes'}
--   | {'UNKNOWN'} | {'EXPIRED'} | {'LATE'}
--#include lane.lua
local historyKey = KEYS[10]
local id, mode, lane, method, url, body, timeoutMs, expiresAt, notBefore =
  ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10], ARGV[11], ARGV[12], ARGV[13], ARGV[14]
local maxAttempts, backoff, coalesceKey, idempotencyHash, requestHash, keyId, job, retryOf, replyTo =
  ARGV[15], ARGV[16], ARGV[17], ARGV[18], ARGV[19], ARGV[20], ARGV[21], ARGV[22], ARGV[23]
local maxCommands, maxBytes, historyLength, historyMs, idempotencyMs =
  tonumber(ARGV[24]), tonumber(ARGV[25]), tonumber(ARGV[26]), ARGV[27], ARGV[28]
local directUntil = ARGV[29]
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
if tonumber(expiresAt) <= nowMs then return { 'EXPIRED' } end

local bytes = #body + #url
local record = {
  md = mode, ln = lane, u = url, bb = integer(bytes), exp = expiresAt, n = '0', w = '0', pl = '', ep = '', ck = coalesceKey, job = job, rp = replyTo,
}
local replacedId, replaced
if not isDirect then
  local count = tonumber(redis.call('HGET', laneKey, lane) or '0')
  local used = tonumber(redis.call('HGET', laneKey, 'bytes') or '0')
  if coalesceKey ~= '' then
    replacedId = redis.call('HGET', laneKey, coalesceField(record))
    replaced = replacedId and load(replacedId)
    if replaced and replaced.st ~= 'queued' then replaced = nil end
    if replaced then
      count = count - 1
      used = used - tonumber(replaced.bb)
    end
  end
  if count >= maxCommands then return { 'FULL', 'commands' } end
  if used + bytes > maxBytes then return { 'FULL', 'bytes' } end
end

if replaced then endWaiting(replacedId, replaced, 'cancelled', 'superseded') end
if idempotencyHash ~= '' then redis.call('SET', idempotencyKey, id .. ' ' .. requestHash, 'PX', idempotencyMs) end
local waits = notBefore ~= '' and tonumber(notBefore) > nowMs
local state = isDirect and 'sent' or 'queued'
if isDirect then
  -- The caller is about to write it, and may die while it does.
  record.n, record.w, record.ep = '1', '1', '0'
elseif not waits then
  record.pl = integer(redis.call('HINCRBY', laneKey, 'seq', 1))
end
redis.call('HSET', recordKey(id), 'st', state, 'md', mode, 'ln', lane, 'm', method, 'u', url, 'b', body, 'bb', record.bb, 'at', integer(nowMs),
  'exp', expiresAt, 'nb', notBefore, 'to', timeoutMs, 'ma', maxAttempts, 'bo', backoff, 'n', record.n, 'w', record.w, 'pl', record.pl,
  'ep', record.ep, 'ck', coalesceKey, 'ik', idempotencyHash, 'by', keyId, 'job', job, 'of', retryOf, 'rp', replyTo, 'code', code)
redis.call('ZADD', historyKey, integer(nowMs), id)
redis.call('ZREMRANGEBYRANK', historyKey, 0, -historyLength - 1)
redis.call('PEXPIRE', historyKey, historyMs)
if isDirect then
  redis.call('HSET', recordKey(id), 'sa', integer(nowMs))
  redis.call('HSETNX', laneKey, 'seq', 0)
  redis.call('HSET', flightKey, id, 'd:0')
  redis.call('ZADD', clockKey, integer(tonumber(directUntil) + OVERDUE_GRACE_MS), 'f' .. id)
else
  enterLane(id, record)
  if waits then redis.call('ZADD', clockKey, notBefore, 'n' .. id) end
end
announce(id, record, state)
local _, timer = rest(lapse(), waits)
return { 'ACCEPTED', state, node or '', epoch, timer, ended }
