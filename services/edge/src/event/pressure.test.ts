import { describe, expect, test } from 'vitest';
import { type Budgets, classOfKind, type EventClass, isTooFull, refusedBy } from './pressure.ts';

const LIMITS: Budgets = { sessionEvents: 16, sessionBytes: 1_600, nodeBytes: 3_200, waitMs: 320 };
const EMPTY: Budgets = { sessionEvents: 0, sessionBytes: 0, nodeBytes: 0, waitMs: 0 };

test('kinds fall into three classes', () => {
  expect(['alarm', 'alarm.MotionAlarmOn'].map(classOfKind)).toEqual(['alarm', 'alarm']);
  expect(['objectrealtimedata', 'radar.realtimeinfo'].map(classOfKind)).toEqual(['lossy', 'lossy']);
  expect(['structure', 'alarms.x', 'unhandled', ''].map(classOfKind)).toEqual(Array(4).fill('normal'));
});

describe.each([
  ['events of the session', 'session', 16, (n: number): Budgets => ({ ...EMPTY, sessionEvents: n }), 0],
  ['bytes of the session', 'session', 16, (n: number): Budgets => ({ ...EMPTY, sessionBytes: 100 * n }), 100],
  ['bytes of the node', 'node', 32, (n: number): Budgets => ({ ...EMPTY, nodeBytes: 100 * n }), 100],
  // The first 10 ms fit as well: it is the time so far, not that which this event adds.
  ['ms in the queue', 'wait', 32, (n: number): Budgets => ({ ...EMPTY, waitMs: 10 * (n + 1) }), 0],
] as const)('while %s fill up', (_name, refusal, whole, used, bytes) => {
  const taken = (eventClass: EventClass): number => {
    for (let n = 0; ; n++) {
      const answer = refusedBy(eventClass, bytes, used(n), LIMITS);
      if (answer === undefined) continue;
      expect(answer).toBe(refusal);
      return n;
    }
  };

  test('lossy kinds may fill half, ordinary ones seven eighths, alarms everything', () => {
    expect(taken('lossy')).toBe(whole / 2);
    expect(taken('normal')).toBe((whole * 7) / 8);
    expect(taken('alarm')).toBe(whole);
  });
});

test('while the memory of the store is used up, lossy kinds give way at 80 %, ordinary ones at 95 %, alarms never', () => {
  const refused = (usedPercent: number): EventClass[] =>
    (['lossy', 'normal', 'alarm'] as const).filter((eventClass) => isTooFull(eventClass, usedPercent));
  expect([79.9, 80, 94.9, 95, 100].map(refused)).toEqual([
    [],
    ['lossy'],
    ['lossy'],
    ['lossy', 'normal'],
    ['lossy', 'normal'],
  ]);
});
