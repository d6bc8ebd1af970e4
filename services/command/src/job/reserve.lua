#!lua
-- Guarantee: at most one job per Idempotency-Key while that job is listed, and at most so many active jobs. A job that is reserved but never
--   opened (its creator died) is looked at when its score has come.
-- KEYS  1 all  zset {jobs}   2 active  zset {jobs}   3 key  string {jobs}
-- ARGV  1 job id   2 hash of the request, '' without a key   3 life of the key, ms   4 active jobs allowed   5 jobs kept
--       6 ms until somebody looks whether it was opened
-- Returns {'RESERVED', now in ms, ids that fell out of the list …} | {'REPEATED', id} | {'CONFLICT', id} | {'FULL'}
local allKey, activeKey, idempotencyKey = KEYS[1], KEYS[2], KEYS[3]
local id, requestHash, keyMs, maxActive, kept, openMs = ARGV[1], ARGV[2], ARGV[3], tonumber(ARGV[4]), tonumber(ARGV[5]), tonumber(ARGV[6])
-- Of those that fall out at a time; the rest with the next job.
local PRUNED = 20

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function integer(number)
  return string.format('%.0f', number)
end

if requestHash ~= '' then
  local earlierId, earlierHash = string.match(redis.call('GET', idempotencyKey) or '', '^(%w+) (%w+)$')
  if earlierId and redis.call('ZSCORE', allKey, earlierId) then
    if earlierHash ~= requestHash then return { 'CONFLICT', earlierId } end
    return { 'REPEATED', earlierId }
  end
end
if redis.call('ZCARD', activeKey) >= maxActive then return { 'FULL' } end

if requestHash ~= '' then redis.call('SET', idempotencyKey, id .. ' ' .. requestHash, 'PX', keyMs) end
redis.call('ZADD', allKey, integer(nowMs), id)
redis.call('ZADD', activeKey, integer(nowMs + openMs), id)
local reply = { 'RESERVED', integer(nowMs) }
local excess = redis.call('ZCARD', allKey) - kept
if excess > 0 then
  -- Active ones stay, whatever their age.
  for _, oldest in ipairs(redis.call('ZRANGE', allKey, 0, math.min(excess, PRUNED) + maxActive - 1)) do
    if #reply - 2 >= math.min(excess, PRUNED) then break end
    if not redis.call('ZSCORE', activeKey, oldest) then
      redis.call('ZREM', allKey, oldest)
      reply[#reply + 1] = oldest
    end
  end
end
return reply
