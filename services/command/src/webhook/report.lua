#!lua
-- Guarantee: an attempt is noted with all that follows from it: the breaker opens after so many failures in a row, each time for twice as long,
--   and of all processes one sees that it opened, or that the webhook was switched off.
-- KEYS  1 webhook  hash {webhooks}   2 log  list {webhooks}   3 due  zset {webhooks}   4 holders  hash {webhooks}
-- ARGV  1 id   2 line of the log, JSON   3 lines kept   4 attempt, JSON   5 'ok', 'failed', 'gone' or 'test' (is only logged)
--       6 rest that the receiver asked for, ms   7 failures that open the breaker   8 first rest, ms   9 longest rest, ms
--       10 share of a rest, by chance   11 failing for so long switches off, ms   12 URL that the request went to
-- Returns {'NOTED'} | {'OPENED', rest, ms} | {'OFF', 'gone' or 'failing'} switched off by this attempt | {'STOP'} it was off, leads elsewhere, or is no more
local webhookKey, logKey, dueKey, holdersKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4]
local id, line, kept, attempt, result = ARGV[1], ARGV[2], tonumber(ARGV[3]), ARGV[4], ARGV[5]
local askedMs, threshold, firstMs, longestMs, share, failingMs =
  tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10]), tonumber(ARGV[11])
--#include lanes.lua
local webhook = redis.call('HMGET', webhookKey, 'spec', 'off', 'failingSince', 'openUntil', 'opens')
if not webhook[1] then return { 'STOP' } end
redis.call('LPUSH', logKey, line)
redis.call('LTRIM', logKey, 0, kept - 1)
if result == 'test' then return { 'NOTED' } end
-- It was changed while the request was on its way: that receiver has no say any more.
if cjson.decode(webhook[1]).url ~= ARGV[12] then return { 'STOP' } end
redis.call('HSET', webhookKey, 'last', attempt)
if result == 'ok' then
  redis.call('HSET', webhookKey, 'okAt', integer(nowMs))
  redis.call('HDEL', webhookKey, 'failures', 'failingSince', 'openUntil', 'opens')
  if webhook[2] then return { 'STOP' } end
  -- Another lane was on its way when the breaker opened, and arrived: the first one need not rest.
  local first = id .. ':0'
  if webhook[4] and redis.call('HEXISTS', holdersKey, first) == 0 then redis.call('ZADD', dueKey, integer(nowMs), first) end
  return { 'NOTED' }
end
local failures = redis.call('HINCRBY', webhookKey, 'failures', 1)
redis.call('HSETNX', webhookKey, 'failingSince', integer(nowMs))
if webhook[2] then return { 'STOP' } end
local since = tonumber(webhook[3] or integer(nowMs))
local off = result == 'gone' and 'gone' or (nowMs - since >= failingMs and 'failing' or nil)
if off then
  redis.call('HSET', webhookKey, 'off', off, 'offAt', integer(nowMs))
  redis.call('HDEL', webhookKey, 'openUntil', 'opens')
  takeAway(id)
  return { 'OFF', off }
end
local openUntil = tonumber(webhook[4] or '0')
local restMs = askedMs
-- What was on its way when the breaker opened says nothing new.
if failures >= threshold and openUntil <= nowMs then
  local opens = redis.call('HINCRBY', webhookKey, 'opens', 1)
  restMs = math.max(restMs, math.min(firstMs * 2 ^ math.min(opens - 1, 30), longestMs) * share)
end
if openUntil > nowMs then restMs = math.max(restMs, openUntil - nowMs) end
if restMs <= 0 then return { 'NOTED' } end
redis.call('HSET', webhookKey, 'openUntil', integer(nowMs + restMs))
return { 'OPENED', integer(restMs) }
