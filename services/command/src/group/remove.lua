#!lua flags=allow-oom
-- Guarantee: nothing of the group is left in this shard.
-- KEYS  1 events  stream   2 group  hash   both {shard}
for _, name in ipairs({ '', ':ready', ':out', ':later', ':parked', ':heads', ':dead', ':item', ':body' }) do
  redis.call('UNLINK', KEYS[2] .. name)
end
return 'REMOVED'
