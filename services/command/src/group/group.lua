-- Shared by all scripts of one group in one shard; each begins with its own guarantee and declares its flags.
-- The keys of the group lie beside the stream that it reads, so a failover throws both back together: a group never stands behind a place that
-- its stream does not have (D9). A group that was removed has no hash, and nothing writes to it any more.
-- KEYS  1 events  stream   2 group  hash   both {shard}; the other keys are named after the second
-- ARGV  1 ordered (1 0)   2 hand-outs before an event is dead   3… of each script
-- The group (hash): c last entry looked at   n its number   a acknowledged   d dead letters dropped   h bytes held in :body   r revision of the spec
-- Members are entry ids (`<ms>-<number>`) and gaps (`g<from>_<to>_<count>`, count x when nobody knows). Open ones are in one place each:
--   :ready zset → number   may be handed out          :out zset → ms when it is handed out again     :later zset → ms of the next attempt
--   :parked zset, in byte order `<code> <number> <member>`   waits for an earlier event of its device (ordered groups)
--   :heads hash code → the member that holds the place of the device   :dead zset → ms of the event
--   :item hash member → `<hand-outs> <died at, ms> <code>`   :body hash member → its fields, for those that were handed out in vain
local eventsKey, groupKey = KEYS[1], KEYS[2]
local ordered, maxAttempts = ARGV[1] == '1', tonumber(ARGV[2])
local readyKey, outKey, laterKey, parkedKey = groupKey .. ':ready', groupKey .. ':out', groupKey .. ':later', groupKey .. ':parked'
local headsKey, deadKey, itemKey, bodyKey = groupKey .. ':heads', groupKey .. ':dead', groupKey .. ':item', groupKey .. ':body'

-- While a Cluster moves the slot, keys that are away already, or were never there, make this fail: before anything was changed, not in the middle.
redis.call('EXISTS', eventsKey .. ':count', groupKey, readyKey, outKey, laterKey, parkedKey, headsKey, deadKey, itemKey, bodyKey)

-- Of one shard: copies of events that were handed out in vain, and dead letters. The oldest dead letters make room.
local HELD_BYTES = 16777216
local DEAD_LETTERS = 1000
-- Overdue members that one call moves.
local MOVED_LIMIT = 500
-- Members that one call finds lost behind others.
local LOST_LIMIT = 1000

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)

-- Lua's own tostring would write a millisecond time as 1.7e+12.
local function integer(number)
  return string.format('%.0f', number)
end

local function isGap(member)
  return string.sub(member, 1, 1) == 'g'
end

local function numberOf(member)
  if isGap(member) then return tonumber(string.match(member, '^g%d+%-(%d+)_')) + 0.5 end
  return tonumber(string.match(member, '%-(%d+)$'))
end

local function msOf(member)
  return tonumber(string.match(member, '^(%d+)%-'))
end

-- The last entry ever: its id and number.
local function lastEntry()
  local last = redis.call('HMGET', eventsKey .. ':count', 't', 'n')
  if not last[1] or not last[2] then return '0-0', '0' end
  return last[1] .. '-' .. last[2], last[2]
end

-- Only the oldest entries ever leave the stream.
local function isInStream(member)
  local _, number = lastEntry()
  return numberOf(member) > tonumber(number) - redis.call('XLEN', eventsKey)
end

local function load(member)
  local item = redis.call('HGET', itemKey, member)
  if not item then return nil end
  local attempts, diedAt, code = string.match(item, '^(%d+) (%d+) (.*)$')
  return { attempts = tonumber(attempts), diedAt = diedAt, code = code }
end

local function save(member, item)
  redis.call('HSET', itemKey, member, item.attempts .. ' ' .. item.diedAt .. ' ' .. item.code)
end

local function getReady(member)
  redis.call('ZADD', readyKey, numberOf(member), member)
end

-- Takes its place in the order of its device.
local function admit(member, item)
  save(member, item)
  if not ordered or isGap(member) or redis.call('HSETNX', headsKey, item.code, member) == 1 then
    getReady(member)
  else
    redis.call('ZADD', parkedKey, 0, item.code .. ' ' .. string.format('%016.0f', numberOf(member)) .. ' ' .. member)
  end
end

-- The next event of the device may be handed out.
local function makeWay(member, code)
  if not ordered or redis.call('HGET', headsKey, code) ~= member then return end
  local following = redis.call('ZRANGEBYLEX', parkedKey, '[' .. code .. ' ', '(' .. code .. '!', 'LIMIT', 0, 1)[1]
  if not following then
    redis.call('HDEL', headsKey, code)
    return
  end
  redis.call('ZREM', parkedKey, following)
  local head = string.match(following, ' (%S+)$')
  redis.call('HSET', headsKey, code, head)
  getReady(head)
end

local function dropBody(member)
  local bytes = redis.call('HSTRLEN', bodyKey, member)
  if bytes == 0 then return end
  redis.call('HDEL', bodyKey, member)
  redis.call('HINCRBY', groupKey, 'h', -bytes)
end

