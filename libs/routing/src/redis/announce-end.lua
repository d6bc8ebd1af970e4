#!lua flags=allow-oom
-- Guarantee: the end of an incarnation is told once, by whomever it is told first; nothing but a failover that throws the mark back can
--   make it be told again. allow-oom: a full Redis must not hide that a node died.
-- KEYS  1 end of the incarnation is known   string  {shard}  expires
--       2 events                            stream  {shard}
-- ARGV  1 kind of the event   2 its data, JSON   3 how long it is remembered, ms
-- Returns 'ANNOUNCED' | 'KNOWN'
--#include redis/append-event.lua
--#include presence.lua
local endedKey, eventsKey = KEYS[1], KEYS[2]
local kind, data, rememberMs = ARGV[1], ARGV[2], ARGV[3]

local events = openEvents(eventsKey)
if not redis.call('SET', endedKey, kind, 'PX', rememberMs, 'NX') then return 'KNOWN' end
local time = redis.call('TIME')
local nowMs = math.floor(tonumber(time[1]) * 1000 + tonumber(time[2]) / 1000)
addEvent(events, nowMs, { 'c', '', 'k', kind, 'u', '', 't', integer(nowMs), 'e', '0', 's', '', 'n', '0', 'g', '', 'q', '', 'd', data }, #data)
closeEvents(events)
return 'ANNOUNCED'
