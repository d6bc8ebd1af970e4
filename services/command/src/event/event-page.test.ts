/** Guards pages of stored events: complete, in order, exact about what is gone, bounded in work. */

import { ENTRY_BYTES, MemoryEventStream } from '@lapi-broker/bus';
import type { DeviceCode } from '@lapi-broker/protocol';
import { createKeyspace } from '@lapi-broker/redis';
import { describe, expect, it } from 'vitest';
import { record } from '../testing/event-record.ts';
import { parseStartPoint, type StartPoint } from './cursor.ts';
import { type EventPage, type PageBounds, readEventPage } from './event-page.ts';
import { FEED_LIMITS } from './feed-limits.ts';
import { type FilterTerms, parseFilter } from './filter.ts';
import { PageReader } from './page-reader.ts';
import { eventId, parsePosition } from './position.ts';

const START: StartPoint = { from: 'start' };
const SHARDS = 4;
const NAMED = [0, 1, 2, 3];

function rig(maxEvents = 10_000) {
  const keyspace = createKeyspace('t', SHARDS);
  const clock = { ms: 1_750_000_000_000 };
  const retention = { maxAgeMs: 1e9, maxBytes: maxEvents * (ENTRY_BYTES + 2) };
  const stream = new MemoryEventStream(keyspace, { retention, nowMs: () => clock.ms });
  const pages = new PageReader(stream, FEED_LIMITS);
  return {
    async append(code: string, part: Parameters<typeof record>[0] = {}): Promise<string> {
      clock.ms += 1;
      const id = await stream.append(record({ code: code as DeviceCode, ...part }));
      return eventId(keyspace.shardOf(code as DeviceCode), parsePosition(id));
    },
    page(start: StartPoint, limit: number, terms: FilterTerms = {}, bounds: PageBounds = FEED_LIMITS) {
      const parsed = parseFilter(terms);
      if (parsed.status === 'invalid') throw new Error(parsed.detail);
      return readEventPage(pages, SHARDS, NAMED, { filter: parsed.filter, start, limit }, bounds, () => true);
    },
  };
}

function from(text: string): StartPoint {
  const start = parseStartPoint(text, SHARDS, Date.now());
  if (start === undefined) throw new Error(`not a start: ${text}`);
  return start;
}

const idsOf = ({ events }: EventPage): string[] => events.map(({ shard, position }) => eventId(shard, position));

describe('pages of stored events', () => {
  it.each([1, 7, 100])(
    'follow each other by their cursors without hole or double, %i events each, in order of time',
    async (limit) => {
      const { append, page } = rig();
      const ids: string[] = [];
      for (let i = 0; i < 150; i++) ids.push(await append(`cam-${i % 11}`));
      const seen: string[] = [];
      let start: StartPoint = START;
      for (let more = true; more; ) {
        const next = await page(start, limit);
        expect(next.events.length).toBeLessThanOrEqual(limit);
        expect(next.gaps).toEqual([]);
        seen.push(...idsOf(next));
        more = next.more;
        start = from(next.cursor);
      }
      expect(seen).toEqual(ids);
      const later = await append('cam-3');
      expect(await page(start, limit).then(idsOf)).toEqual([later]);
    },
  );

  it('lead on through what does not match, a bounded piece at a time', async () => {
    const { append, page } = rig();
    for (let i = 0; i < 600; i++) await append(`cam-${i % 11}`);
    const wanted = await append('cam-1', { kind: 'structure' });
    const bounds: PageBounds = { answerBytes: 1e6, scanBytes: 20_000 };
    let start: StartPoint = START;
    const sizes: number[] = [];
    for (let more = true; more; ) {
      const next = await page(start, 100, { kinds: ['structure'] }, bounds);
      if (next.events.length > 0) expect(idsOf(next)).toEqual([wanted]);
      sizes.push(next.events.length);
      more = next.more;
      start = from(next.cursor);
    }
    expect(sizes.length).toBeGreaterThan(2);
    expect(sizes.reduce((sum, size) => sum + size)).toBe(1);
  });

  it('end early where events are large, and give one that is larger than a page alone', async () => {
    const { append, page } = rig();
    const data = Buffer.from(JSON.stringify('x'.repeat(5_000)));
    const ids = [await append('cam-1', { data }), await append('cam-1', { data }), await append('cam-1')];
    const bounds: PageBounds = { answerBytes: 4_000, scanBytes: 1e6 };
    const first = await page(START, 100, {}, bounds);
    const second = await page(from(first.cursor), 100, {}, bounds);
    const third = await page(from(second.cursor), 100, {}, bounds);
    expect([idsOf(first), idsOf(second), idsOf(third)]).toEqual(ids.map((id) => [id]));
    expect([first.more, second.more, third.more]).toEqual([true, true, false]);
  });

  it('tell exactly what is gone since the cursor, once, and nothing to who asks for the oldest kept', async () => {
    const { append, page } = rig(10);
    const old = [await append('cam-1'), await append('cam-1')];
    const { cursor } = await page(START, 100);
    const ids: string[] = [];
    for (let i = 0; i < 40; i++) ids.push(await append('cam-1'));
    const late = await page(from(cursor), 4);
    const shard = Number(old[1]?.slice(0, 2));
    expect(late.gaps).toEqual([{ shard, from: old[1], to: ids[30], count: 30, reason: 'trimmed' }]);
    expect(idsOf(late)).toEqual(ids.slice(30, 34));
    const rest = await page(from(late.cursor), 100);
    expect([rest.gaps, idsOf(rest)]).toEqual([[], ids.slice(34)]);
    const oldest = await page(START, 3);
    expect([oldest.gaps, idsOf(oldest)]).toEqual([[], ids.slice(30, 33)]);
    expect((await page(from(oldest.cursor), 3)).gaps).toEqual([]);
  });

  it('say so when a cursor names an event that the store has lost', async () => {
    const { append, page } = rig();
    const id = await append('cam-1');
    const [shard = '', ms] = id.split('-');
    const found = await page(from(`${shard}-${Number(ms) + 50}-5`), 10);
    expect(found.gaps).toMatchObject([{ shard: Number(shard), count: 5, reason: 'rewound' }]);
    expect(idsOf(found)).toEqual([id]);
  });

  it('begin with a cursor and nothing else for who wants only what comes', async () => {
    const { append, page } = rig();
    await append('cam-1');
    const begun = await page({ from: 'now' }, 10);
    expect([begun.events, begun.gaps, begun.more]).toEqual([[], [], false]);
    const id = await append('cam-2');
    expect(idsOf(await page(from(begun.cursor), 10))).toEqual([id]);
  });
});
