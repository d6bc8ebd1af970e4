#!lua
-- Guarantee: a platform moves a job only from a state that allows it. Targets stay as they are: they are the runner's.
-- KEYS  1 job  hash {j:id}   2 targets  hash {j:id}   3 codes  list {j:id}
-- ARGV  1 states that allow it, comma-joined   2 keep it for ever again (1 0)   then field, value …
-- Returns {'STEERED', state before} | {'CONFLICT', state} | {'GONE'}
local jobKey, allowed, persist = KEYS[1], ARGV[1], ARGV[2]
local state = redis.call('HGET', jobKey, 'state')
if not state then return { 'GONE' } end
if not string.find(',' .. allowed .. ',', ',' .. state .. ',', 1, true) then return { 'CONFLICT', state } end
redis.call('HSET', jobKey, unpack(ARGV, 3))
if persist == '1' then
  for _, key in ipairs(KEYS) do redis.call('PERSIST', key) end
end
return { 'STEERED', state }
