#!lua flags=allow-oom
-- Guarantee: never more permits than events may be out. One that is not given back lapses when its event is handed out again.
--   Nothing is left of a group that nobody pulls any more.
-- KEYS  1 permits  zset {g:<key>}
-- ARGV  1 wanted   2 allowed in all   3 life, ms   4 how the names begin
-- Returns {how many were given, named <beginning>1 and so on; ms until the next one lapses, when none was given}
local wanted, allowed, lifeMs, beginning = tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3]), ARGV[4]
local LIFE_MS = 3600000
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', nowMs)
local given = math.min(wanted, allowed - redis.call('ZCARD', KEYS[1]))
for i = 1, given do redis.call('ZADD', KEYS[1], nowMs + lifeMs, beginning .. i) end
if given > 0 then
  -- Longer than any hand-out may be extended.
  redis.call('PEXPIRE', KEYS[1], LIFE_MS)
  return { given, 0 }
end
local first = tonumber(redis.call('ZRANGE', KEYS[1], 0, 0, 'WITHSCORES')[2])
return { 0, first and math.max(0, first - nowMs) or 0 }
