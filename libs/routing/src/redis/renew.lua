#!lua flags=allow-oom
-- Guarantee: only a lease that still lives, of this very incarnation, gets longer; a lapsed one never comes back (I3). A renewal that runs
--   after its sender gave up on it does not count. allow-oom: leases go on while Redis is full.
-- KEYS  1 node   hash, expires with the lease
-- ARGV  1 incarnation   2 lease, ms   3 not after, ms of Redis time   4 sessions   5 registrations per s   6 loop lag, ms   7 phase
--       8 drain, as in join
-- Returns {'RENEWED', Redis time in ms, what was asked or ''} | {'LAPSED'} | {'LATE'}
local nodeKey = KEYS[1]
local incarnation, leaseMs, notAfterMs = ARGV[1], ARGV[2], tonumber(ARGV[3])
local sessions, registrations, loopLagMs, phase, drain = ARGV[4], ARGV[5], ARGV[6], ARGV[7], ARGV[8]

-- LAPSED before LATE: a node whose clock is off would otherwise never hear that it has to come back.
if redis.call('HGET', nodeKey, 'inc') ~= incarnation then return { 'LAPSED' } end
local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
if nowMs > notAfterMs then return { 'LATE' } end
local now = string.format('%.0f', nowMs)
redis.call('HSET', nodeKey, 'sessions', sessions, 'rate', registrations, 'lag', loopLagMs, 'phase', phase,
  'drain', drain, 'beat', now)
redis.call('PEXPIRE', nodeKey, leaseMs)
return { 'RENEWED', now, redis.call('HGET', nodeKey, 'asked') or '' }
