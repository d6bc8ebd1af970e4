import type { AttemptEnd, BeginResult, LaneName } from '@lapi-broker/lane';
import type { CommandId, DeviceAnswer, DeviceCode, Epoch, NodeId } from '@lapi-broker/protocol';
import { describe, expect, test } from 'vitest';
import { BEGIN_FRESH_MS, BEGIN_NOT_AFTER_MS, LANE_PAUSE_MS, LATE_ANSWER_MS, MAX_MESSAGE_BYTES } from '../limits.ts';
import { type Call, Inflight, type WriteResult } from './inflight.ts';
import type { AttemptReport } from './lane-journal.ts';
import { type LaneHost, LaneRunner, type LaneSession } from './lane-runner.ts';

const TIMEOUT_MS = 5_000;

const answer = (cseq: number, text = '{"ResponseCode":0}', success = true): DeviceAnswer => ({
  type: 'response',
  url: '',
  cseq,
  responseCode: success ? 0 : 1,
  statusCode: undefined,
  success,
  text: Buffer.from(text),
  cutStart: text.length,
  cutEnd: text.length,
  data: undefined,
});

/** What reached the store and the device, in order: `begin normal`, `write /1`, `settle /1 answered`, `back /2 1`. */
function rig(
  options: { window?: number; limit?: number; readyAtMs?: number; deaf?: boolean; tellsLast?: boolean } = {},
) {
  const { window = 1, limit = 8, readyAtMs = 0, deaf = false, tellsLast = false } = options;
  const log: string[] = [];
  const queued: Record<LaneName, { id: string; attempt: number; bytes: number }[]> = { normal: [], urgent: [] };
  const written = new Map<string, number>();
  const reports: AttemptReport[] = [];
  const state = {
    nowMs: 0,
    mayBegin: true,
    confirmed: true,
    isUnavailable: false,
    isFenced: false,
    fenced: 0,
    result: 'written' as WriteResult,
    /** What the store answers arrives only then. */
    gate: undefined as Promise<void> | undefined,
  };
  const nameOf = (end: AttemptEnd): string => (end.kind === 'lost' || end.kind === 'refused' ? end.reason : end.kind);

  const host: LaneHost = {
    window,
    monotonicMs: () => state.nowMs,
    mayBegin: () => state.mayBegin,
    async begin(_session, lane): Promise<BeginResult | { status: 'unavailable' }> {
      log.push(`begin ${lane}`);
      if (state.isFenced) return { status: 'fenced' };
      const next = state.isUnavailable ? undefined : queued[lane].shift();
      const isLast = tellsLast && queued[lane].length === 0;
      const { isUnavailable, gate } = state;
      await gate;
      if (isUnavailable) return { status: 'unavailable' };
      if (next === undefined) return { status: 'idle', nextMs: undefined, ended: [] };
      const command = {
        id: next.id as CommandId,
        attempt: next.attempt,
        lane,
        method: 'PUT' as const,
        url: `/${next.id}`,
        body: Buffer.alloc(next.bytes),
        writes: next.attempt,
        leftMs: TIMEOUT_MS,
      };
      return { status: 'begun', command, isLast, ended: [] };
    },
    confirmed: async () => state.confirmed,
    hasWritten: ({ id, attempt }) => (written.get(id) ?? 0) >= attempt,
    wrote: (id, attempt) => void written.set(id, attempt),
    report(report) {
      const { id, attempt } = report.attempt;
      log.push(report.end === undefined ? `back /${id} ${attempt}` : `settle /${id} ${nameOf(report.end)}`);
      reports.push(report);
      if (!deaf) void Promise.resolve().then(report.heard);
    },
    waitFor: () => undefined,
    fenced: () => void state.fenced++,
    count: () => undefined,
  };
  const calls = new Inflight(
    {
      write: (call: Call, cseq: number): WriteResult => {
        const result = call.epoch === session.epoch ? state.result : 'fenced';
        if (result === 'written') log.push(`write ${call.url} ${cseq}`);
        return result;
      },
    },
    limit,
    64,
    readyAtMs,
  );
  const session = {
    code: 'DEVICE-1' as DeviceCode,
    node: 'edge.1' as NodeId,
    epoch: 7 as Epoch,
    isOpen: true,
    leaving: false,
    congested: false,
    readyAtMs,
    lanes: undefined as LaneRunner | undefined,
    submit: (call: Call) => calls.submit(call, state.nowMs),
    lookAt: () => undefined,
  } satisfies LaneSession as { -readonly [Key in keyof LaneSession]: LaneSession[Key] };

  /** Lets everything that is under way come to rest. */
  const settle = async (): Promise<void> => {
    for (let i = 0; i < 50; i++) await Promise.resolve();
  };
  return {
    log,
    state,
    session,
    calls,
    reports,
    settle,
    add(lane: LaneName, ...ids: string[]): void {
      for (const id of ids) queued[lane].push({ id, attempt: 1, bytes: 0 });
    },
    put(lane: LaneName, id: string, attempt: number, bytes = 0): void {
      queued[lane].unshift({ id, attempt, bytes });
    },
    async wake(): Promise<void> {
      session.lanes ??= new LaneRunner(host, session);
      session.lanes.wake();
      await settle();
    },
    async answer(cseq: number, text?: string, success?: boolean): Promise<boolean> {
      const known = calls.answer(cseq, answer(cseq, text, success), state.nowMs);
      await settle();
      return known;
    },
    async pass(ms: number): Promise<void> {
      state.nowMs += ms;
      calls.look(state.nowMs);
      session.lanes?.look(state.nowMs);
      await settle();
    },
    async end(): Promise<void> {
      session.isOpen = false;
      calls.end();
      await settle();
    },
    hold(): () => void {
      const { promise, resolve } = Promise.withResolvers<void>();
      state.gate = promise;
      return resolve;
    },
    writes: () => log.filter((line) => line.startsWith('write')),
    take: () => log.splice(0),
  };
}

