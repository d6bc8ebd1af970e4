-- Shared by all scripts of the lanes of one device; each begins with its own guarantee and declares its flags.
-- KEYS  1 device row  hash   2 lane  hash   3 normal  zset   4 urgent  zset   5 flight  hash   6 clock  zset
--       7 due  zset   8 events  stream   9 waiting  string        all {shard}; records of commands are found through the lane, in the same shard
-- ARGV  1 where keys of the shard begin   2 device code   3 not after, ms of Redis time ('' = always)   4 stream length, about
--       5 ms that a record is kept after its end   6… of each script
-- A record (hash command:<id>):
--   st state  md mode  ln lane (n u)  m method  u url  b body  bb bytes of body and url  at accepted  exp deadline  nb not before  to timeout
--   ma attempts allowed  bo backoff  n attempts begun  w attempts that may have been written  pl place in the lane  rt next attempt not before
--   ep epoch and sa time of the last attempt  ea ended  ex executed  rc reason  lt late  cd response code  res response  rb its bytes
--   ck coalesce key  ik hash of the idempotency key  by API key  job  of retry of  rp who waits for the end        times in ms of Redis time
local deviceKey, laneKey, normalKey, urgentKey, flightKey, clockKey = KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6]
local dueKey, eventsKey, waitingKey = KEYS[7], KEYS[8], KEYS[9]
local prefix, code, notAfterText, streamLength, keepMs = ARGV[1], ARGV[2], ARGV[3], ARGV[4], ARGV[5]

local LANE_KEYS = { n = normalKey, u = urgentKey }
-- A wake-up may be lost: who holds the device is told again after this.
local WAKE_MS = 2000
-- The node that wrote a command has the first word about its time-out; this long after it anybody may give it up.
local OVERDUE_GRACE_MS = 1000
local LONGEST_BACKOFF_MS = 60000
-- Members of the clock that one call handles.
local TIDY_LIMIT = 200

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local isLate = notAfterText ~= '' and nowMs > tonumber(notAfterText)

local row = redis.call('HMGET', deviceKey, 'rev', 'node', 'epoch', 'session', 'tags')
local provisioned, node, epoch, session = row[1], row[2], row[3] or '0', row[4] or ''

-- Lua's own tostring would write a millisecond time as 1.7e+12.
local function integer(number)
  return string.format('%.0f', number)
end

-- A damaged row costs the event its tags, never the change itself. Most devices have none.
local function joinedTags(json)
  if not json or json == '[]' then return '' end
  local parsed, tags = pcall(function() return table.concat(cjson.decode(json), ',') end)
  return parsed and tags or ''
end
local tags = joinedTags(row[5])

-- What this call ended: id, state, who waits.
local ended = {}

local function recordKey(id)
  return prefix .. 'command:' .. id
end

local FIELDS = { 'st', 'md', 'ln', 'u', 'bb', 'exp', 'ma', 'bo', 'n', 'w', 'pl', 'ep', 'ck', 'ik', 'job', 'rp', 'rt', 'ea' }

-- Nil when the store has lost the record.
local function load(id)
  local values = redis.call('HMGET', recordKey(id), unpack(FIELDS))
  if not values[1] then return nil end
  local record = {}
  for i, field in ipairs(FIELDS) do record[field] = values[i] or '' end
  return record
end

-- executed: of ended commands. code: the device's response code.
local function announce(id, record, state, executed, reason, late, responseCode)
  local data = '{"id":"' .. id .. '","state":"' .. state .. '","lane":"' .. (record.ln == 'u' and 'urgent' or 'normal')
    .. '","attempt":' .. (record.n == '' and '0' or record.n)
  if executed then data = data .. ',"executed":"' .. executed .. '"' end
  if reason and reason ~= '' then data = data .. ',"reason":' .. cjson.encode(reason) end
  if responseCode and responseCode ~= '' then data = data .. ',"responseCode":' .. responseCode end
  if late then data = data .. ',"late":true' end
  if record.job ~= '' then data = data .. ',"job":' .. cjson.encode(record.job) end
  local at = record.ep ~= '' and record.ep or epoch
  redis.call('XADD', eventsKey, 'MAXLEN', '~', streamLength, '*', 'c', code, 'k', 'command.' .. state, 'u', record.u, 't', integer(nowMs),
    'e', at, 's', session, 'n', '0', 'g', tags, 'q', id .. ':' .. state .. ':' .. (record.n == '' and '0' or record.n), 'd', data .. '}')
