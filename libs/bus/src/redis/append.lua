#!lua
-- Guarantee: the events of one call enter the stream in their order, with numbers in a row, all of them or none. When a mark was made on the
--   way, what is over the limits goes. A full Redis refuses the call before it does anything, so that no device is told that its event is stored.
--   Nor is anything stored after notAfter: what lay in a dead line must not come in behind what the device has sent since (D7).
-- KEYS  1 events         stream  {shard}; :marks beside it, see trim-events.lua
--       2 events:count   hash    {shard}  see append-event.lua; named so that a Cluster that has moved only one of the two says so
-- ARGV  1 ms kept   2 bytes kept   3 notAfter, Redis ms, 0 = none   4… for each event: bytes of data and pictures, number of names and values, these names and values
-- Returns the id of the first event; each of the others has the next number and the same ms. 'LATE' when notAfter has passed
--#include redis/append-event.lua
--#include trim-events.lua
local eventsKey, keptMs, keptBytes, notAfterMs = KEYS[1], tonumber(ARGV[1]), tonumber(ARGV[2]), tonumber(ARGV[3])

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
if notAfterMs > 0 and nowMs > notAfterMs then return 'LATE' end

local events = openEvents(eventsKey)
local firstId
local isMarked = false
local at, size = 4, #ARGV
while at < size do
  local first = at + 2
  local nextAt = first + tonumber(ARGV[at + 1])
  local id = addEvent(events, nowMs, ARGV, tonumber(ARGV[at]), first, nextAt - 1)
  firstId = firstId or id
  isMarked = mark(events, keptBytes) or isMarked
  at = nextAt
end
closeEvents(events)
-- What is stored is stored, also where a Cluster has moved the marks already.
if isMarked then pcall(trimEvents, events, nowMs, keptMs, keptBytes) end
return firstId
