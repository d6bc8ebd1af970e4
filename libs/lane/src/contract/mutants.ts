/** Damages one guard of the scripts after the other and says what noticed: the model (seed and step) or a named exact case. A mutant that nothing
 *  can notice carries the reason; one that survives without a reason, or is noticed in spite of one, fails the check. A place that is not in the
 *  scripts any more fails it, too. */

import type { RedisConnection } from '@lapi-broker/redis';
import { EXACT_CASES, runExactCase } from './exact-cases.ts';
import { ModelFailure, runModel } from './model-run.ts';
import { copyScripts, type Damage } from './model-scripts.ts';

export interface Mutant extends Damage {
  readonly name: string;
  /** Why no test can tell it from the original. */
  readonly equivalent?: string;
}

interface Place {
  readonly from: string;
  /** What each damage is called, and what it puts there. */
  readonly to: Readonly<Record<string, string>>;
  readonly equivalent?: string;
}

function inFile(file: string, places: readonly Place[]): Mutant[] {
  return places.flatMap(({ from, to, equivalent }) =>
    Object.entries(to).map(([name, text]) => ({
      name: `${file.replace('.lua', '')}: ${name}`,
      file,
      from,
      to: text,
      ...(equivalent !== undefined && { equivalent }),
    })),
  );
}

const STATE_TESTED_AGAIN = 'Whoever acts on a member of the clock tests the state of its record again.';

