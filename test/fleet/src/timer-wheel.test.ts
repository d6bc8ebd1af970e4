/** The wheel with a clock of its own: nothing here waits for real time. */

import { afterEach, expect, test } from 'vitest';
import { TimerWheel } from './timer-wheel.ts';

let nowMs = 0;
let wheel = createWheel();

function createWheel(): TimerWheel {
  nowMs = 0;
  return new TimerWheel({ tickMs: 10, monotonicMs: () => nowMs });
}

function passTo(ms: number): void {
  nowMs = ms;
  wheel.advance();
}

afterEach(() => {
  wheel.stop();
  wheel = createWheel();
});

test('a timer fires once, not before its time and at most one tick late', () => {
  let fired = 0;
  wheel.after(55, () => {
    fired += 1;
  });
  passTo(54);
  expect(fired).toBe(0);
  passTo(60);
  expect(fired).toBe(1);
  passTo(200_000);
  expect(fired).toBe(1);
  expect(wheel.size).toBe(0);
});

test('a timer longer than one turn of the wheel waits for its own turn', () => {
  const fired: string[] = [];
  wheel.after(60_000, () => fired.push('minute'));
  wheel.after(100, () => fired.push('short'));
  for (let ms = 10; ms < 60_000; ms += 10) passTo(ms);
  expect(fired).toEqual(['short']);
  passTo(60_000);
  expect(fired).toEqual(['short', 'minute']);
});

test('a cancelled timer never fires, also when the one before it cancels it in the same tick', () => {
  const fired: string[] = [];
  const late = { timer: wheel.after(1000, () => fired.push('cancelled early')) };
  wheel.cancel(late.timer);
  wheel.cancel(late.timer);
  wheel.after(20, () => wheel.cancel(late.timer));
  late.timer = wheel.after(20, () => fired.push('cancelled late'));
  passTo(2000);
  expect(fired).toEqual([]);
  expect(wheel.size).toBe(0);
});

test('after a stall longer than the wheel everything overdue fires once', () => {
  let fired = 0;
  for (let index = 0; index < 3000; index += 1) {
    wheel.after(index * 10, () => {
      fired += 1;
    });
  }
  passTo(100_000);
  expect(fired).toBe(3000);
});

test('a timer set by a timer fires in a later tick', () => {
  const fired: number[] = [];
  wheel.after(10, () => {
    fired.push(1);
    wheel.after(0, () => fired.push(2));
  });
  passTo(10);
  expect(fired).toEqual([1]);
  passTo(20);
  expect(fired).toEqual([1, 2]);
});

test('a stopped wheel fires nothing and can be used again', () => {
  const fired: number[] = [];
  const before = wheel.after(10, () => fired.push(1));
  wheel.stop();
  passTo(100);
  wheel.after(10, () => fired.push(2));
  wheel.cancel(before);
  expect(wheel.size).toBe(1);
  passTo(200);
  expect(fired).toEqual([2]);
});
