-- Shared by the scripts that write the timelines of devices (libs/timeline says what is in them).
-- Guarantee: the list keeps its newest entries up to the bound, and is gone so long after the last one.

local TIMELINE_ENTRIES = 25

local function pushEntry(listKey, text, keepMs)
  redis.call('LPUSH', listKey, text)
  redis.call('LTRIM', listKey, 0, TIMELINE_ENTRIES - 1)
  redis.call('PEXPIRE', listKey, keepMs)
end