export const MUTANTS: readonly Mutant[] = [
  ...inFile('begin.lua', [
    { from: "if isLate then return { 'LATE' } end", to: { 'without notAfter': '' } },
    {
      from: 'if node ~= callerNode or epoch ~= callerEpoch then',
      to: {
        'without the node test': 'if epoch ~= callerEpoch then',
        'without the epoch test': 'if node ~= callerNode then',
        'without any owner test': 'if false then',
        'lets older epochs of the node in': 'if node ~= callerNode or tonumber(callerEpoch) > tonumber(epoch) then',
      },
    },
    { from: 'tidy()', to: { 'without lapse and clock': '' } },
    {
      from: 'if outOf(laneName) >= window then',
      to: { 'without the window test': 'if false then', 'window and one': 'if outOf(laneName) > window then' },
    },
    {
      from: "id = redis.call('ZRANGE', LANE_KEYS[laneName], 0, 0)[1]",
      to: { 'not the head of the lane': "id = redis.call('ZRANGE', LANE_KEYS[laneName], -1, -1)[1]" },
    },
    {
      from: "if id and (not record or record.st ~= 'queued') then",
      to: {
        'without the state test': 'if id and not record then',
        'without the record test': "if id and record and record.st ~= 'queued' then",
      },
    },
    {
      from: 'elseif record and tonumber(record.exp) <= nowMs then',
      to: { 'without the expiry test': 'elseif false then' },
    },
    {
      from: 'if not record or record.rt > nowMs then',
      to: {
        'without the backoff test': 'if not record then',
        'backoff one longer': 'if not record or record.rt >= nowMs and record.rt > 0 then',
      },
    },
    { from: 'leaveLane(id, record)', to: { 'stays in the lane': '' } },
    { from: 'record.n = record.n + 1', to: { 'does not count the attempt': '' } },
    { from: 'record.k = record.k + 1', to: { 'gives out an attempt number twice': 'record.k = record.n' } },
    { from: 'record.w = record.w + 1', to: { 'forgets that it may be written': '' } },
    {
      from: 'local dueMs = math.min(nowMs + tonumber(record.to), tonumber(record.exp))',
      to: { 'awaits answers beyond the deadline': 'local dueMs = nowMs + tonumber(record.to)' },
    },
    { from: 'takeOff(laneName, epoch, id, dueMs)', to: { 'is not noted as out': '' } },
    { from: 'ended, lane[laneName] }', to: { 'says that nothing else waits': 'ended, 0 }' } },
  ]),
  ...inFile('settle.lua', [
    {
      from: 'record.ep ~= attemptEpoch or record.k ~= tonumber(attempt)',
      to: {
        'without the epoch test': 'record.k ~= tonumber(attempt)',
        'without the attempt test': 'record.ep ~= attemptEpoch',
      },
    },
    { from: 'if not isOut and not isLateAnswer then', to: { 'without the state test': 'if false then' } },
    {
      from: "local isLateAnswer = kind == 'answered' and (record.st == 'timed_out' or record.st == 'unknown') and nowMs <= record.ea + lateMs",
      to: {
        'no late answers': 'local isLateAnswer = false',
        'late answers for ever':
          "local isLateAnswer = kind == 'answered' and (record.st == 'timed_out' or record.st == 'unknown')",
        'late window one shorter':
          "local isLateAnswer = kind == 'answered' and (record.st == 'timed_out' or record.st == 'unknown') and nowMs < record.ea + lateMs",
        'late answers to every end':
          "local isLateAnswer = kind == 'answered' and record.st ~= 'queued' and nowMs <= record.ea + lateMs",
        'late time-outs count':
          "local isLateAnswer = (record.st == 'timed_out' or record.st == 'unknown') and nowMs <= record.ea + lateMs",
      },
    },
    { from: "'lt', isOut and '' or '1'", to: { 'late is not said': "'lt', ''" } },
    { from: 'record.w = record.w - 1', to: { 'refused counts as written': '' } },
    {
      from: "finish(id, record, 'failed', executedUnsent(record), reason)",
      to: { 'refused is always no': "finish(id, record, 'failed', 'no', reason)" },
    },
    {
      from: "if attemptEpoch == '0' and record.ik ~= '' then freeIdempotencyKey(id, record) end",
      to: {
        'keeps the key of a refused call': '',
        'frees the key of a refused lane command': "if record.ik ~= '' then freeIdempotencyKey(id, record) end",
      },
    },
    {
      from: 'if isOut then land(id) end',
      to: { 'lands what is not out': 'land(id)' },
      equivalent: 'Landing what is not out does nothing.',
    },
    { from: 'lapse()\nrest()', to: { 'without rest': 'lapse()', 'without lapse': 'rest()' } },
  ]),
  ...inFile('give-back.lua', [
    {
      from: "record.st ~= 'sent' or record.ep ~= attemptEpoch or record.k ~= tonumber(attempt)",
      to: {
        'without the state test': 'record.ep ~= attemptEpoch or record.k ~= tonumber(attempt)',
        'without the epoch test': "record.st ~= 'sent' or record.k ~= tonumber(attempt)",
        'without the attempt test': "record.st ~= 'sent' or record.ep ~= attemptEpoch",
      },
    },
    { from: 'land(id)', to: { 'stays out': '' } },
    { from: 'record.n = record.n - 1', to: { 'counts the attempt': '' } },
    { from: 'record.w = record.w - 1', to: { 'counts as written': '' } },
    { from: 'if tonumber(record.exp) <= nowMs then', to: { 'without the expiry test': 'if false then' } },
    { from: 'lapse()', to: { 'without lapse': '' } },
  ]),
  ...inFile('cancel.lua', [
    { from: "if isLate then return { 'LATE' } end", to: { 'without notAfter': '' } },
    {
      from: "if record.st ~= 'queued' then return { 'NOT_QUEUED', record.st } end",
      to: { 'without the state test': '' },
    },
    { from: 'lapse()', to: { 'without lapse': '' } },
    { from: 'rest()', to: { 'without rest': '' } },
  ]),
  ...inFile('submit.lua', [
    { from: "if isLate then return { 'LATE' } end", to: { 'without notAfter': '' } },
    { from: "if not provisioned then return { 'UNKNOWN' } end", to: { 'without the device test': '' } },
    { from: "if known then return { 'REPEATED', id, known } end", to: { 'accepts an id twice': '' } },
    {
      from: "if earlierHash ~= requestHash then return { 'CONFLICT', earlierId } end",
      to: { 'without the comparison of requests': '' },
    },
    {
      from: 'if earlierState then',
      to: { 'without idempotency': 'if false then', 'a key without its command stays taken': 'if earlierId then' },
    },
    {
      from: "if tonumber(expiresAt) <= nowMs then return { 'EXPIRED' } end",
      to: {
        'without the deadline test': '',
        'deadline one later': "if tonumber(expiresAt) < nowMs then return { 'EXPIRED' } end",
      },
    },
    { from: 'tidy()', to: { 'overtakes what is due': '' } },
    {
      from: 'local limit = not isDirect and makeRoom(record, maxCommands, maxBytes)',
      to: {
        'without limits': 'local limit = false',
        'direct calls need room': 'local limit = makeRoom(record, maxCommands, maxBytes)',
      },
    },
    {
      from: "if idempotencyHash ~= '' then redis.call('SET'",
      to: { 'keeps no key': "if false then redis.call('SET'" },
    },
    {
      from: "local waits = notBefore ~= '' and tonumber(notBefore) > nowMs",
      to: {
        'without notBefore': 'local waits = false',
        'waits at its very moment': "local waits = notBefore ~= '' and tonumber(notBefore) >= nowMs",
      },
    },
    {
      from: 'record.pl = waits and -nextPlace() or nextPlace()',
      to: { 'has a place at once': 'record.pl = nextPlace()' },
    },
    { from: "takeOff('d', '0', id, tonumber(directUntil))", to: { 'a direct call is not noted as out': '' } },
    { from: "rest(waits and 'always' or 'unwatched')", to: { 'asks for no timer': 'rest()' } },
  ]),
  ...inFile('queue-direct.lua', [
    {
      from: "if record.st ~= 'sent' or record.md ~= 'direct-then-queue' or record.ep ~= '0' then",
      to: {
        'without the state test': "if record.md ~= 'direct-then-queue' or record.ep ~= '0' then",
        'without the epoch test': "if record.st ~= 'sent' or record.md ~= 'direct-then-queue' then",
      },
    },
    { from: 'land(id)', to: { 'stays out': '' } },
    { from: 'tidy()', to: { 'overtakes what is due': '' } },
    { from: 'if tonumber(record.exp) <= nowMs then', to: { 'without the deadline test': 'if false then' } },
    { from: 'local limit = makeRoom(record, maxCommands, maxBytes)', to: { 'without limits': 'local limit' } },
    {
      from: "if record.ik ~= '' then freeIdempotencyKey(id, record) end",
      to: { 'keeps the key': '' },
    },
    { from: "record.n, record.w, record.ep = 0, 0, ''", to: { 'counts the direct attempt': "record.ep = ''" } },
    { from: "local _, timer = rest('unwatched')", to: { 'asks for no timer': 'local _, timer = rest()' } },
  ]),
  ...inFile('due.lua', [
    {
      from: "'-inf', string.format('%.0f', nowMs), 'LIMIT'",
      to: { 'names what is not due': "'-inf', '+inf', 'LIMIT'" },
    },
    {
      from: "redis.call('ZADD', dueKey, string.format('%.0f', nowMs + turnMs), code) end",
      to: {
        'whoever takes a turn and dies ends it for all': "redis.call('ZREM', dueKey, code) end",
        'gives a turn twice': 'end',
      },
    },
  ]),
  ...inFile('tend.lua', [
    { from: 'tidy()', to: { 'does nothing': '' } },
    { from: "rest('unwatched')", to: { 'asks for no timer': 'rest()' } },
  ]),
  ...inFile('lane.lua', [
    { from: 'if record.code ~= code then return nil end', to: { 'takes records of other devices': '' } },
    {
      from: "return record.w > 0 and 'maybe' or 'no'",
      to: { 'ended unsent is always no': "return 'no'", 'ended unsent is always maybe': "return 'maybe'" },
    },
    {
      from: "if string.match(redis.call('GET', key) or '', '^(%w+) ') == id then redis.call('DEL', key) end",
      to: { 'frees the key of another': "redis.call('DEL', key)" },
    },
    {
      from: "redis.call('PEXPIRE', recordKey(id), keepMs)\n  announce(id, record, state, executed, reason)",
      to: { 'ended records stay for ever': 'announce(id, record, state, executed, reason)' },
    },
    {
      from: "if record.pl > 0 then redis.call('ZADD', LANE_KEYS[record.ln], record.pl, id) end",
      to: {
        'retries at the end of the lane':
          "if record.pl > 0 then redis.call('ZADD', LANE_KEYS[record.ln], lane.seq + 1, id) end",
      },
    },
    { from: "redis.call('ZADD', clockKey, record.exp, 'x' .. id)", to: { 'never expires': '' } },
    {
      from: "if record.ck ~= '' then redis.call('HSET', laneKey, coalesceField(record), id) end",
      to: { 'coalesces nothing': '' },
    },
    { from: '  lane.bytes = lane.bytes - tonumber(record.bb)', to: { 'bytes are not given back': '' } },
    { from: '  lane[record.ln] = lane[record.ln] - 1', to: { 'places are not given back': '' } },
    { from: '  waitingChange = waitingChange - 1', to: { 'waiting is not counted down': '' } },
    { from: '  lane.hold[record.ln] = 0\n', to: { 'a hold outlives its command': '' } },
    { from: "redis.call('ZREM', clockKey, 'x' .. id, 'n' .. id, 'r' .. id)", to: { 'stays in the clock': '' } },
    {
      from: "  redis.call('ZREM', LANE_KEYS[record.ln], id)\n  if record.ck",
      to: { 'stays in the lane': '  if record.ck' },
    },
    {
      from: "if record.ck ~= '' and redis.call('HGET', laneKey, coalesceField(record)) == id then",
      to: { 'forgets a newer command of the coalesce key': "if record.ck ~= '' then" },
      equivalent:
        'At most one command waits per lane and key, and the field names it: what enters ends or yields to the other first.',
    },
    { from: "if rival and rival.st == 'queued' then return rivalId, rival end", to: { 'never finds a rival': '' } },
    {
      from: "if rival and rival.st == 'queued' then",
      to: { 'replaces what is out': 'if rival then' },
      equivalent: 'The field of the coalesce key goes when its command leaves the lane.',
    },
    { from: 'count = count - 1', to: { 'what is replaced needs room': '' } },
    { from: 'bytes = bytes - tonumber(rival.bb)', to: { 'bytes that are replaced need room': '' } },
    {
      from: "if count > maxCommands then return 'commands' end",
      to: {
        'no limit of commands': '',
        'one command more': "if count > maxCommands + 1 then return 'commands' end",
        'one command less': "if count >= maxCommands then return 'commands' end",
      },
    },
    {
      from: "if bytes > maxBytes then return 'bytes' end",
      to: {
        'no limit of bytes': '',
        'one byte more': "if bytes > maxBytes + 1 then return 'bytes' end",
        'one byte less': "if bytes >= maxBytes then return 'bytes' end",
      },
    },
    {
      from: "integer(overdueMs + OVERDUE_GRACE_MS), 'f' .. id)",
      to: { 'anybody may give up at once': "integer(overdueMs), 'f' .. id)" },
    },
    { from: 'if i then table.remove(flights, i) end', to: { 'never lands': '' } },
    { from: "  redis.call('ZREM', clockKey, 'f' .. id)", to: { 'stays overdue': '' } },
    {
      from: 'if rival and (rival.pl < 0 or rival.pl > record.pl) then',
      to: {
        'an older command supersedes a newer one': 'if rival then',
        'never superseded on its way back': 'if false then',
      },
    },
    { from: 'record.rt = notBeforeMs\n', to: { 'answers without backoff': '' } },
    { from: "'rt', integer(notBeforeMs), 'n'", to: { 'without backoff': "'n'" } },
    {
      from: "if notBeforeMs > nowMs then redis.call('ZADD', clockKey, integer(notBeforeMs), 'r' .. id) end",
      to: { 'nobody looks when a backoff ends': '' },
    },
    {
      from: "if redis.call('ZRANGE', LANE_KEYS[record.ln], 0, 0)[1] == id then lane.hold[record.ln] = notBeforeMs end",
      to: { 'any retry holds its lane': 'lane.hold[record.ln] = notBeforeMs' },
    },
    {
      from: 'tonumber(record.bo) * 2 ^ math.min(record.n - 1, 20)',
      to: { 'backoff does not double': 'tonumber(record.bo)' },
    },
    { from: ', LONGEST_BACKOFF_MS)', to: { 'backoff without end': ', math.huge)' } },
    {
      from: "if record.ep ~= '0' and record.n < tonumber(record.ma) and nowMs < tonumber(record.exp) then",
      to: {
        'direct calls are repeated': 'if record.n < tonumber(record.ma) and nowMs < tonumber(record.exp) then',
        'repeats what may not be repeated': "if record.ep ~= '0' and nowMs < tonumber(record.exp) then",
        'one attempt more':
          "if record.ep ~= '0' and record.n <= tonumber(record.ma) and nowMs < tonumber(record.exp) then",
        'retries after the deadline': "if record.ep ~= '0' and record.n < tonumber(record.ma) then",
        'never tries again': 'if false then',
      },
    },
    {
      from: "finish(id, record, state, 'maybe', reason)",
      to: { 'given up is said not to be executed': "finish(id, record, state, 'no', reason)" },
    },
    {
      from: 'elseif node and flight and flight[2] == epoch then',
      to: {
        'a lost session is called silence': 'elseif true then',
        'without the node test': 'elseif flight and flight[2] == epoch then',
      },
    },
    {
      from: "if record and record.st == 'sent' then return onOverdue(id, record) end",
      to: { 'gives up what is not out': 'if record then return onOverdue(id, record) end' },
    },
    {
      from: "elseif record.st == 'queued' and kind == 'x' then",
      to: { 'expires what is out': "elseif kind == 'x' then", 'clock expires nothing': 'elseif false then' },
    },
    {
      from: "if record and record.st == 'queued' then arrivals",
      to: { 'lets in what does not wait': 'if record then arrivals' },
    },
    {
      from: 'return a.nb < b.nb or (a.nb == b.nb and a.pl > b.pl)',
      to: {
        'lets in by number alone': 'return a.pl > b.pl',
        'lets equals in backwards': 'return a.nb < b.nb or (a.nb == b.nb and a.pl < b.pl)',
      },
    },
    {
      from: "if flightLane ~= 'd' and tonumber(flightEpoch) < tonumber(epoch) then",
      to: {
        'never lapses': 'if false then',
        'lapses direct calls': 'if tonumber(flightEpoch) < tonumber(epoch) then',
        'lapses the current epoch': "if flightLane ~= 'd' and tonumber(flightEpoch) <= tonumber(epoch) then",
      },
    },
    {
      from: "if record and record.st == 'sent' then giveUp(id, record, 'unknown', 'session_lost') else land(id) end",
      to: { 'lapses what has ended': "if record then giveUp(id, record, 'unknown', 'session_lost') else land(id) end" },
    },
    {
      from: "elseif i == 1 or redis.call('ZSCORE', clockKey, member) then",
      to: { 'acts on what has just ended': 'else' },
      equivalent: STATE_TESTED_AGAIN,
    },
    { from: '  admit(arrived)', to: { 'nothing enters': '' } },
    {
      from: 'return lane[laneName] > 0 and lane.hold[laneName] <= nowMs and outOf(laneName) == 0',
      to: {
        'says that a held lane could start': 'return lane[laneName] > 0 and outOf(laneName) == 0',
        'says that a busy lane could start': 'return lane[laneName] > 0 and lane.hold[laneName] <= nowMs',
      },
    },
    {
      from: 'return lane[laneName] > 0 and',
      to: { 'asks empty lanes for their length': 'return' },
      equivalent: 'The length that is asked for says the same; the count only spares the question.',
    },
    { from: "    redis.call('DEL', laneKey)\n", to: { 'the lane stays when nothing is open': '' } },
    { from: "    redis.call('ZREM', dueKey, code)\n", to: { 'stays due when nothing is open': '' } },
    {
      from: 'math.min(nextMs, nowMs + WAKE_MS) or nextMs',
      to: { 'a lost wake-up is not repeated': 'nextMs or nextMs' },
    },
    { from: "redis.call('ZADD', dueKey, integer(wakeMs), code)", to: { 'nobody is told to look': '' } },
    {
      from: '(lane.timer > nextMs or lane.timer <= nowMs)',
      to: { 'asks for no earlier timer': 'lane.timer <= nowMs', 'asks for one timer only': 'lane.timer == 0' },
    },
  ]),
];

