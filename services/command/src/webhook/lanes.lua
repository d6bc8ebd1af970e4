-- Shared by the scripts of webhooks: the time of Redis, and who sees to which lane. Needs the local names dueKey and holdersKey.
-- A lane of a webhook is `<id>:<number>`. In `due` it stands with the moment when somebody must look at it: for one that is seen to, the end of
-- the lease; its holder has a token in `holders`.
local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local LANES = 16
local function integer(number)
  return string.format('%.0f', number)
end
local function takeAway(id)
  for lane = 0, LANES - 1 do
    local member = id .. ':' .. lane
    redis.call('ZREM', dueKey, member)
    redis.call('HDEL', holdersKey, member)
  end
end
-- Whoever sees to a lane loses it, and the next one reads the webhook anew.
local function restart(id)
  takeAway(id)
  redis.call('ZADD', dueKey, integer(nowMs), id .. ':0')
end