describe('the lanes of one session', () => {
  test('the next command is begun in the tick in which the one before ended, behind its end (D9)', async () => {
    const { add, wake, answer, take, session } = rig();
    add('normal', '1', '2');
    await wake();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'write /1 1']);
    await answer(1);
    expect(take()).toEqual(['settle /1 answered', 'begin normal', 'write /2 2']);
    await answer(2, undefined, false);
    expect(take()).toEqual(['settle /2 answered', 'begin normal']);
    expect(session.lanes, 'nothing is remembered of an idle device').toBeUndefined();
  });

  test('a lane that holds nothing else is not asked for the next after an answer', async () => {
    const { add, wake, answer, take, session } = rig({ tellsLast: true });
    add('normal', '1', '2');
    await wake();
    await answer(1);
    take();
    await answer(2);
    expect(take()).toEqual(['settle /2 answered']);
    expect(session.lanes).toBeUndefined();
  });

  test('what comes behind the last command of a lane is asked for, whenever it is told', async () => {
    for (const moment of ['begin', 'out'] as const) {
      const { add, wake, answer, take, settle, hold } = rig({ tellsLast: true });
      add('normal', '1');
      const open = moment === 'begin' ? hold() : () => undefined;
      await wake();
      add('normal', '2');
      await wake();
      open();
      await settle();
      take();
      await answer(1);
      expect(take(), moment).toEqual(['settle /1 answered', 'begin normal', 'write /2 2']);
    }
  });

  test('the last command of a lane may come again when it was not answered', async () => {
    const { add, wake, pass, take } = rig({ tellsLast: true });
    add('normal', '1');
    await wake();
    take();
    await pass(TIMEOUT_MS);
    expect(take()).toEqual(['settle /1 timed_out', 'begin normal']);
  });

  test('at most `window` commands of a lane are unanswered, and the other lane does not wait for them', async () => {
    const { add, wake, answer, writes, pass } = rig({ window: 2 });
    add('normal', '1', '2', '3', '4');
    await wake();
    expect(writes()).toEqual(['write /1 1', 'write /2 2']);
    add('urgent', '9');
    await wake();
    expect(writes().at(-1)).toBe('write /9 3');
    await answer(2);
    expect(writes().at(-1)).toBe('write /3 4');
    await pass(TIMEOUT_MS - 1);
    expect(writes()).toHaveLength(4);
  });

  test('nothing is begun before the first request may go (C2), while the node may not write (D8), or into a full buffer', async () => {
    const { add, wake, take, state, session, pass } = rig({ readyAtMs: 2_000 });
    add('normal', '1');
    await wake();
    await pass(1_999);
    expect(take()).toEqual([]);
    state.mayBegin = false;
    await pass(1);
    state.mayBegin = true;
    session.congested = true;
    await pass(LANE_PAUSE_MS);
    expect(take()).toEqual([]);
    session.congested = false;
    await pass(LANE_PAUSE_MS);
    expect(take()).toContain('write /1 1');
  });

  test('a session that leaves begins nothing more and gives back what it has just begun', async () => {
    const { add, wake, answer, take, hold, session, settle } = rig();
    add('normal', '1', '2', '3');
    await wake();
    take();
    const release = hold();
    await answer(1);
    expect(session.lanes?.unfinished).toBe(1);
    session.leaving = true;
    release();
    await settle();
    expect(take()).toEqual(['settle /1 answered', 'begin normal', 'back /2 1']);
    await wake();
    expect(take()).toEqual([]);
  });

  test('what no replica confirmed is not written: it goes back, and the device rests for a while (D4)', async () => {
    const { add, put, wake, take, state, pass } = rig();
    add('normal', '1');
    state.confirmed = false;
    await wake();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'back /1 1']);
    put('normal', '1', 1);
    state.confirmed = true;
    await pass(LANE_PAUSE_MS - 1);
    expect(take()).toEqual([]);
    await pass(1);
    expect(take()).toContain('write /1 1');
  });

  test('a lane begins nothing until the store has taken what was given back', async () => {
    const { add, put, wake, take, state, reports, pass, settle } = rig({ deaf: true });
    add('normal', '1');
    state.confirmed = false;
    await wake();
    put('normal', '1', 1);
    state.confirmed = true;
    take();
    await pass(10 * LANE_PAUSE_MS);
    await wake();
    expect(take().filter((line) => line === 'begin normal')).toEqual([]);
    for (const report of reports) report.heard();
    await settle();
    expect(take()).toEqual(['begin normal', 'write /1 1']);
  });

  test('nothing of a lane is written while an earlier command of it waits for its write, whatever the window (I6)', async () => {
    const { add, put, wake, take, pass, answer } = rig({ window: 3, limit: 1 });
    add('normal', '1', '2', '3');
    await wake();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'write /1 1', 'begin normal']);
    // The second waits in the session for its place until it is out of time.
    await pass(TIMEOUT_MS - 1);
    expect(take()).toEqual([]);
    put('normal', '2', 1);
    await pass(1);
    expect(take()).toEqual(['settle /1 timed_out', 'back /2 1']);
    await pass(LANE_PAUSE_MS);
    expect(take().filter((line) => line.startsWith('write'))).toEqual(['write /2 2']);
    await answer(2);
    expect(take()).toContain('write /3 3');
  });

  test.each(['busy', 'fenced', 'closed'] as const)('a write that did not happen (%s) is given back', async (result) => {
    const { add, wake, take, state } = rig();
    add('normal', '1');
    state.result = result;
    await wake();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'back /1 1']);
  });

  test('a command that was begun under an earlier epoch is never written (C6, I3)', async () => {
    const { add, wake, take, hold, state, session, settle, pass, answer } = rig({ limit: 1, window: 2 });
    const release = hold();
    add('normal', '1');
    await wake();
    session.epoch = 8 as Epoch;
    release();
    await settle();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'back /1 1']);
    state.gate = undefined;
    add('normal', '2', '3');
    await pass(LANE_PAUSE_MS);
    expect(take()).toContain('write /2 1');
    // The third waits for its place when the epoch changes.
    session.epoch = 9 as Epoch;
    await answer(1);
    expect(take()).toContain('back /3 1');
  });

  test('a node that the store does not know as the owner begins nothing, and asks once in a while who is (I3)', async () => {
    const { add, wake, take, state, pass } = rig();
    add('normal', '1');
    state.isFenced = true;
    await wake();
    await wake();
    expect([take(), state.fenced]).toEqual([['begin normal', 'begin urgent'], 2]);
    state.isFenced = false;
    await pass(LANE_PAUSE_MS);
    expect(take()).toContain('write /1 1');
  });

  test('the store hands out nothing so late that nobody would hear of it', () => {
    expect(BEGIN_NOT_AFTER_MS).toBeLessThan(BEGIN_FRESH_MS);
  });

  test('what was begun long ago is given back, because a process that was paused may not know yet that the device has moved (3.4)', async () => {
    const { add, wake, take, hold, pass, settle } = rig();
    const release = hold();
    add('normal', '1');
    add('urgent', '2');
    await wake();
    await pass(BEGIN_FRESH_MS + 1);
    release();
    await settle();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'back /1 1', 'back /2 1']);
  });

  test('a session that ends: what was written is lost, what waited goes back (D9)', async () => {
    const { add, wake, take, end } = rig({ limit: 1, window: 2 });
    add('normal', '1', '2');
    await wake();
    take();
    await end();
    expect(take()).toEqual(['settle /1 session_lost', 'back /2 1']);
  });

  test('a mute device costs its lane one timeout per command, and its late answer is told to the store (E10, E13)', async () => {
    const { add, wake, take, pass, answer, reports } = rig();
    add('normal', '1', '2');
    await wake();
    take();
    await pass(TIMEOUT_MS);
    expect(take()).toEqual(['settle /1 timed_out', 'begin normal', 'write /2 2']);
    expect(await answer(1, '{"Data":{"late":1}}')).toBe(true);
    expect(take()).toEqual(['settle /1 answered']);
    const { attempt, end } = reports.at(-1) as AttemptReport;
    expect(attempt).toMatchObject({ id: '1', epoch: 7, attempt: 1 });
    expect(end?.kind === 'answered' && Buffer.from(end.body).toString()).toBe('{"Data":{"late":1}}');
    expect(await answer(1), 'a second one is unknown').toBe(false);
  });

  test('a late answer is taken for ten minutes', async () => {
    const { add, wake, pass, answer } = rig();
    add('normal', '1', '2');
    await wake();
    await pass(TIMEOUT_MS);
    await pass(TIMEOUT_MS);
    await pass(LATE_ANSWER_MS - TIMEOUT_MS - 1);
    expect(await answer(2)).toBe(true);
    await pass(1);
    expect(await answer(1)).toBe(false);
  });

  test('the answer is copied: the device message may be gone when the store takes it (E8)', async () => {
    const { add, wake, calls, reports, settle } = rig();
    add('normal', '1');
    await wake();
    const view = answer(1, '{"Data":1}');
    calls.answer(1, view, 0);
    view.text.fill(0);
    await settle();
    const end = reports[0]?.end;
    expect(end?.kind === 'answered' && Buffer.from(end.body).toString()).toBe('{"Data":1}');
  });

  test('an attempt that this process wrote before is not written again when the store has forgotten it (I7)', async () => {
    const { add, put, wake, take, answer } = rig();
    add('normal', '1', '2');
    await wake();
    put('normal', '1', 1);
    take();
    await answer(1);
    expect(take()).toEqual([
      'settle /1 answered',
      'begin normal',
      'settle /1 store_rewound',
      'begin normal',
      'write /2 2',
    ]);
  });

  test('a further attempt of a repeatable command is written', async () => {
    const { add, put, wake, take, pass } = rig();
    add('normal', '1');
    await wake();
    put('normal', '1', 2);
    take();
    await pass(TIMEOUT_MS);
    expect(take()).toEqual(['settle /1 timed_out', 'begin normal', 'write /1 2']);
  });

  test('a command that is too large for a device ends unsent and stops nobody', async () => {
    const { add, put, wake, take } = rig();
    add('normal', '2');
    put('normal', '1', 1, MAX_MESSAGE_BYTES);
    await wake();
    expect(take()).toEqual([
      'begin normal',
      'begin urgent',
      'settle /1 request_too_large',
      'begin normal',
      'write /2 1',
    ]);
  });

  test('a store that does not answer is asked again, and a wake-up that came meanwhile is not lost', async () => {
    const { add, wake, take, hold, state, pass, settle } = rig();
    state.isUnavailable = true;
    await wake();
    take();
    await pass(LANE_PAUSE_MS - 1);
    expect(take()).toEqual([]);
    const release = hold();
    await pass(1);
    await wake();
    expect(take()).toEqual(['begin normal', 'begin urgent']);
    state.gate = undefined;
    state.isUnavailable = false;
    add('urgent', '1');
    release();
    await settle();
    expect(take()).toEqual(['begin normal', 'begin urgent', 'write /1 1']);
  });
});