export interface Verdict {
  /** Caught, or known to be equivalent and not caught. */
  readonly isExplained: boolean;
  readonly text: string;
}

let runs = 0;

/** Short runs of several seeds find more than one long one: the model stops at the first thing that is wrong. */
export async function tryMutant(
  connection: RedisConnection,
  mutant: Mutant,
  { steps, seeds }: { readonly steps: number; readonly seeds: number },
): Promise<Verdict> {
  const copy = await copyScripts(mutant);
  try {
    const by = await catcher(connection, copy.folder, steps, seeds);
    if (by === undefined)
      return mutant.equivalent === undefined
        ? { isExplained: false, text: 'SURVIVED' }
        : { isExplained: true, text: `equivalent: ${mutant.equivalent}` };
    return { isExplained: mutant.equivalent === undefined, text: `caught by ${by}` };
  } finally {
    await copy.remove();
  }
}

async function catcher(
  connection: RedisConnection,
  scripts: URL,
  steps: number,
  seeds: number,
): Promise<string | undefined> {
  for (let seed = 1; seed <= seeds; seed++) {
    try {
      await runModel({ connection, scripts, prefix: `mutant${++runs}`, seed, steps });
    } catch (error) {
      if (error instanceof ModelFailure) return `the model: ${error.message}`;
      // A damaged script may also fail as a script.
      return `an error: ${error instanceof Error ? error.message : String(error)}`;
    }
  }
  for (const each of EXACT_CASES) {
    try {
      await runExactCase(each, connection, scripts, `mutant${++runs}`);
    } catch {
      return `"${each.name}"`;
    }
  }
  return undefined;
}
