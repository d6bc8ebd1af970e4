/** Which timers a schedule has on the way to its next moment. */

import { expect, test } from 'vitest';
import type { ScheduleRecord } from './schedule.ts';
import { ScheduleRunner } from './schedule-runner.ts';

const HOUR_MS = 3_600_000;
const ID = '0mwpkrnln61px3jxc9yf';

test('no timer is further ahead than an hour, so that those of removed schedules do not pile up', async () => {
  let nowMs = Date.parse('2026-12-31T20:30:00Z');
  const dueMs = Date.parse('2027-01-01T00:00:00Z');
  let schedule: ScheduleRecord | undefined = { nextAtMs: dueMs } as ScheduleRecord;
  const timers: { readonly id: string; readonly atMs: number }[] = [];
  const runner = new ScheduleRunner({
    store: { read: async () => schedule, advance: async () => true, due: async () => [] },
    time: { nowMs: () => nowMs },
    carryOut: async () => 'again',
    addTimer: async (id, delayMs) => {
      timers.push({ id, atMs: nowMs + delayMs });
    },
    onFiring: () => undefined,
    onFailure: (_, error) => expect.unreachable(String(error)),
  });
  await runner.arm(ID, dueMs);
  for (let at = 0; at < 3; at++) {
    nowMs = timers[at]?.atMs ?? Number.NaN;
    await runner.onTimer(timers[at]?.id ?? '', AbortSignal.abort());
  }
  expect(timers.map(({ atMs }) => (dueMs - atMs) / HOUR_MS)).toEqual([2.5, 1.5, 0.5, 0]);
  expect(new Set(timers.map(({ id }) => id)).size).toBe(timers.length);
  schedule = undefined;
  await runner.onTimer(timers[3]?.id ?? '', AbortSignal.abort());
  expect(timers).toHaveLength(4);
});
