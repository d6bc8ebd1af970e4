import { expect, test } from 'vitest';
import { Fence } from './fence.ts';

test('a node writes to devices for 7 s after it sent its last confirmed renewal, not a moment longer (D8)', () => {
  const fence = new Fence(7_000);
  expect(fence.holds(0)).toBe(false);
  fence.confirm(1_000, 1_050);
  expect(fence.holds(7_999)).toBe(true);
  expect(fence.holds(8_000)).toBe(false);
});

test('a renewal whose answer took longer than the fence does not count', () => {
  const fence = new Fence(7_000);
  fence.confirm(0, 7_001);
  expect(fence.holds(7_001)).toBe(false);
});

test('an older renewal that is confirmed late does not shorten a newer one', () => {
  const fence = new Fence(7_000);
  fence.confirm(4_000, 4_010);
  fence.confirm(2_000, 4_020);
  expect(fence.holds(10_999)).toBe(true);
});

test('a lapsed lease ends all writing at once', () => {
  const fence = new Fence(7_000);
  fence.confirm(0, 1);
  fence.lapse();
  expect(fence.holds(2)).toBe(false);
});

test('a lapse does not make the last confirmation older; the next one ends the lapse', () => {
  const fence = new Fence(7_000);
  fence.confirm(1_000, 1_001);
  fence.lapse();
  expect(fence.ageMs(4_000)).toBe(3_000);
  fence.confirm(4_000, 4_010);
  expect(fence.holds(4_010)).toBe(true);
});