local function forget(member, item)
  redis.call('ZREM', readyKey, member)
  redis.call('ZREM', outKey, member)
  redis.call('ZREM', laterKey, member)
  redis.call('ZREM', deadKey, member)
  if ordered then
    redis.call('ZREM', parkedKey, item.code .. ' ' .. string.format('%016.0f', numberOf(member)) .. ' ' .. member)
  end
  redis.call('HDEL', itemKey, member)
  dropBody(member)
  makeWay(member, item.code)
end

local function dropOldestDeadLetter()
  local oldest = redis.call('ZRANGE', deadKey, 0, 0)[1]
  if not oldest then return false end
  forget(oldest, load(oldest) or { code = '' })
  redis.call('HINCRBY', groupKey, 'd', 1)
  return true
end

-- Only dead letters that hold something make room.
local function makeRoom(bytes)
  while tonumber(redis.call('HGET', groupKey, 'h') or '0') + bytes > HELD_BYTES do
    local oldest = redis.call('ZRANGE', deadKey, 0, 0)[1]
    if not oldest or redis.call('HEXISTS', bodyKey, oldest) == 0 then return false end
    dropOldestDeadLetter()
  end
  return true
end

-- Keeps what the stream may trim before the next attempt. False when the stream has trimmed it already. Where there is no room the stream's copy
-- has to do, as long as it is there.
local isFull = false
local function hold(member)
  if isGap(member) or redis.call('HEXISTS', bodyKey, member) == 1 then return true end
  -- Many large ones would keep the store busy with reading what it cannot keep.
  if isFull then return isInStream(member) end
  local entry = redis.call('XRANGE', eventsKey, member, member)[1]
  if not entry then return false end
  local body = cmsgpack.pack(entry[2])
  if makeRoom(#body) then
    redis.call('HSET', bodyKey, member, body)
    redis.call('HINCRBY', groupKey, 'h', #body)
  else
    isFull = true
  end
  return true
end

local lostFirst, lostLast, lost
local function countLost(member)
  if not lost or numberOf(member) < numberOf(lostFirst) then lostFirst = member end
  if not lost or numberOf(member) > numberOf(lostLast) then lostLast = member end
  lost = (lost or 0) + 1
end

-- Of the oldest entry that the stream has; asked for once, and only when something is lost.
local oldestNumber
local function isTrimmed(member)
  if not oldestNumber then
    local oldest = redis.call('XRANGE', eventsKey, '-', '+', 'COUNT', 1)[1]
    oldestNumber = oldest and numberOf(oldest[1]) or math.huge
  end
  return numberOf(member) < oldestNumber and redis.call('HEXISTS', bodyKey, member) == 0
end

-- Its event is gone before it could be handed out: consumers hear of that by a gap. What is gone of the same device behind it goes along, to be
-- told by the same gap.
local function lose(member, item)
  forget(member, item)
  countLost(member)
  if not ordered then return end
  local head = redis.call('HGET', headsKey, item.code)
  while head and lost < LOST_LIMIT and isTrimmed(head) do
    forget(head, { code = item.code })
    countLost(head)
    head = redis.call('HGET', headsKey, item.code)
  end
end

local function addGap(from, to, count)
  admit('g' .. from .. '_' .. to .. '_' .. count, { attempts = 0, diedAt = '0', code = '' })
end

-- Once at the end of a script that may have lost members.
local function tellLost()
  if not lost then return end
  addGap(integer(msOf(lostFirst)) .. '-' .. integer(numberOf(lostFirst) - 1), integer(msOf(lostLast)) .. '-' .. integer(numberOf(lostLast) + 1), lost)
end

local function die(member, item)
  if not hold(member) then return lose(member, item) end
  redis.call('ZREM', readyKey, member)
  redis.call('ZREM', outKey, member)
  redis.call('ZREM', laterKey, member)
  redis.call('ZADD', deadKey, msOf(member), member)
  item.diedAt = integer(nowMs)
  save(member, item)
  makeWay(member, item.code)
  if redis.call('ZCARD', deadKey) > DEAD_LETTERS then dropOldestDeadLetter() end
end

-- After an attempt that was in vain. A gap is told until it is acknowledged.
local function comeAgain(member, item, delayMs)
  if item.attempts >= maxAttempts and not isGap(member) then return die(member, item) end
  if not hold(member) then return lose(member, item) end
  redis.call('ZREM', outKey, member)
  if delayMs > 0 then
    redis.call('ZADD', laterKey, nowMs + delayMs, member)
  else
    getReady(member)
  end
end

-- What is due by now may be handed out again.
local function moveDue()
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', laterKey, '-inf', nowMs, 'LIMIT', 0, MOVED_LIMIT)) do
    redis.call('ZREM', laterKey, member)
    getReady(member)
  end
  for _, member in ipairs(redis.call('ZRANGEBYSCORE', outKey, '-inf', nowMs, 'LIMIT', 0, MOVED_LIMIT)) do
    local item = load(member)
    if item then comeAgain(member, item, 0) else redis.call('ZREM', outKey, member) end
  end
end

local function exists()
  return redis.call('HEXISTS', groupKey, 'c') == 1
end