end

local function finish(id, record, state, executed, reason)
  redis.call('HSET', recordKey(id), 'st', state, 'ex', executed, 'rc', reason, 'ea', integer(nowMs))
  redis.call('PEXPIRE', recordKey(id), keepMs)
  announce(id, record, state, executed, reason)
  ended[#ended + 1] = { id, state, record.rp }
end

-- What was written once can never again be said not to have been executed.
local function executedUnsent(record)
  return tonumber(record.w) > 0 and 'maybe' or 'no'
end

local function coalesceField(record)
  return 'c:' .. record.ln .. ':' .. record.ck
end

-- A command begins to wait: at its place, or, without one, when its time has come.
local function enterLane(id, record)
  redis.call('HINCRBY', laneKey, record.ln, 1)
  redis.call('HINCRBY', laneKey, 'bytes', record.bb)
  redis.call('INCRBY', waitingKey, 1)
  redis.call('ZADD', clockKey, record.exp, 'x' .. id)
  if record.pl ~= '' then redis.call('ZADD', LANE_KEYS[record.ln], record.pl, id) end
  if record.ck ~= '' then redis.call('HSET', laneKey, coalesceField(record), id) end
end

local function leaveLane(id, record)
  redis.call('HINCRBY', laneKey, record.ln, -1)
  redis.call('HINCRBY', laneKey, 'bytes', -tonumber(record.bb))
  redis.call('INCRBY', waitingKey, -1)
  redis.call('ZREM', clockKey, 'x' .. id, 'n' .. id, 'r' .. id)
  redis.call('ZREM', LANE_KEYS[record.ln], id)
  if record.ck ~= '' and redis.call('HGET', laneKey, coalesceField(record)) == id then
    redis.call('HDEL', laneKey, coalesceField(record))
  end
end

-- Is over for a command that waits; the caller has made sure that it does.
local function endWaiting(id, record, state, reason)
  leaveLane(id, record)
  finish(id, record, state, executedUnsent(record), reason)
end

local function land(id)
  redis.call('HDEL', flightKey, id)
  redis.call('ZREM', clockKey, 'f' .. id)
end

-- Back to its place, which it never lost: commands accepted after it have larger ones (I6).
local function requeue(id, record, notBeforeMs, reason)
  record.rt = integer(notBeforeMs)
  redis.call('HSET', recordKey(id), 'st', 'queued', 'rt', record.rt, 'n', record.n, 'w', record.w, 'rc', reason)
  local newer = record.ck ~= '' and redis.call('HGET', laneKey, coalesceField(record))
  if newer then return finish(id, record, 'cancelled', executedUnsent(record), 'superseded') end
  enterLane(id, record)
  if notBeforeMs > nowMs then redis.call('ZADD', clockKey, record.rt, 'r' .. id) end
  announce(id, record, 'queued', nil, reason)
end

local function backoffMs(record)
  local doublings = math.min(tonumber(record.n) - 1, 20)
  return math.min(tonumber(record.bo) * 2 ^ doublings, LONGEST_BACKOFF_MS)
end

-- An attempt is over and nobody will say how: again, if that is harmless (I7), else an end that says so (I4). Answers whether it waits again.
local function giveUp(id, record, state, reason)
  land(id)
  if record.md ~= 'direct' and record.ep ~= '0' and tonumber(record.n) < tonumber(record.ma) and nowMs < tonumber(record.exp) then
    requeue(id, record, nowMs + backoffMs(record), 'retry')
    return redis.call('HGET', recordKey(id), 'st') == 'queued'
  end
  finish(id, record, state, 'maybe', reason)
  return false
end

local function onOverdue(id, record)
  local lane, flightEpoch = string.match(redis.call('HGET', flightKey, id) or '', '^(%a):(%d+)$')
  if lane == 'd' then
    giveUp(id, record, 'unknown', 'service_lost')
  elseif node and flightEpoch == epoch then
    giveUp(id, record, 'timed_out', 'timeout')
  else
    giveUp(id, record, 'unknown', 'session_lost')
  end
end

local function onClock(kind, id)
  local record = load(id)
  if kind == 'f' then
    if record and record.st == 'sent' then return onOverdue(id, record) end
    return land(id)
  end
  if not record or record.st ~= 'queued' then
    -- The store came back without the record, or with an older lane: what is left of it must not stop the others.
    redis.call('ZREM', clockKey, kind .. id)
    if not record then redis.call('ZREM', normalKey, id) redis.call('ZREM', urgentKey, id) end
    return
  end
  if kind == 'x' then return endWaiting(id, record, 'expired', 'expired') end
  redis.call('ZREM', clockKey, kind .. id)
  if kind == 'n' then
    local place = redis.call('HINCRBY', laneKey, 'seq', 1)
    redis.call('HSET', recordKey(id), 'pl', place)
    redis.call('ZADD', LANE_KEYS[record.ln], place, id)
  end
end

-- What is out, by lane, after giving up what belongs to an older epoch: its session is over (D19).
local function lapse()
  local out = { n = 0, u = 0, d = 0 }
  local flights = redis.call('HGETALL', flightKey)
  for i = 1, #flights, 2 do
    local id = flights[i]
    local lane, flightEpoch = string.match(flights[i + 1], '^(%a):(%d+)$')
    if lane ~= 'd' and tonumber(flightEpoch) < tonumber(epoch) then
      local record = load(id)
      if record and record.st == 'sent' then giveUp(id, record, 'unknown', 'session_lost') else land(id) end
    else
      out[lane] = out[lane] + 1
    end
  end
  return out
end

local function runClock()
  local members = redis.call('ZRANGEBYSCORE', clockKey, '-inf', integer(nowMs), 'LIMIT', 0, TIDY_LIMIT)
  for _, member in ipairs(members) do
    -- What came before may have ended it.
    if redis.call('ZSCORE', clockKey, member) then onClock(string.sub(member, 1, 1), string.sub(member, 2)) end
  end
end

-- Could the head of this lane start, as far as this lane can tell?
local function isStartable(lane, out)
  if out[lane] > 0 then return false end
  local head = redis.call('ZRANGE', LANE_KEYS[lane], 0, 0)[1]
  if not head then return false end
  return not redis.call('ZSCORE', clockKey, 'r' .. head)
end

-- Notes when somebody must look again; forgets a lane in which nothing is open. Answers whether something could start, and for which time a
-- timer should be asked, '' for none: only for lanes that no node watches, and once per time.
local function rest(out, wantsTimer)
  local first = redis.call('ZRANGE', clockKey, 0, 0, 'WITHSCORES')
  if not first[1] then
    redis.call('DEL', laneKey)
    redis.call('ZREM', dueKey, code)
    return false, ''
  end
  local nextMs = tonumber(first[2])
  local startable = isStartable('n', out) or isStartable('u', out)
  local wakeMs = (startable and node) and math.min(nextMs, nowMs + WAKE_MS) or nextMs
  redis.call('ZADD', dueKey, integer(wakeMs), code)
  if node and not wantsTimer then return startable, '' end
  local asked = tonumber(redis.call('HGET', laneKey, 'timer') or 'inf') or math.huge
  if asked <= nextMs and asked > nowMs then return startable, '' end
  redis.call('HSET', laneKey, 'timer', integer(nextMs))
  return startable, integer(nextMs)
end
