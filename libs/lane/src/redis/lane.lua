-- Shared by all scripts of the lanes of one device; each begins with its own guarantee and declares its flags.
-- KEYS  1 device row  hash   2 lane  hash   3 normal  zset   4 urgent  zset   5 clock  zset   6 due  zset   7 events  stream   8 waiting  string
--       all {shard}; records of commands are found through the lane, in the same shard
-- ARGV  1 where keys of the shard begin   2 device code   3 not after, ms of Redis time ('' = always)
--       4 ms that a record is kept after its end   5… of each script
-- The lane (hash; gone while nothing is open):
--   seq last place given   n, u commands that wait in each lane   bytes of them   out what is out: `<lane>:<epoch>:<id> ` each (lane n u d)
--   hn, hu until when a lane waits before its next attempt   timer for which a timer was asked   c:<lane>:<coalesce key> id that waits
-- A record (hash command:<id>):
--   st state   rq the request (CORE below, one line each)   b body   k number of the last begin   n attempts that count   w of them, may be written
--   pl place in the lane (before its time negative, in the order of acceptance)   rt next attempt not before   ep epoch and sa time of the last attempt
--   ea ended   ex executed   rc reason   lt late   cd response code   res response   rb its bytes                  times in ms of Redis time
--#include redis/append-event.lua
local deviceKey, laneKey, normalKey, urgentKey, clockKey, dueKey, eventsKey, waitingKey =
  KEYS[1], KEYS[2], KEYS[3], KEYS[4], KEYS[5], KEYS[6], KEYS[7], KEYS[8]
local prefix, code, notAfterText, keepMs = ARGV[1], ARGV[2], ARGV[3], ARGV[4]

local LANE_KEYS = { n = normalKey, u = urgentKey }
-- A wake-up may be lost: who holds the device is told again after this.
local WAKE_MS = 2000
-- The node that wrote a command has the first word about its time-out; this long after it anybody may give it up.
local OVERDUE_GRACE_MS = 1000
local LONGEST_BACKOFF_MS = 60000
-- Members of the clock that one call handles.
local TIDY_LIMIT = 200
-- Of a device that was removed; each of its commands has two at most.
local ABANDON_LIMIT = 800

local time = redis.call('TIME')
local nowMs = tonumber(time[1]) * 1000 + math.floor(tonumber(time[2]) / 1000)
local isLate = notAfterText ~= '' and nowMs > tonumber(notAfterText)

local events = openEvents(eventsKey)
local row = redis.call('HMGET', deviceKey, 'rev', 'node', 'epoch', 'session', 'tags')
local provisioned, node, epoch, session = row[1], row[2], row[3] or '0', row[4] or ''

-- Lua's own tostring would write a millisecond time as 1.7e+12.
local function integer(number)
  return string.format('%.0f', number)
end
local nowText = integer(nowMs)

-- A damaged row costs the event its tags, never the change itself. Most devices have none.
local function joinedTags(json)
  if not json or json == '[]' then return '' end
  local parsed, tags = pcall(function() return table.concat(cjson.decode(json), ',') end)
  return parsed and tags or ''
end

