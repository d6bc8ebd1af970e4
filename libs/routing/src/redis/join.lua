#!lua flags=allow-oom
-- Guarantee: after it the lease of this name belongs to this incarnation and to no other. Whoever held it finds itself lapsed,
--   and what was asked of it is forgotten.
--   allow-oom: a full Redis must not turn nodes away that only want to live.
-- KEYS  1 node   hash, expires with the lease
-- ARGV  1 incarnation   2 address   3 version   4 started, ms   5 lease, ms   6 sessions
--       7 registrations per s   8 loop lag, ms   9 phase   10 drain: '<started, ms> <ends, ms> <devices> <left>', or ''
-- Returns {'JOINED', Redis time in ms}
local nodeKey = KEYS[1]
local incarnation, address, version, startedMs, leaseMs = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]
local sessions, registrations, loopLagMs, phase, drain = ARGV[6], ARGV[7], ARGV[8], ARGV[9], ARGV[10]

local time = redis.call('TIME')
local nowMs = string.format('%.0f', math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000))
redis.call('HSET', nodeKey, 'inc', incarnation, 'address', address, 'version', version, 'started', startedMs,
  'sessions', sessions, 'rate', registrations, 'lag', loopLagMs, 'phase', phase, 'drain', drain, 'beat', nowMs)
redis.call('HDEL', nodeKey, 'asked')
redis.call('PEXPIRE', nodeKey, leaseMs)
return { 'JOINED', nowMs }
