/** What a schedule does about moments that have passed. */

import { expect, test } from 'vitest';
import { planFiring } from './firing-plan.ts';

const at = (text: string): number => Date.parse(`2027-05-05T${text}Z`);
const everyMinute = { cron: '* * * * *', timeZone: 'UTC', graceMs: 60_000 };

test('nothing is done before its time', () => {
  expect(planFiring({ ...everyMinute, nextAtMs: at('10:00:00') }, at('09:59:59'))).toEqual({
    fireAtMs: undefined,
    latestMs: undefined,
    nextAtMs: at('10:00:00'),
    missed: 0,
  });
});

test('what is due fires, and the next moment is the one after', () => {
  expect(planFiring({ ...everyMinute, nextAtMs: at('10:00:00') }, at('10:00:00'))).toEqual({
    fireAtMs: at('10:00:00'),
    latestMs: at('10:00:00'),
    nextAtMs: at('10:01:00'),
    missed: 0,
  });
});

test('of several that passed only the latest fires; the others are counted', () => {
  expect(planFiring({ ...everyMinute, nextAtMs: at('10:00:00') }, at('10:07:30'))).toEqual({
    fireAtMs: at('10:07:00'),
    latestMs: at('10:07:00'),
    nextAtMs: at('10:08:00'),
    missed: 7,
  });
});

test('a moment that is older than the grace time does not fire', () => {
  const daily = { cron: '0 10 * * *', timeZone: 'UTC', graceMs: 60_000, nextAtMs: at('10:00:00') };
  const tomorrow = at('10:00:00') + 86_400_000;
  expect(planFiring(daily, at('10:01:00'))).toMatchObject({ fireAtMs: at('10:00:00'), nextAtMs: tomorrow, missed: 0 });
  expect(planFiring(daily, at('10:01:01'))).toEqual({
    fireAtMs: undefined,
    latestMs: at('10:00:00'),
    nextAtMs: tomorrow,
    missed: 1,
  });
});

test('a year of missed minutes costs no more than the counted ones', () => {
  const plan = planFiring({ ...everyMinute, nextAtMs: at('10:00:00') - 365 * 86_400_000 }, at('10:00:30'));
  expect(plan).toMatchObject({ fireAtMs: at('10:00:00'), nextAtMs: at('10:01:00') });
  expect(plan.missed).toBeGreaterThanOrEqual(100);
  expect(plan.missed).toBeLessThan(110);
});
