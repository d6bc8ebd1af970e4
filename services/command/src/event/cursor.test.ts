import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { decodeCursor, encodeCursor, parseStartPoint, startPosition } from './cursor.ts';
import { beforeTime, comparePositions, ORIGIN, type Position } from './position.ts';

const NOW = Date.parse('2025-06-01T12:00:00Z');

const position: fc.Arbitrary<Position> = fc.oneof(
  fc.constant(ORIGIN),
  fc.record({ ms: fc.integer({ min: 1, max: 4e12 }), seq: fc.maxSafeNat() }),
);

const vector = fc
  .integer({ min: 1, max: 300 })
  .chain((shards) =>
    fc.tuple(
      fc.constant(shards),
      fc.uniqueArray(fc.nat({ max: shards - 1 }), { minLength: 1, maxLength: 32 }),
      fc.array(position, { minLength: 32, maxLength: 32 }),
    ),
  )
  .map(([shards, named, positions]) => {
    const sorted = [...named].sort((a, b) => a - b);
    return { shards, named: sorted, at: new Map(sorted.map((shard, i) => [shard, positions[i] ?? ORIGIN])) };
  });

describe('cursor', () => {
  it('gives back every position of every shard that it names', () => {
    fc.assert(
      fc.property(vector, ({ shards, named, at }) => {
        const text = encodeCursor(shards, named, (shard) => at.get(shard) ?? ORIGIN);
        expect(decodeCursor(text, shards)).toEqual(at);
        expect(decodeCursor(text, shards + 1)).toBeUndefined();
      }),
    );
  });

  it('is not accepted when any part of it is cut off', () => {
    fc.assert(
      fc.property(vector, fc.nat(), ({ shards, named, at }, where) => {
        const text = encodeCursor(shards, named, (shard) => at.get(shard) ?? ORIGIN);
        expect(decodeCursor(text.slice(0, where % text.length), shards)).toBeUndefined();
      }),
    );
  });

  it('is hardly ever accepted with one mistyped character', () => {
    const alphabet = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_';
    const text = encodeCursor(16, [1, 4, 9], (shard) => ({ ms: NOW - shard, seq: shard }));
    let accepted = 0;
    for (let i = 0; i < text.length - 1; i++) {
      for (const other of alphabet) {
        if (other === text[i]) continue;
        if (decodeCursor(text.slice(0, i) + other + text.slice(i + 1), 16) !== undefined) accepted += 1;
      }
    }
    expect(accepted / (text.length * 63)).toBeLessThan(0.01);
  });

  it('stays about 170 characters for 16 shards of one busy hour and about 25 for one device', () => {
    const shards = Array.from({ length: 16 }, (_, shard) => shard);
    const busy = (shard: number): Position => ({ ms: NOW - shard * 200_000, seq: 50_000_000 + shard });
    expect(encodeCursor(16, shards, busy).length).toBeLessThanOrEqual(180);
    expect(encodeCursor(16, [7], busy).length).toBeLessThanOrEqual(28);
  });

  it.each([
    '',
    'nonsense',
    '99-1735689600000-0',
    '07-1735689600000',
    '2025-13-40T00:00:00Z',
    '2031-01-01T00:00:00Z',
    'NaN',
    '2025-02-30T00:00:00Z',
    '2025-04-31T00:00:00Z',
  ])('refuses %j as a starting place', (text) => expect(parseStartPoint(text, 16, NOW)).toBeUndefined());

  it.each([
    ['2025-01-01T00:00:00Z', Date.UTC(2025, 0, 1)],
    ['2025-01-01t00:00:00.250z', Date.UTC(2025, 0, 1) + 250],
    ['2025-01-01T02:00:00+02:00', Date.UTC(2025, 0, 1)],
  ])('reads the time %s', (text, ms) => expect(parseStartPoint(text, 16, NOW)).toEqual({ from: 'time', ms }));

  it('refuses a text that is too long to be a cursor', () => {
    expect(parseStartPoint('A'.repeat(5000), 16, NOW)).toBeUndefined();
  });

  it('starts at a time with the events of that very millisecond', () => {
    const start = startPosition({ from: 'time', ms: 5000 }, 0, ORIGIN);
    expect(comparePositions(start, { ms: 5000, seq: 1 })).toBeLessThan(0);
    expect(comparePositions(start, { ms: 4999, seq: 1000 })).toBeGreaterThan(0);
  });

  it('starts exactly after an event in its own shard and not later than its time in all others', () => {
    const start = parseStartPoint('07-1735689600000-3', 16, NOW);
    if (start === undefined) throw new Error('not read');
    expect(startPosition(start, 7, ORIGIN)).toEqual({ ms: 1735689600000, seq: 3 });
    expect(comparePositions(startPosition(start, 8, ORIGIN), beforeTime(1735689600000))).toBeLessThan(0);
  });

  it('starts a wider filter than the cursor came from not later than the oldest place the cursor names', () => {
    const text = encodeCursor(16, [2, 5], (shard) => ({ ms: NOW - shard * 1000, seq: 1 }));
    const start = parseStartPoint(text, 16, NOW);
    if (start === undefined) throw new Error('not read');
    expect(startPosition(start, 5, ORIGIN)).toEqual({ ms: NOW - 5000, seq: 1 });
    expect(startPosition(start, 9, ORIGIN).ms).toBeLessThan(NOW - 5000);
  });
});
