#!lua flags=allow-oom
-- Guarantee: what is due in the lanes of a device is done: expired commands end, those whose time has come get their place, attempts that nobody
--   answered or that belong to an older epoch are given up. Nothing else changes, however often it runs.
-- KEYS, ARGV 1–4: see lane.lua
-- Returns {'TENDED', node, epoch, could something start (1 0), timer, ended}
--#include lane.lua
tidy()
local startable, timer = rest('unwatched')
return { 'TENDED', node or '', epoch, startable and '1' or '0', timer, ended }
