import fc from 'fast-check';
import { expect, it } from 'vitest';
import { Pending } from './pending.ts';

it('ids are never used twice', () => {
  const pending = new Pending(10);
  const ids = Array.from({ length: 1000 }, () => pending.nextId());
  expect(new Set(ids).size).toBe(1000);
});

it('more than the bound is refused, and room comes back', () => {
  const pending = new Pending<{ dueAtMs: number }>(2);
  pending.add(1, { dueAtMs: 1 });
  expect(pending.full).toBe(false);
  pending.add(2, { dueAtMs: 1 });
  expect(pending.full).toBe(true);
  expect(() => pending.add(3, { dueAtMs: 1 })).toThrow(RangeError);
  pending.delete(1);
  pending.add(3, { dueAtMs: 1 });
  expect(pending.size).toBe(2);
});

it('a sweep finds exactly what is due, also when entries go or move while it walks', () => {
  fc.assert(
    fc.property(
      fc.array(fc.integer({ min: 0, max: 100 }), { maxLength: 50 }),
      fc.integer({ min: 0, max: 100 }),
      (times, nowMs) => {
        const pending = new Pending<{ id: number; dueAtMs: number }>(100);
        times.forEach((dueAtMs, id) => {
          pending.add(id, { id, dueAtMs });
        });
        const found: number[] = [];
        pending.sweep(nowMs, (waiting) => {
          found.push(waiting.id);
          if (waiting.id % 2 === 0) pending.delete(waiting.id);
          else waiting.dueAtMs = nowMs + 1;
        });
        expect(found).toEqual(times.flatMap((dueAtMs, id) => (dueAtMs <= nowMs ? [id] : [])));
        const again: number[] = [];
        pending.sweep(nowMs, (waiting) => again.push(waiting.id));
        expect(again).toEqual([]);
      },
    ),
  );
});
