#!lua
-- Guarantee: only the runner with the highest fence changes a job's targets, and only while the job is in the state that it acts for. The
--   counts follow from what the targets were and are, so a change that runs twice counts once. Renews the lease, or gives it back.
-- KEYS  1 job  hash {j:id}   2 targets  hash {j:id}   3 codes  list {j:id}
-- ARGV  1 fence   2 lease, ms (0 = give it back)   3 state that the job must be in, '' = any   4 ms to keep the job ('' = for ever, or as it is)
--       5 number of fields   then field, value …   then index, target …
-- Returns {'APPLIED' | 'REFUSED', lease ends, now, values of the fields of PROGRESS …} | {'FENCED'}      times in ms of Redis time
local jobKey, targetsKey, codesKey = KEYS[1], KEYS[2], KEYS[3]
local fence, leaseMs, required, keepMs, fields = ARGV[1], tonumber(ARGV[2]), ARGV[3], ARGV[4], tonumber(ARGV[5])
local FIRST = 6
-- No fault of the command: it was never made, or its device is away.
local BLAMELESS = { device_unknown = true, device_offline = true }
local ANSWERED = { succeeded = true, failed = true, timed_out = true, unknown = true }
local ENDED = { succeeded = true, failed = true, timed_out = true, unknown = true, expired = true, cancelled = true, skipped = true }

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local function integer(number)
  return string.format('%.0f', number)
end

local PROGRESS = { 'state', 'stopTo', 'reason', 'wave', 'waveStarted', 'roundEnded', 'roundFailed', 'tokens', 'tokensAt', 'retry' }
local untilMs = integer(nowMs + leaseMs)
local function answer(status)
  local reply = { status, untilMs, integer(nowMs) }
  for _, value in ipairs(redis.call('HMGET', jobKey, unpack(PROGRESS))) do reply[#reply + 1] = value or '' end
  return reply
end

local job = redis.call('HMGET', jobKey, 'fence', 'state')
if job[1] ~= fence then return { 'FENCED' } end
redis.call('HSET', jobKey, 'until', untilMs)
if required ~= '' and job[2] ~= required then return answer('REFUSED') end

local counts, returned, ended, failed = {}, 0, 0, 0
local function count(state, by)
  counts[state] = (counts[state] or 0) + by
end
for i = FIRST + 2 * fields, #ARGV, 2 do
  local index, target = ARGV[i], ARGV[i + 1]
  local before = string.match(redis.call('HGET', targetsKey, index) or 'todo', '^[^,]+')
  local after, reason = string.match(target, '^([^,]+),[^,]*,[^,]*,([^,]*)')
  redis.call('HSET', targetsKey, index, target)
  if before ~= after then
    count(before, -1)
    count(after, 1)
    if after == 'todo' and not ENDED[before] then returned = returned + 1 end
    if ANSWERED[after] and not ENDED[before] and not BLAMELESS[reason] then
      ended = ended + 1
      if after ~= 'succeeded' then failed = failed + 1 end
    end
  end
end
for state, by in pairs(counts) do
  if by ~= 0 then redis.call('HINCRBY', jobKey, 'n:' .. state, by) end
end
if fields > 0 then redis.call('HSET', jobKey, unpack(ARGV, FIRST, FIRST + 2 * fields - 1)) end
if returned > 0 then redis.call('HINCRBY', jobKey, 'waveStarted', -returned) end
if ended > 0 then redis.call('HINCRBY', jobKey, 'roundEnded', ended) end
if failed > 0 then redis.call('HINCRBY', jobKey, 'roundFailed', failed) end
if keepMs ~= '' then
  for _, key in ipairs(KEYS) do redis.call('PEXPIRE', key, keepMs) end
end
return answer('APPLIED')
