import type { DeviceAnswer } from '@lapi-broker/protocol';
import { describe, expect, test } from 'vitest';
import { MAX_LATE_ANSWERS } from '../limits.ts';
import { type Call, type CallOutcome, Inflight, type WriteResult } from './inflight.ts';

const answer = (cseq: number): DeviceAnswer => ({
  type: 'response',
  url: '',
  cseq,
  responseCode: 0,
  statusCode: undefined,
  success: true,
  text: Buffer.from('{}'),
  cutStart: 2,
  cutEnd: 2,
  data: undefined,
});

function rig(options: { limit?: number; waiting?: number; readyAtMs?: number; result?: () => WriteResult } = {}) {
  const written: { url: string; cseq: number }[] = [];
  const outcomes = new Map<string, CallOutcome[]>();
  const line = {
    write: (call: Call, cseq: number): WriteResult => {
      const result = options.result?.() ?? 'written';
      if (result === 'written') written.push({ url: call.url, cseq });
      return result;
    },
  };
  const inflight = new Inflight(line, options.limit ?? 8, options.waiting ?? 64, options.readyAtMs ?? 0);
  const call = (url: string, deadlineMs = 10_000, priority = false): Call => ({
    method: 'GET',
    url,
    body: Buffer.alloc(0),
    deadlineMs,
    priority,
    settle: (outcome) => outcomes.set(url, [...(outcomes.get(url) ?? []), outcome]),
  });
  const outcomeOf = (url: string): string | undefined => outcomes.get(url)?.[0]?.outcome;
  return { inflight, call, written, outcomes, outcomeOf };
}

