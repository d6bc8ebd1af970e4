#!lua flags=no-writes
-- KEYS, ARGV 1–2: see group.lua
-- ARGV  3 bytes, about   4… members
-- Returns their fields, of as many from the first on as fit (one at least); an empty list for one that is gone
--#include group.lua
local left = tonumber(ARGV[3])
local found = {}
for i = 4, #ARGV do
  if left <= 0 then break end
  local held = redis.call('HGET', bodyKey, ARGV[i])
  local fields = {}
  if held then
    fields = cmsgpack.unpack(held)
  else
    local entry = redis.call('XRANGE', eventsKey, ARGV[i], ARGV[i])[1]
    if entry then fields = entry[2] end
  end
  for _, field in ipairs(fields) do left = left - #field end
  found[#found + 1] = fields
end
return found
