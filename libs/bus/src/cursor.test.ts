import fc from 'fast-check';
import { expect, test } from 'vitest';
import { eventOf } from './contract/event-stream.ts';
import { Cursor } from './cursor.ts';
import { compareEntryIds, type EntryId, type StreamEntry, ZERO_ID } from './event-stream.ts';

/** One server's stream: what it holds, read as XREAD does. */
class History {
  readonly entries: StreamEntry[];
  #lastMs: number;

  constructor(entries: readonly StreamEntry[] = [], clockMs = 20_000) {
    this.entries = [...entries];
    this.#lastMs = Math.max(clockMs, Number(entries.at(-1)?.id.split('-')[0] ?? 0));
  }

  write(seq: number, stepMs: number): void {
    this.#lastMs += stepMs;
    this.entries.push({ shard: 0, id: `${this.#lastMs}-${this.entries.length + 1}`, event: eventOf('cam-1', seq) });
  }

  get last(): EntryId {
    return this.entries.at(-1)?.id ?? ZERO_ID;
  }

  after(position: EntryId, count: number): readonly StreamEntry[] {
    return this.entries.filter(({ id }) => compareEntryIds(id, position) > 0).slice(0, count);
  }
}

function readAll(cursor: Cursor, history: History, heard: number[], count = 7): EntryId[] {
  const rewinds: EntryId[] = [];
  for (;;) {
    const entries = history.after(cursor.position, count);
    if (entries.length === 0) return rewinds;
    const { fresh, rewoundTo } = cursor.take(entries);
    if (rewoundTo !== undefined) rewinds.push(rewoundTo);
    heard.push(...fresh.map(({ event }) => event.seq));
  }
}

const steps = fc.array(fc.nat({ max: 3 }), { maxLength: 40 });

test('whatever end of its history a store forgets, no entry of the new one is skipped and none called back twice (D9)', () => {
  fc.assert(
    fc.property(
      steps,
      fc.nat({ max: 40 }),
      fc.nat({ max: 40 }),
      steps,
      steps,
      fc.integer({ min: -30, max: 30 }),
      (written, heardCount, keptCount, beforeResume, afterResume, skewMs) => {
        const first = new History();
        for (const [seq, step] of written.entries()) first.write(seq, step);
        const cursor = new Cursor(0, ZERO_ID);
        const heard: number[] = [];
        cursor.resume('first', first.last);
        if (heardCount > 0) readAll(cursor, new History(first.entries.slice(0, heardCount)), heard);
        const heardBefore = heard.length;

        const kept = first.entries.slice(0, keptCount);
        const second = new History(kept, 20_000 + written.length + skewMs);
        let seq = 1000;
        for (const step of beforeResume) second.write(seq++, step);
        cursor.resume('second', second.last);
        readAll(cursor, second, heard);
        for (const step of afterResume) second.write(seq++, step);
        readAll(cursor, second, heard);

        const known = new Set(heard.slice(0, heardBefore));
        const wanted = second.entries.map(({ event }) => event.seq).filter((each) => !known.has(each));
        expect(heard.slice(heardBefore)).toEqual(wanted);
      },
    ),
    { numRuns: 2000 },
  );
});

test('a new connection to the same run of the server repeats and rewinds nothing', () => {
  const history = new History();
  for (let seq = 0; seq < 50; seq++) history.write(seq, 1);
  const cursor = new Cursor(0, ZERO_ID);
  const heard: number[] = [];
  expect(cursor.resume('run', history.last)).toBeUndefined();
  readAll(cursor, history, heard);
  const position = cursor.position;
  expect(cursor.resume('run', history.last)).toBeUndefined();
  expect(cursor.position).toBe(position);
});

test('a restart that lost nothing repeats nothing and announces nothing', () => {
  const history = new History();
  for (let seq = 0; seq < 3000; seq++) history.write(seq, 1);
  const cursor = new Cursor(0, ZERO_ID);
  const heard: number[] = [];
  cursor.resume('one', history.last);
  readAll(cursor, history, heard, 100);
  expect(cursor.resume('two', history.last)).toBeUndefined();
  expect(readAll(cursor, history, heard, 100)).toEqual([]);
  expect(heard).toHaveLength(3000);
});

test('a stream that is shorter than our position is announced with its end, even before anything was heard', () => {
  const cursor = new Cursor(0, '50000-3');
  expect(cursor.resume('one', '40000-1')).toBe('40000-1');
  expect(compareEntryIds(cursor.position, '40000-1')).toBeLessThan(0);
});

test('a store that lost its end and has grown past our position since is announced, because its numbers go back', () => {
  const entry = (id: EntryId, seq: number): StreamEntry => ({ shard: 0, id, event: eventOf('cam-1', seq) });
  const kept = [entry('1000-1', 1), entry('1001-2', 2)];
  const cursor = new Cursor(0, ZERO_ID);
  cursor.resume('one', '1003-4');
  cursor.take([...kept, entry('1002-3', 3), entry('1003-4', 4)]);
  expect(cursor.resume('two', '2001-4')).toBeUndefined();
  const grown = [entry('2000-3', 5), entry('2001-4', 6)];
  const { fresh, rewoundTo } = cursor.take([...kept, ...grown]);
  expect(fresh).toEqual(grown);
  expect(rewoundTo).toBe('1001-2');
  expect(cursor.take([entry('2002-5', 7)]).rewoundTo).toBeUndefined();
});

test('a tail that begins at a time of day, which has no number, is not taken for cut back', () => {
  const cursor = new Cursor(0, '1000-18446744073709551615');
  cursor.resume('one', '1005-9');
  expect(cursor.take([{ shard: 0, id: '1001-7', event: eventOf('cam-1', 1) }]).rewoundTo).toBeUndefined();
});

test('when more was lost than is remembered, entries may repeat but none is skipped', () => {
  const first = new History();
  for (let seq = 0; seq < 3000; seq++) first.write(seq, 1);
  const cursor = new Cursor(0, ZERO_ID);
  const heard: number[] = [];
  cursor.resume('one', first.last);
  readAll(cursor, first, heard, 100);
  const second = new History(first.entries.slice(0, 500));
  for (let seq = 5000; seq < 5100; seq++) second.write(seq, 1);
  expect(cursor.resume('two', second.last)).toBe(second.last);
  heard.length = 0;
  readAll(cursor, second, heard, 100);
  expect(heard.filter((seq) => seq >= 5000)).toEqual(Array.from({ length: 100 }, (_, i) => 5000 + i));
});
