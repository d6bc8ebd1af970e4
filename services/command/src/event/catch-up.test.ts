import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { record } from '../testing/event-record.ts';
import { CatchUp } from './catch-up.ts';
import { OutgoingEvent } from './outgoing-event.ts';
import { comparePositions, ORIGIN, type Position } from './position.ts';
import { RecentEvents } from './recent-events.ts';

function eventAt(shard: number, ms: number, seq = 0): OutgoingEvent {
  return new OutgoingEvent(shard, { ms, seq }, record());
}

describe('CatchUp', () => {
  it('passes every wanted event on once, in order of time, whatever the pages and the pauses are', () => {
    const script = fc.record({
      shards: fc.array(fc.uniqueArray(fc.integer({ min: 1, max: 40 }), { maxLength: 12 }), {
        minLength: 1,
        maxLength: 4,
      }),
      page: fc.integer({ min: 1, max: 5 }),
      forgets: fc.array(fc.boolean(), { maxLength: 40 }),
      wanted: fc.func(fc.boolean()),
    });
    fc.assert(
      fc.property(script, ({ shards, page, forgets, wanted }) => {
        const stored = shards.map((times, shard) => [...times].sort((a, b) => a - b).map((ms) => eventAt(shard, ms)));
        const tailOf = (shard: number): Position => stored[shard]?.at(-1)?.position ?? ORIGIN;
        const catchUp = new CatchUp(stored.map((_, shard) => [shard, ORIGIN]));
        const passed: OutgoingEvent[] = [];
        for (let step = 0; ; step++) {
          if (forgets[step] === true) catchUp.forget();
          const next = catchUp.next(tailOf);
          if (next.status === 'done') break;
          if (next.status === 'event') {
            catchUp.pass(next.event);
            passed.push(next.event);
            continue;
          }
          for (const shard of catchUp.unread(tailOf)) {
            const read = catchUp.read(shard);
            const found = (stored[shard] ?? [])
              .filter(({ position }) => comparePositions(position, read) > 0)
              .slice(0, page);
            catchUp.add(
              shard,
              found.filter(({ position }) => wanted(shard, position.ms)),
              found.at(-1)?.position ?? tailOf(shard),
            );
          }
        }
        const expected = stored.flat().filter(({ shard, position }) => wanted(shard, position.ms));
        expect(new Set(passed)).toEqual(new Set(expected));
        expect(passed).toHaveLength(expected.length);
        for (let i = 1; i < passed.length; i++) {
          expect((passed[i] as OutgoingEvent).position.ms).toBeGreaterThanOrEqual(
            (passed[i - 1] as OutgoingEvent).position.ms,
          );
        }
        for (const shard of stored.keys()) expect(catchUp.passed(shard)).toEqual(tailOf(shard));
      }),
      { numRuns: 1000 },
    );
  });

  it('never names a place beyond an event that was read but not passed on', () => {
    const catchUp = new CatchUp([[0, ORIGIN]]);
    catchUp.add(0, [eventAt(0, 5), eventAt(0, 9)], { ms: 12, seq: 0 });
    expect(catchUp.passed(0)).toEqual(ORIGIN);
    catchUp.pass(eventAt(0, 5));
    expect(catchUp.passed(0)).toEqual({ ms: 5, seq: 0 });
    catchUp.pass(eventAt(0, 9));
    expect(catchUp.passed(0)).toEqual({ ms: 12, seq: 0 });
  });
});

describe('RecentEvents', () => {
  it('covers exactly the places after which it has every event, within its bounds', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(fc.integer({ min: 1, max: 3 }), fc.integer({ min: 0, max: 3000 })), { maxLength: 60 }),
        fc.integer({ min: 0, max: 130 }),
        (pushes, at) => {
          const recent = new RecentEvents(ORIGIN, 20_000, 10);
          const all: OutgoingEvent[] = [];
          let ms = 0;
          for (const [step, size] of pushes) {
            ms += step;
            const event = new OutgoingEvent(0, { ms, seq: 0 }, record({ data: Buffer.alloc(size) }));
            all.push(event);
            recent.push(event);
          }
          const place = { ms: at, seq: 0 };
          const expected = all.filter(({ position }) => comparePositions(position, place) > 0);
          if (recent.covers(place)) expect(recent.after(place)).toEqual(expected);
          else expect(expected.length === 0).toBe(false);
          expect(recent.after(ORIGIN).length).toBeLessThanOrEqual(10);
        },
      ),
    );
  });
});