-- Read once, changed in here, written once by rest().
local stored = redis.call('HMGET', laneKey, 'seq', 'n', 'u', 'bytes', 'out', 'hn', 'hu', 'timer')
local lane = {
  seq = tonumber(stored[1] or 0), n = tonumber(stored[2] or 0), u = tonumber(stored[3] or 0), bytes = tonumber(stored[4] or 0),
  hold = { n = tonumber(stored[6] or 0), u = tonumber(stored[7] or 0) }, timer = tonumber(stored[8] or 0),
}
-- In the order in which they were sent: {lane, epoch, id}.
local flights = {}
for flightLane, flightEpoch, id in string.gmatch(stored[5] or '', '(%a):(%d+):(%w+) ') do
  flights[#flights + 1] = { flightLane, flightEpoch, id }
end
local waitingChange = 0

-- What this call ended: id, state, who waits.
local ended = {}

local function recordKey(id)
  return prefix .. 'command:' .. id
end

-- Lines of rq, in this order; RedisLaneStore reads the same.
local CORE = { 'md', 'ln', 'm', 'u', 'bb', 'at', 'exp', 'nb', 'to', 'ma', 'bo', 'ck', 'ik', 'by', 'job', 'of', 'rp', 'code' }

local function withCore(record, text)
  local i = 0
  for line in string.gmatch(text, '([^\n]*)\n') do
    i = i + 1
    record[CORE[i]] = line
  end
  return record
end

-- Nil when the store has lost the record, or has it for another device.
local function load(id)
  local values = redis.call('HMGET', recordKey(id), 'st', 'rq', 'n', 'w', 'pl', 'rt', 'ep', 'ea', 'k')
  if not values[1] then return nil end
  local record = withCore({
    st = values[1], n = tonumber(values[3]), w = tonumber(values[4]), pl = tonumber(values[5] or 0), rt = tonumber(values[6] or 0), ep = values[7] or '',
    ea = tonumber(values[8] or 0), k = tonumber(values[9] or 0),
  }, values[2])
  if record.code ~= code then return nil end
  return record
end

-- executed: of ended commands.
local function announce(id, record, state, executed, reason, late, responseCode)
  local data = '{"id":"' .. id .. '","state":"' .. state .. '","lane":"' .. (record.ln == 'u' and 'urgent' or 'normal')
    .. '","attempt":' .. record.n
  if executed then data = data .. ',"executed":"' .. executed .. '"' end
  if reason and reason ~= '' then data = data .. ',"reason":' .. cjson.encode(reason) end
  if responseCode and responseCode ~= '' then data = data .. ',"responseCode":' .. responseCode end
  if late then data = data .. ',"late":true' end
  if record.job ~= '' then data = data .. ',"job":' .. cjson.encode(record.job) end
  data = data .. '}'
  addEvent(events, nowMs, { 'c', code, 'k', 'command.' .. state, 'u', record.u, 't', nowText,
    'e', record.ep ~= '' and record.ep or epoch, 's', session, 'n', '0', 'g', joinedTags(row[5]), 'q', id .. ':' .. state .. ':' .. record.k,
    'd', data }, #data)
  closeEvents(events)
end

local function finish(id, record, state, executed, reason)
  record.st = state
  redis.call('HSET', recordKey(id), 'st', state, 'ex', executed, 'rc', reason, 'ea', nowText, 'n', record.n, 'w', record.w)
  redis.call('PEXPIRE', recordKey(id), keepMs)
  announce(id, record, state, executed, reason)
  ended[#ended + 1] = { id, state, record.rp }
end

-- What was written once can never again be said not to have been executed (I4).
local function executedUnsent(record)
  return record.w > 0 and 'maybe' or 'no'
end

local function freeIdempotencyKey(id, record)
  local key = prefix .. 'idem:' .. code .. ':' .. record.ik
  if string.match(redis.call('GET', key) or '', '^(%w+) ') == id then redis.call('DEL', key) end
end

local function coalesceField(record)
  return 'c:' .. record.ln .. ':' .. record.ck
end

-- A command begins to wait: at its place, or, without one, when its time has come.
local function enterLane(id, record)
  lane[record.ln] = lane[record.ln] + 1
  lane.bytes = lane.bytes + tonumber(record.bb)
  waitingChange = waitingChange + 1
  redis.call('ZADD', clockKey, record.exp, 'x' .. id)
  if record.pl > 0 then redis.call('ZADD', LANE_KEYS[record.ln], record.pl, id) end
  if record.ck ~= '' then redis.call('HSET', laneKey, coalesceField(record), id) end
end

local function leaveLane(id, record)
  lane[record.ln] = lane[record.ln] - 1
  lane.bytes = lane.bytes - tonumber(record.bb)
  waitingChange = waitingChange - 1
  -- It may be the one that the lane waits for; else the owner is told once too often.
  lane.hold[record.ln] = 0
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

-- What waits in the same lane under the same coalesce key.
local function rivalOf(record)
  local rivalId = record.ck ~= '' and redis.call('HGET', laneKey, coalesceField(record))
  local rival = rivalId and load(rivalId)
  if rival and rival.st == 'queued' then return rivalId, rival end
end

-- Before a command begins to wait: ends the one that it replaces. Answers which limit refuses it, nil if none does.
local function makeRoom(record, maxCommands, maxBytes)
  local rivalId, rival = rivalOf(record)
  local count, bytes = lane[record.ln] + 1, lane.bytes + tonumber(record.bb)
  if rival then
    count = count - 1
    bytes = bytes - tonumber(rival.bb)
  end
  if count > maxCommands then return 'commands' end
  if bytes > maxBytes then return 'bytes' end
  if rival then endWaiting(rivalId, rival, 'cancelled', 'superseded') end
end

local function nextPlace()
  lane.seq = lane.seq + 1
  return lane.seq
end

local function flightOf(id)
  for i, flight in ipairs(flights) do
    if flight[3] == id then return flight, i end
  end
end

local function takeOff(flightLane, flightEpoch, id, overdueMs)
  flights[#flights + 1] = { flightLane, flightEpoch, id }
  redis.call('ZADD', clockKey, integer(overdueMs + OVERDUE_GRACE_MS), 'f' .. id)
end

local function land(id)
  local _, i = flightOf(id)
  if i then table.remove(flights, i) end
  redis.call('ZREM', clockKey, 'f' .. id)
end

-- Back to its place, which it never lost: commands accepted after it have larger ones (I6).
local function requeue(id, record, notBeforeMs, reason)
  if not provisioned then return finish(id, record, 'cancelled', executedUnsent(record), 'device_removed') end
  local rivalId, rival = rivalOf(record)
  if rival and (rival.pl < 0 or rival.pl > record.pl) then
    return finish(id, record, 'cancelled', executedUnsent(record), 'superseded')
  end
  if rival then endWaiting(rivalId, rival, 'cancelled', 'superseded') end
  record.st = 'queued'
  record.rt = notBeforeMs
  redis.call('HSET', recordKey(id), 'st', 'queued', 'rt', integer(notBeforeMs), 'n', record.n, 'w', record.w, 'rc', reason)
  enterLane(id, record)
  if notBeforeMs > nowMs then redis.call('ZADD', clockKey, integer(notBeforeMs), 'r' .. id) end
  if redis.call('ZRANGE', LANE_KEYS[record.ln], 0, 0)[1] == id then lane.hold[record.ln] = notBeforeMs end
  announce(id, record, 'queued', nil, reason)
end

local function backoffMs(record)
  return math.min(tonumber(record.bo) * 2 ^ math.min(record.n - 1, 20), LONGEST_BACKOFF_MS)
end

-- An attempt is over and nobody will say how: again, if that is harmless (I7), else an end that says so (I4).
local function giveUp(id, record, state, reason)
  land(id)
  if record.ep ~= '0' and record.n < tonumber(record.ma) and nowMs < tonumber(record.exp) then
    requeue(id, record, nowMs + backoffMs(record), 'retry')
  else
    finish(id, record, state, 'maybe', reason)
  end
end

local function onOverdue(id, record)
  local flight = flightOf(id)
  if record.ep == '0' then
    giveUp(id, record, 'unknown', 'service_lost')
  elseif node and flight and flight[2] == epoch then
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
  redis.call('ZREM', clockKey, kind .. id)
  if not record then
    -- The store came back without it: what is left of it must not stop the others.
    redis.call('ZREM', normalKey, id)
    redis.call('ZREM', urgentKey, id)
  elseif record.st == 'queued' and kind == 'x' then
    endWaiting(id, record, 'expired', 'expired')
  end
end

-- Of those whose time has come, the earliest takes its place first; among equals the one that was accepted first (I6).
local function admit(ids)
  local arrivals = {}
  for _, id in ipairs(ids) do
    local record = load(id)
    if record and record.st == 'queued' then arrivals[#arrivals + 1] = { id = id, ln = record.ln, nb = tonumber(record.nb), pl = record.pl } end
    redis.call('ZREM', clockKey, 'n' .. id)
  end
  table.sort(arrivals, function(a, b) return a.nb < b.nb or (a.nb == b.nb and a.pl > b.pl) end)
  for _, arrival in ipairs(arrivals) do
    local place = nextPlace()
    redis.call('HSET', recordKey(arrival.id), 'pl', place)
    redis.call('ZADD', LANE_KEYS[arrival.ln], place, arrival.id)
  end
end

-- What waits for a device that was removed was never meant for the next one under its code.
local function abandon()
  if provisioned then return end
  for _, member in ipairs(redis.call('ZRANGE', clockKey, 0, ABANDON_LIMIT - 1)) do
    local id = string.sub(member, 2)
    local record = string.sub(member, 1, 1) ~= 'f' and load(id)
    if record and record.st == 'queued' then endWaiting(id, record, 'cancelled', 'device_removed') end
  end
end

-- Gives up what belongs to an older epoch: its session is over (D19).
local function lapse()
  for i = #flights, 1, -1 do
    local flightLane, flightEpoch, id = unpack(flights[i])
    if flightLane ~= 'd' and tonumber(flightEpoch) < tonumber(epoch) then
      local record = load(id)
      if record and record.st == 'sent' then giveUp(id, record, 'unknown', 'session_lost') else land(id) end
    end
  end
end

-- Everything that is due, at any time, by anybody.
local function tidy()
  lapse()
  abandon()
  local members = redis.call('ZRANGEBYSCORE', clockKey, '-inf', nowText, 'LIMIT', 0, TIDY_LIMIT)
  local arrived = {}
  for i, member in ipairs(members) do
    local kind, id = string.sub(member, 1, 1), string.sub(member, 2)
    if kind == 'n' then
      arrived[#arrived + 1] = id
    elseif i == 1 or redis.call('ZSCORE', clockKey, member) then
      -- Else what came before has ended it.
      onClock(kind, id)
    end
  end
  admit(arrived)
end

local function outOf(laneName)
  local count = 0
  for _, flight in ipairs(flights) do
    if flight[1] == laneName then count = count + 1 end
  end
  return count
end

-- Could something start, as far as this lane can tell?
local function isStartable(laneName)
  return lane[laneName] > 0 and lane.hold[laneName] <= nowMs and outOf(laneName) == 0
    and redis.call('ZCARD', LANE_KEYS[laneName]) > 0
end

-- Writes the lane back, notes when somebody must look again, forgets a lane in which nothing is open. Answers whether something could start,
-- and for which time a timer should be asked, '' for none, once per time. asks: nil if the caller's answer cannot carry it, 'unwatched' for
-- lanes that no node watches or whose timer has just fired (more may stand behind it), 'always'.
local function rest(asks)
  if waitingChange ~= 0 then redis.call('INCRBY', waitingKey, waitingChange) end
  local first = redis.call('ZRANGE', clockKey, 0, 0, 'WITHSCORES')
  if not first[1] then
    redis.call('DEL', laneKey)
    redis.call('ZREM', dueKey, code)
    return false, ''
  end
  local nextMs = tonumber(first[2])
  local startable = isStartable('u') or isStartable('n')
  local wakeMs = (startable and node) and math.min(nextMs, nowMs + WAKE_MS) or nextMs
  if not provisioned and lane.n + lane.u > 0 then wakeMs = nowMs end
  redis.call('ZADD', dueKey, integer(wakeMs), code)
  local timer = ''
  local hasFired = lane.timer > 0 and lane.timer <= nowMs
  if (asks == 'always' or (asks == 'unwatched' and (not node or hasFired))) and (lane.timer > nextMs or lane.timer <= nowMs) then
    lane.timer = nextMs
    timer = integer(nextMs)
  end
  local out = {}
  for i, flight in ipairs(flights) do out[i] = flight[1] .. ':' .. flight[2] .. ':' .. flight[3] .. ' ' end
  redis.call('HSET', laneKey, 'seq', lane.seq, 'n', lane.n, 'u', lane.u, 'bytes', integer(lane.bytes), 'out', table.concat(out),
    'hn', integer(lane.hold.n), 'hu', integer(lane.hold.u), 'timer', integer(lane.timer))
  return startable, timer
end