describe('calls of one session', () => {
  test('the ninth call waits for a free place and goes out with the first answer (C3, L17)', () => {
    const { inflight, call, written } = rig();
    for (let i = 1; i <= 9; i++) inflight.submit(call(`/${i}`), 0);
    expect(written.map((one) => one.url)).toEqual(['/1', '/2', '/3', '/4', '/5', '/6', '/7', '/8']);
    expect(inflight.answer(3, answer(3), 1)).toBe(true);
    expect(written.at(-1)).toEqual({ url: '/9', cseq: 9 });
  });

  test('answers are matched on Cseq in any order, an unknown or finished one is refused (E10, E13, L17)', () => {
    const { inflight, call, outcomeOf } = rig();
    inflight.submit(call('/a'), 0);
    inflight.submit(call('/b'), 0);
    expect(inflight.answer(2, answer(2), 1)).toBe(true);
    expect(outcomeOf('/b')).toBe('answered');
    expect(outcomeOf('/a')).toBeUndefined();
    expect(inflight.answer(2, answer(2), 1)).toBe(false);
    expect(inflight.answer(77, answer(77), 1)).toBe(false);
  });

  test('nothing is written before the first request may go, then in order (C2, L20)', () => {
    const { inflight, call, written } = rig({ readyAtMs: 2_000 });
    inflight.submit(call('/a'), 0);
    inflight.submit(call('/b'), 100);
    expect(inflight.look(1_999)).toBe(2_000);
    expect(written).toEqual([]);
    inflight.look(2_000);
    expect(written.map((one) => one.url)).toEqual(['/a', '/b']);
  });

  test('a call is out of time from its deadline on: written ones as timeout, waiting ones as not sent (C4, L18)', () => {
    const { inflight, call, outcomes } = rig({ limit: 1 });
    inflight.submit(call('/a', 1_000), 0);
    inflight.submit(call('/b', 1_000), 0);
    inflight.look(1_000);
    expect(outcomes.get('/a')).toEqual([{ outcome: 'timeout', written: true }]);
    expect(outcomes.get('/b')).toEqual([{ outcome: 'timeout_not_sent', written: false }]);
    expect(inflight.answer(1, answer(1), 1_001)).toBe(false);
  });

  test('a timed-out call frees its place', () => {
    const { inflight, call, written } = rig({ limit: 1 });
    inflight.submit(call('/mute', 1_000), 0);
    inflight.submit(call('/next', 5_000), 0);
    inflight.look(1_000);
    expect(written.map((one) => one.url)).toEqual(['/mute', '/next']);
  });

  test('the end of the session: written calls are unknown, waiting ones were never sent; none twice (D9, L19)', () => {
    const { inflight, call, outcomes } = rig({ limit: 1 });
    inflight.submit(call('/written'), 0);
    inflight.submit(call('/waiting'), 0);
    inflight.end();
    inflight.look(20_000);
    inflight.submit(call('/late'), 0);
    expect(outcomes.get('/written')).toEqual([{ outcome: 'outcome_unknown', written: true }]);
    expect(outcomes.get('/waiting')).toEqual([{ outcome: 'device_offline', written: false }]);
    expect(outcomes.get('/late')).toEqual([{ outcome: 'device_offline', written: false }]);
  });

  test('the queue is bounded: one more is refused as busy, nothing written (C3)', () => {
    const { inflight, call, outcomeOf } = rig({ limit: 1, waiting: 2 });
    for (const url of ['/1', '/2', '/3', '/4']) inflight.submit(call(url), 0);
    expect(outcomeOf('/4')).toBe('device_busy');
    expect(outcomeOf('/3')).toBeUndefined();
  });

  test('subscription calls overtake waiting ones but use the same budget (C3)', () => {
    const { inflight, call, written } = rig({ limit: 1 });
    inflight.submit(call('/1'), 0);
    inflight.submit(call('/2'), 0);
    inflight.submit(call('/subscription', 10_000, true), 0);
    inflight.answer(1, answer(1), 1);
    expect(written.map((one) => one.url)).toEqual(['/1', '/subscription']);
  });

  test('calls with priority keep their order among themselves', () => {
    const { inflight, call, written } = rig({ limit: 1 });
    inflight.submit(call('/1'), 0);
    for (const url of ['/a', '/b']) inflight.submit(call(url, 10_000, true), 0);
    for (const cseq of [1, 2]) inflight.answer(cseq, answer(cseq), 1);
    expect(written.map((one) => one.url)).toEqual(['/1', '/a', '/b']);
  });

  test('late answers are kept for the latest timed-out calls that want them, and their numbers are not used again (E11, E13)', () => {
    const { inflight, call, written } = rig({ limit: MAX_LATE_ANSWERS + 2 });
    const late: string[] = [];
    const wants = (url: string): Call => ({ ...call(url, 1_000), answeredLate: () => late.push(url) });
    inflight.submit(call('/indifferent', 1_000), 0);
    for (let i = 0; i <= MAX_LATE_ANSWERS; i++) inflight.submit(wants(`/${i}`), 0);
    inflight.look(1_000);
    expect(inflight.answer(1, answer(1), 1_001), 'nobody wants it').toBe(false);
    expect(inflight.answer(2, answer(2), 1_001), 'one too many').toBe(false);
    expect(inflight.answer(3, answer(3), 1_001)).toBe(true);
    Object.assign(inflight, { lastCseq: 3 });
    inflight.submit(call('/next'), 1_001);
    expect(written.at(-1)?.cseq).toBe(MAX_LATE_ANSWERS + 3);
    inflight.end();
    expect(inflight.answer(4, answer(4), 1_001), 'the session is over').toBe(false);
    expect(late).toEqual(['/1']);
  });

  test.each([
    ['busy', 'device_busy'],
    ['fenced', 'broker_unavailable'],
    ['closed', 'device_offline'],
  ] as const)('a write refused as %s is told as %s, nothing written', (result, outcome) => {
    const { inflight, call, outcomes } = rig({ result: () => result });
    inflight.submit(call('/a'), 0);
    expect(outcomes.get('/a')).toEqual([{ outcome, written: false }]);
    expect(inflight.pendingCount).toBe(0);
  });

  test('numbers wrap at 2^31 - 1 and skip pending ones (E11)', () => {
    const { inflight, call, written } = rig({ limit: 32 });
    inflight.submit(call('/held'), 0);
    Object.assign(inflight, { lastCseq: 2_147_483_646 });
    inflight.submit(call('/last'), 0);
    inflight.submit(call('/wrapped'), 0);
    expect(written.map((one) => one.cseq)).toEqual([1, 2_147_483_647, 2]);
  });

  test('every call is settled exactly once in random runs of all operations (I4)', () => {
    for (let seed = 1; seed <= 200; seed++) {
      let state = seed;
      const random = (): number => {
        state = (Math.imul(state, 1_103_515_245) + 12_345) & 0x7fffffff;
        return state / 0x7fffffff;
      };
      const results: WriteResult[] = ['written', 'written', 'written', 'busy', 'fenced'];
      const { inflight, call, outcomes } = rig({
        limit: 3,
        waiting: 4,
        readyAtMs: 500,
        result: () => results[Math.floor(random() * results.length)] as WriteResult,
      });
      let submitted = 0;
      for (let now = 0; now < 5_000; now += 50) {
        const dice = random();
        if (dice < 0.6) inflight.submit(call(`/${submitted++}`, now + 200 + random() * 2_000, random() < 0.1), now);
        else if (dice < 0.8) inflight.answer(1 + Math.floor(random() * submitted), answer(1), now);
        inflight.look(now);
        expect(inflight.pendingCount).toBeLessThanOrEqual(3);
      }
      inflight.end();
      expect(outcomes.size).toBe(submitted);
      expect([...outcomes.values()].every((list) => list.length === 1)).toBe(true);
    }
  });
});
