#!lua flags=allow-oom
-- Guarantee: changes the group that is meant, not one of the same name that came after it, nor one whose removal has begun.
--   allow-oom: a removal begins with it.
-- KEYS  1 group  hash {groups}
-- ARGV  1 key   2… fields and values
-- Returns the revision of the spec, one more when it is changed | '' nothing was changed
local group = redis.call('HMGET', KEYS[1], 'key', 'state')
if group[1] ~= ARGV[1] or group[2] == 'removing' then return '' end
local raised = 0
for i = 2, #ARGV, 2 do
  redis.call('HSET', KEYS[1], ARGV[i], ARGV[i + 1])
  if ARGV[i] == 'spec' then raised = 1 end
end
return tostring(redis.call('HINCRBY', KEYS[1], 'revision', raised))
