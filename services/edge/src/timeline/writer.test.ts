import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';
import type { SessionEntry, TimelineEntry } from '@lapi-broker/timeline';
import { expect, test } from 'vitest';
import { MAX_TIMELINE_ENTRIES, TIMELINE_BATCH, TIMELINE_FLUSH_MS, UNKNOWN_REFUSALS_BURST } from '../limits.ts';
import { TimelineWriter } from './writer.ts';

const CODE = '210235TEST0000000001' as DeviceCode;

function sessionEntry(number: number): SessionEntry {
  return {
    type: 'session',
    code: CODE,
    session: `s${number}` as SessionId,
    node: 'edge-1.0m' as NodeId,
    epoch: number as Epoch,
    address: '192.0.2.1',
    openedAtMs: 1,
    endedAtMs: 2,
    reason: 'closed',
    secret: 'current',
    previous: undefined,
    heardAtMs: 2,
    keepalives: 0,
    frames: [],
  };
}

/** A store that can be away, and a clock that stands still. */
function open() {
  const bench = {
    nowMs: 0,
    away: false,
    batches: [] as (readonly TimelineEntry[])[],
    counted: { written: 0, dropped: 0 },
    refused: (code: string, reason: string, known = true): void =>
      writer.refused({
        code: code as DeviceCode,
        reason,
        address: '192.0.2.1',
        node: 'edge-1',
        atMs: bench.nowMs + 1e12,
        known,
      }),
    /** A look after so long, and what it began. */
    after: async (ms: number): Promise<void> => {
      bench.nowMs += ms;
      writer.look(bench.nowMs);
      for (let i = 0; i < 20; i++) await Promise.resolve();
    },
  };
  const writer = new TimelineWriter({
    timeline: {
      append: async (entries) => {
        if (bench.away) return entries;
        bench.batches.push(entries);
        return [];
      },
    },
    monotonicMs: () => bench.nowMs,
    count: (result, entries) => {
      bench.counted[result] += entries;
    },
  });
  const { refused, after } = bench;
  return { bench, writer, refused, after };
}

test('what happens within a moment is written in one go, and not before', async () => {
  const { bench, writer, after, refused } = open();
  writer.ended(() => sessionEntry(1));
  refused(CODE, 'bad_sign');
  await after(TIMELINE_FLUSH_MS - 1);
  expect(bench.batches).toEqual([]);
  await after(1);
  expect(bench.batches).toMatchObject([[{ type: 'session' }, { type: 'refused', reason: 'bad_sign', count: 1 }]]);
  await after(10_000);
  expect(bench.batches).toHaveLength(1);
});

test('refusals of one code for one reason are counted before they are stored', async () => {
  const { bench, after, refused } = open();
  for (let i = 0; i < 5; i++) {
    bench.nowMs += 10;
    refused(CODE, 'bad_sign');
    refused(CODE, 'nonce_expired');
  }
  refused('other', 'bad_sign');
  await after(TIMELINE_FLUSH_MS);
  expect(bench.batches).toMatchObject([
    [
      { code: CODE, reason: 'bad_sign', count: 5, firstAtMs: 1e12 + 10, lastAtMs: 1e12 + 50 },
      { code: CODE, reason: 'nonce_expired', count: 5 },
      { code: 'other', reason: 'bad_sign', count: 1 },
    ],
  ]);
});

test('refusals of codes that may be made up are written up to a rate; those of known devices all', async () => {
  const { bench, after, refused } = open();
  for (let i = 0; i < UNKNOWN_REFUSALS_BURST + 20; i++) refused(`made-up-${i}`, 'unknown_device', false);
  refused('real', 'bad_sign');
  await after(TIMELINE_FLUSH_MS);
  const written = bench.batches.flat();
  expect(written).toHaveLength(UNKNOWN_REFUSALS_BURST + 1);
  expect(written.at(-1)).toMatchObject({ code: 'real' });
  expect(bench.counted).toEqual({ written: UNKNOWN_REFUSALS_BURST + 1, dropped: 20 });
});

test('what the store did not take comes again, in order, until there is no room', async () => {
  const { bench, writer, after } = open();
  bench.away = true;
  for (let i = 0; i < MAX_TIMELINE_ENTRIES + 7; i++) writer.ended(() => sessionEntry(i));
  await after(TIMELINE_FLUSH_MS);
  expect(bench.counted).toEqual({ written: 0, dropped: 7 });
  bench.away = false;
  await after(60_000);
  await writer.stop();
  const sessions = bench.batches.flat().map((entry) => (entry.type === 'session' ? entry.session : ''));
  expect(sessions).toEqual(Array.from({ length: MAX_TIMELINE_ENTRIES }, (_, i) => `s${i}`));
  expect(Math.max(...bench.batches.map((batch) => batch.length))).toBe(TIMELINE_BATCH);
});

test('thousands of sessions that end in one moment are read batch by batch, each once', async () => {
  const { bench, writer } = open();
  const read: number[] = [];
  for (let i = 0; i < 3 * TIMELINE_BATCH; i++)
    writer.ended(() => {
      expect(bench.batches.length).toBe(Math.floor(read.length / TIMELINE_BATCH));
      read.push(i);
      return sessionEntry(i);
    });
  expect(read).toEqual([]);
  await writer.stop();
  expect(read).toEqual(Array.from({ length: 3 * TIMELINE_BATCH }, (_, i) => i));
});

test('a stop writes what waits, and gives up at once if the store is away', async () => {
  const { bench, writer } = open();
  writer.ended(() => sessionEntry(1));
  await writer.stop();
  expect(bench.batches.flat()).toHaveLength(1);
  bench.away = true;
  writer.ended(() => sessionEntry(2));
  await writer.stop();
  await writer.stop();
  expect(bench.counted).toEqual({ written: 1, dropped: 1 });
});
