import { setImmediate as tick } from 'node:timers/promises';
import {
  ENTRY_BYTES,
  type EntryId,
  type EventStream,
  MemoryEventStream,
  type StreamBounds,
  type StreamEntry,
  ZERO_ID,
} from '@lapi-broker/bus';
import { waitFor } from '@lapi-broker/fixture';
import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import { createKeyspace, type Keyspace } from '@lapi-broker/redis';
import { afterEach, describe, expect, it } from 'vitest';
import { Collector } from '../testing/event-collector.ts';
import { record } from '../testing/event-record.ts';
import { parseStartPoint, type StartPoint } from './cursor.ts';
import { EventFeed } from './event-feed.ts';
import type { FeedLimits } from './feed-limits.ts';
import { type FilterTerms, parseFilter } from './filter.ts';
import { eventId, parsePosition } from './position.ts';

const NOW: StartPoint = { from: 'now' };
const START: StartPoint = { from: 'start' };
/** What a record of these tests takes of the limit of a shard. */
const RECORD_BYTES = ENTRY_BYTES + 2;
const quiet = { info: () => undefined, warn: () => undefined };

/** A stream whose answers a test can spoil. */
class FaultyStream implements EventStream {
  #inner: EventStream;
  away: boolean = false;
  /** Entries that the tail loses. */
  loses: (entry: StreamEntry) => boolean = () => false;
  boundsOf: (shard: number, bounds: StreamBounds) => StreamBounds = (_, bounds) => bounds;
  reads = 0;
  tails = 0;
  rewind: ((shard: number, to: EntryId) => void) | undefined;
  /** What the end of a tail waits for. */
  closes: Promise<void> = Promise.resolve();

  constructor(inner: EventStream) {
    this.#inner = inner;
  }

  get shards(): number {
    return this.#inner.shards;
  }

  /** From here on another store answers; tails that are open hear nothing any more. */
  failOver(to: EventStream): void {
    this.#inner = to;
  }

  append(event: Parameters<EventStream['append']>[0]): Promise<EntryId> {
    return this.#inner.append(event);
  }

  read(shard: number, after: EntryId, count: number): Promise<readonly StreamEntry[]> {
    this.reads += 1;
    return this.away ? unavailable() : this.#inner.read(shard, after, count);
  }

  async bounds(shard: number): Promise<StreamBounds> {
    return this.away ? await unavailable() : this.boundsOf(shard, await this.#inner.bounds(shard));
  }

  trim(shard: number): ReturnType<EventStream['trim']> {
    return this.#inner.trim(shard);
  }

  async tail(...[from, onEntries, onRewound]: Parameters<EventStream['tail']>): ReturnType<EventStream['tail']> {
    if (this.away) await unavailable();
    this.tails += 1;
    this.rewind = onRewound;
    const tail = await this.#inner.tail(from, (shard, entries) => {
      const kept = entries.filter((entry) => !this.loses(entry));
      if (kept.length > 0) onEntries(shard, kept);
    });
    return {
      close: async () => {
        await this.closes;
        await tail.close();
      },
    };
  }
}

function unavailable(): Promise<never> {
  return Promise.reject(new BrokerError('broker_unavailable', 'store away'));
}

interface Rig {
  readonly keyspace: Keyspace;
  readonly stream: FaultyStream;
  readonly feed: EventFeed;
  readonly clock: { ms: number };
  append(code: string, part?: Parameters<typeof record>[0]): Promise<string>;
  /** Another store takes over, which has only the first `kept` entries of each shard, and a clock that differs by `skewMs`. */
  failOver(kept: number, skewMs?: number): Promise<void>;
  join(terms: FilterTerms, start: StartPoint, sink?: Collector): Joined;
}

interface Joined {
  readonly sink: Collector;
  readonly subscription: ReturnType<EventFeed['join']>;
}

const feeds: EventFeed[] = [];
afterEach(async () => {
  for (const feed of feeds.splice(0)) await feed.stop();
});

function rig(options: { maxLength?: number; shards?: number; limits?: Partial<FeedLimits> } = {}): Rig {
  const keyspace = createKeyspace('t', options.shards ?? 4);
  const clock = { ms: 1_000_000 };
  const retention = { maxAgeMs: 1e9, maxBytes: (options.maxLength ?? 10_000) * RECORD_BYTES };
  const stream = new FaultyStream(
    new MemoryEventStream(keyspace, { retention, nowMs: () => 1_750_000_000_000 + clock.ms }),
  );
  const feed = new EventFeed({
    stream,
    shardOf: (code) => keyspace.shardOf(code),
    clock: { nowMs: () => clock.ms, monotonicMs: () => clock.ms },
    log: quiet,
    limits: { retryMs: 1, sweepMs: 2, auditMs: 2, ...options.limits },
  });
  feeds.push(feed);
  return {
    keyspace,
    stream,
    feed,
    clock,
    async append(code, part = {}) {
      const shard = keyspace.shardOf(code as DeviceCode);
      return eventId(shard, parsePosition(await stream.append(record({ code: code as DeviceCode, ...part }))));
    },
    async failOver(kept, skewMs = 0) {
      let replayedMs: number | undefined;
      const replica = new MemoryEventStream(keyspace, {
        retention,
        nowMs: () => replayedMs ?? 1_750_000_000_000 + clock.ms + skewMs,
      });
      for (let shard = 0; shard < keyspace.shards; shard++) {
        for (const { id, event } of await stream.read(shard, ZERO_ID, kept)) {
          replayedMs = parsePosition(id).ms;
          await replica.append(event);
        }
      }
      replayedMs = undefined;
      stream.failOver(replica);
    },
    join(terms, start, sink = new Collector()) {
      const parsed = parseFilter(terms);
      if (parsed.status === 'invalid') throw new Error(parsed.detail);
      return { sink, subscription: feed.join(parsed.filter, start, sink) };
    },
  };
}

function from(cursor: string, shards = 4): StartPoint {
  const start = parseStartPoint(cursor, shards, Date.now());
  if (start === undefined) throw new Error(`not a cursor: ${cursor}`);
  return start;
}

const until = (what: string, condition: () => boolean): Promise<unknown> =>
  waitFor(condition, { deadlineMs: 3_000, what, intervalMs: 1 });

describe('joining', () => {
  it('shows 50 subscribers that join, leave and resume at any moment of a flow every event from their place exactly once', async () => {
    const { feed, append, join, stream } = rig({ limits: { recentEntries: 16 } });
    await feed.open();
    const ids: string[] = [];
    let seed = 7;
    const random = (): number => {
      seed = (seed * 16807) % 2147483647;
      return seed / 2147483647;
    };
    const all: { sinks: Collector[]; current: Joined; since: number }[] = [];
    for (let i = 0; i < 3000; i++) {
      ids.push(await append(`cam-${Math.floor(random() * 40)}`));
      if (random() < 0.1) await tick();
      if (i % 60 === 0) {
        const fromStart = random() < 0.5;
        await feed.open();
        const current = join({}, fromStart ? START : NOW);
        all.push({ sinks: [current.sink], current, since: fromStart ? 0 : -1 });
      }
      const one = all[Math.floor(random() * all.length)];
      if (one !== undefined && random() < 0.05) {
        one.current.subscription.close();
        one.current = join({}, from(one.current.subscription.cursor()));
        one.sinks.push(one.current.sink);
      }
    }
    await until('the last event at all', () =>
      all.every(({ current }) => {
        current.subscription.close;
        return feed.counts.behind === 0;
      }),
    );
    await until('all delivered', () =>
      all.every(({ sinks, since }) => since < 0 || sinks.flatMap((sink) => sink.ids).length >= 3000),
    );
    await tick();
    expect(all).toHaveLength(50);
    for (const { sinks, since } of all) {
      const seen = sinks.flatMap((sink) => sink.ids);
      expect(new Set(seen).size).toBe(seen.length);
      if (since === 0) expect(new Set(seen)).toEqual(new Set(ids));
      else expect(seen.length).toBeGreaterThan(0);
      for (let shard = 0; shard < 4; shard++) {
        const own = seen.filter((id) => id.startsWith(`0${shard}-`));
        const expected = ids.filter((id) => id.startsWith(`0${shard}-`));
        // Without a hole from its first event on, in order.
        if (own.length > 0) expect(own).toEqual(expected.slice(expected.indexOf(own[0] as string)));
      }
    }
    expect(stream.reads).toBeGreaterThan(0);
  });

  it('passes on in order of time what several shards hold', async () => {
    const { feed, append, join, clock } = rig();
    for (let i = 0; i < 200; i++) {
      clock.ms += 5;
      await append(`cam-${i % 13}`);
    }
    await feed.open();
    const { sink } = join({}, START);
    await until('all', () => sink.ids.length === 200);
    const times = sink.ids.map((id) => Number(id.split('-')[1]));
    expect(times).toEqual([...times].sort((a, b) => a - b));
  });

  it('gives nothing to the sink in the tick of joining, so that the peer can be greeted before', async () => {
    const { feed, append, join } = rig();
    await feed.open();
    const earlier = join({}, NOW).sink;
    await append('cam-1');
    await until('in memory', () => earlier.ids.length === 1);
    const { sink } = join({}, START);
    expect(sink.log).toEqual([]);
    await tick();
    expect(sink.ids).toEqual(earlier.ids);
  });

  it('starts a plain event id exactly after it in its shard, and an RFC 3339 time with its millisecond', async () => {
    const { feed, append, join, clock } = rig();
    const ids: string[] = [];
    for (let i = 0; i < 20; i++) {
      clock.ms += 1000;
      ids.push(await append('cam-1'));
    }
    await feed.open();
    const byId = join({ devices: ['cam-1'] }, from(ids[11] as string));
    await until('after the id', () => byId.sink.ids.length === 8);
    expect(byId.sink.ids).toEqual(ids.slice(12));
    const byTime = join({ devices: ['cam-1'] }, { from: 'time', ms: Number(ids[11]?.split('-')[1]) });
    await until('from the time', () => byTime.sink.ids.length === 9);
    expect(byTime.sink.ids).toEqual(ids.slice(11));
  });

  it('never skips an event of another shard when resumed by a plain event id, also in the middle of catching up', async () => {
    const { feed, append, join, clock } = rig();
    const ids: string[] = [];
    for (let i = 0; i < 300; i++) {
      clock.ms += 100;
      ids.push(await append(`cam-${i % 9}`));
    }
    await feed.open();
    const first = join({}, START);
    await until('some', () => first.sink.ids.length > 20);
    const seen = first.sink.ids.slice(0, 21);
    first.subscription.close();
    const second = join({}, from(seen[20] as string));
    await until('the rest', () => new Set([...seen, ...second.sink.ids]).size === 300);
    expect(new Set([...seen, ...second.sink.ids])).toEqual(new Set(ids));
  });

  it('takes a cursor that another process minted further ahead than its own tail, without double or hole', async () => {
    const { feed, append, join, stream } = rig();
    await feed.open();
    const other = new EventFeed({
      stream,
      shardOf: () => 0,
      clock: { nowMs: () => 0, monotonicMs: () => 0 },
      log: quiet,
    });
    feeds.push(other);
    await other.open();
    // The two tails are called back in turn; this one loses its entries until it is let go on.
    const parsed = parseFilter({});
    if (parsed.status === 'invalid') throw new Error(parsed.detail);
    const ahead = new Collector();
    other.join(parsed.filter, NOW, ahead);
    const ids = [await append('cam-1'), await append('cam-2'), await append('cam-3')];
    await until('the other process', () => ahead.ids.length === 3);
    const { sink } = join({}, from(ahead.cursor));
    ids.push(await append('cam-1'));
    await until('the next', () => sink.ids.length > 0);
    expect(sink.ids).toEqual([ids[3]]);
    expect(sink.gaps).toEqual([]);
  });

  it('fails with broker_unavailable while the tail cannot be opened, and works afterwards', async () => {
    const { feed, stream, append, join } = rig();
    stream.away = true;
    await expect(feed.open()).rejects.toMatchObject({ code: 'broker_unavailable' });
    expect(() => join({}, NOW)).toThrow(BrokerError);
    stream.away = false;
    await feed.open();
    const { sink } = join({}, NOW);
    await append('cam-1');
    await until('the event', () => sink.ids.length === 1);
  });
});

describe('live', () => {
  it('gives each subscriber what its filter says, in one flush per batch', async () => {
    const { feed, append, join } = rig();
    await feed.open();
    const byDevice = join({ devices: ['cam-1', 'cam-2'] }, NOW).sink;
    const byKind = join({ kinds: ['structure.*'] }, NOW).sink;
    const byTag = join({ tags: ['gate'], devices: ['cam*'] }, NOW).sink;
    await Promise.all([
      append('cam-1'),
      append('cam-2', { kind: 'structure' }),
      append('cam-3', { kind: 'structure.face', tags: ['gate'] }),
      append('other', { tags: ['gate'] }),
    ]);
    await until('all', () => byDevice.ids.length === 2 && byKind.ids.length === 2 && byTag.ids.length === 1);
    expect(new Set(byDevice.records.map(({ code }) => code))).toEqual(new Set(['cam-1', 'cam-2']));
    expect(new Set(byKind.records.map(({ kind }) => kind))).toEqual(new Set(['structure', 'structure.face']));
    expect(byTag.records.map(({ code }) => code)).toEqual(['cam-3']);
    const flushes = byDevice.flushes;
    for (let i = 0; i < 50; i++) void append('cam-1');
    await until('fifty more', () => byDevice.ids.length === 52);
    expect(byDevice.flushes).toBe(flushes + 1);
  });

  it('hands out a cursor with every event from which the rest follows without a hole', async () => {
    const { feed, append, join } = rig();
    await feed.open();
    const first = join({ devices: ['cam-*'] }, NOW);
    for (let i = 0; i < 30; i++) await append(`cam-${i % 5}`);
    await until('thirty', () => first.sink.ids.length === 30);
    const place = first.sink.cursor;
    const rest = [await append('cam-1'), await append('cam-4')];
    const second = join({ devices: ['cam-*'] }, from(place));
    await until('the rest', () => second.sink.ids.length === 2);
    expect(new Set(second.sink.ids)).toEqual(new Set(rest));
  });

  it('sends a heartbeat with the current cursor when nothing was sent for the heartbeat time, also past events of others', async () => {
    const { feed, append, join, clock } = rig({ limits: { heartbeatMs: 1000 } });
    await feed.open();
    const { sink } = join({ kinds: ['never'] }, NOW);
    await append('cam-1');
    clock.ms += 999;
    await tick();
    expect(sink.heartbeats).toHaveLength(0);
    clock.ms += 1;
    await until('a heartbeat', () => sink.heartbeats.length === 1);
    const { sink: resumed } = join({}, from(sink.heartbeats[0]?.cursor ?? ''));
    const next = await append('cam-2');
    await until('the next event', () => resumed.ids.length > 0);
    expect(resumed.ids).toEqual([next]);
  });

  it('closes the tail some time after the last subscriber, and opens it again for the next', async () => {
    const { feed, join, stream, clock, append } = rig({ limits: { lingerMs: 1000 } });
    await feed.open();
    const { subscription } = join({}, NOW);
    clock.ms += 5000;
    await tick();
    subscription.close();
    await until('closed', () => {
      clock.ms += 500;
      try {
        join({}, NOW).subscription.close();
        return false;
      } catch {
        return true;
      }
    });
    const missed = await append('cam-1');
    await feed.open();
    expect(stream.tails).toBe(2);
    const { sink } = join({}, START);
    await until('what was stored meanwhile', () => sink.ids.length === 1);
    expect(sink.ids).toEqual([missed]);
  });
});

describe('the tail', () => {
  it('serves one who joins while it is being closed, each event once', async () => {
    const { feed, append, join, stream, clock } = rig({ limits: { lingerMs: 10 } });
    await feed.open();
    let closed = (): void => undefined;
    stream.closes = new Promise((resolve) => {
      closed = resolve;
    });
    await until('closing', () => {
      clock.ms += 20;
      try {
        join({}, NOW).subscription.close();
        return false;
      } catch {
        return true;
      }
    });
    const opening = feed.open();
    closed();
    await opening;
    const { sink } = join({}, NOW);
    const ids = [await append('cam-1'), await append('cam-2')];
    await until('both', () => sink.ids.length >= 2);
    await tick();
    expect(new Set(sink.ids)).toEqual(new Set(ids));
    expect(sink.ids).toHaveLength(2);
  });

  it('goes on after a reopening that failed at first', async () => {
    const { feed, append, join, stream } = rig({ shards: 1 });
    await feed.open();
    const { sink } = join({}, NOW);
    const first = await append('cam-1');
    await until('the first', () => sink.ids.length === 1);
    stream.away = true;
    stream.rewind?.(0, first.slice(3));
    await until('noticed', () => feed.storeAway);
    const second = await append('cam-1');
    stream.away = false;
    await until('the second', () => sink.ids.includes(second));
  });
});

describe('gaps', () => {
  it('tells a subscriber behind the trim point of the gap first, then goes on with the oldest kept', async () => {
    const { feed, append, join } = rig({ maxLength: 10, shards: 1, limits: { recentEntries: 4 } });
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push(await append('cam-1'));
    await feed.open();
    const early = join({}, START);
    await until('five', () => early.sink.ids.length === 5);
    early.subscription.close();
    for (let i = 0; i < 40; i++) {
      ids.push(await append('cam-1'));
      await tick();
    }
    const { sink } = join({}, from(early.sink.cursor, 1));
    await until('the kept ones', () => sink.ids.length === 10);
    expect(sink.log[0]).toBe('gap trimmed');
    expect(sink.gaps).toEqual([{ shard: 0, from: ids[4], to: ids.at(-10), count: 30, reason: 'trimmed' }]);
    expect(sink.ids).toEqual(ids.slice(-10));
    // The cursor told with the gap does not lead to the same gap again.
    const again = join({}, from(sink.cursor, 1));
    ids.push(await append('cam-1'));
    await until('one more', () => again.sink.ids.length === 1);
    expect(again.sink.gaps).toEqual([]);
  });

  it('tells a gap with its count when everything after the place is gone by age', async () => {
    const { feed, append, join, clock, stream } = rig({ shards: 1 });
    const ids = [await append('cam-1'), await append('cam-1'), await append('cam-1')];
    clock.ms += 1e9 + 1;
    await stream.trim(0);
    await feed.open();
    const { sink } = join({}, from(ids[0] as string, 1));
    await until('the gap', () => sink.gaps.length === 1);
    const next = await append('cam-1');
    await until('the next', () => sink.ids.length === 1);
    expect(sink.log).toEqual(['gap trimmed', next]);
    const behind = (ids[2] as string).replace(/3$/, '4');
    expect(sink.gaps).toEqual([{ shard: 0, from: ids[0], to: behind, count: 2, reason: 'trimmed' }]);
  });

  it('knows no count only for who starts at a time that retention has passed', async () => {
    const { feed, append, join, clock } = rig({ maxLength: 5, shards: 1 });
    const ids: string[] = [];
    for (let i = 0; i < 20; i++) {
      clock.ms += 1000;
      ids.push(await append('cam-1'));
    }
    await feed.open();
    const timeOf = (id: string | undefined): number => Number(id?.split('-')[1]);
    const past = join({}, { from: 'time', ms: timeOf(ids[3]) }).sink;
    const kept = join({}, { from: 'time', ms: timeOf(ids[17]) }).sink;
    await until('both', () => past.ids.length === 5 && kept.ids.length === 3);
    expect(past.gaps).toEqual([
      { shard: 0, from: `00-${timeOf(ids[3])}-0`, to: ids[15], count: null, reason: 'trimmed' },
    ]);
    expect(kept.gaps).toEqual([]);
    // From there on its place has a number.
    for (let i = 0; i < 10; i++) ids.push(await append('cam-1'));
    const again = join({}, from(past.cursor, 1)).sink;
    await until('the rest', () => again.ids.at(-1) === ids.at(-1));
    expect(new Set([...past.ids, ...again.ids]).size + (again.gaps[0]?.count ?? 0)).toBe(15);
  });

  it('tells no gap to who asks for the oldest kept, nor when nothing was trimmed', async () => {
    const { feed, append, join } = rig({ maxLength: 10, shards: 1, limits: { recentEntries: 2 } });
    for (let i = 0; i < 30; i++) await append('cam-1');
    await feed.open();
    const { sink } = join({}, START);
    await until('ten', () => sink.ids.length === 10);
    expect(sink.gaps).toEqual([]);
  });

  it('goes back and says how far when a cursor lies beyond the end of the stream (D9)', async () => {
    const { feed, append, join, clock } = rig({ shards: 1, limits: { rewindMs: 1000 } });
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) {
      clock.ms += 400;
      ids.push(await append('cam-1'));
    }
    await feed.open();
    const lost = `00-${Number(ids[4]?.split('-')[1]) + 300}`;
    const { sink } = join({}, from(`${lost}-9`, 1));
    const next = await append('cam-1');
    await until('the next', () => sink.ids.includes(next));
    expect(sink.log).toEqual(['gap rewound', ...ids.slice(2), next]);
    const place = `00-${ids[2]?.split('-')[1]}-2`;
    expect(sink.gaps).toEqual([{ shard: 0, from: place, to: `${lost}-10`, count: 7, reason: 'rewound' }]);
  });

  it('goes back when the store has meanwhile other entries under the numbers of those it lost', async () => {
    const { feed, append, join, clock, failOver } = rig({ shards: 1, limits: { rewindMs: 1000 } });
    const ids: string[] = [];
    for (let i = 0; i < 6; i++) {
      clock.ms += 400;
      ids.push(await append('cam-1'));
    }
    await failOver(4);
    const after: string[] = [];
    for (let i = 0; i < 6; i++) {
      clock.ms += 400;
      after.push(await append('cam-1'));
    }
    await feed.open();
    const { sink } = join({}, from(ids[5] as string, 1));
    await until('the last', () => sink.ids.includes(after[5] as string));
    expect(sink.log).toEqual(['gap rewound', ...ids.slice(3, 4), ...after]);
    expect(sink.gaps).toMatchObject([{ count: 3, reason: 'rewound' }]);
  });

  it.each([
    ['goes on', 0],
    ['is late', -2_000],
  ])(
    'brings live and late subscribers everything that a store took after it had lost its end, whose clock %s',
    async (_, skewMs) => {
      const { feed, append, join, clock, failOver } = rig({
        shards: 1,
        limits: { rewindMs: 1000, recentEntries: 2, tailStallMs: 1000, slowGraceMs: 1e9 },
      });
      await feed.open();
      const live = join({}, NOW).sink;
      const ids: string[] = [];
      for (let i = 0; i < 6; i++) {
        clock.ms += 100;
        ids.push(await append('cam-1'));
      }
      await until('six', () => live.ids.length === 6);
      await failOver(4, skewMs);
      const after: string[] = [];
      for (let i = 0; i < 30; i++) {
        clock.ms += 100;
        after.push(await append('cam-1'));
        if (i % 5 === 0) await tick();
      }
      const late = join({}, from(ids[5] as string, 1)).sink;
      await until('the last', () => {
        clock.ms += 1; // The audit finds what does not arrive.
        return [live, late].every((sink) => sink.ids.at(-1) === after.at(-1));
      });
      for (const sink of [live, late]) {
        expect(sink.ids).toEqual(expect.arrayContaining(after));
        // Who found out before the tail is taken back twice.
        const told = sink.log.lastIndexOf('gap rewound');
        expect(sink.log.slice(told).filter((id) => after.includes(id))).toEqual(after);
      }
    },
  );

  it('takes back without loss one that has read what the store lost, and not yet passed it on', async () => {
    const { feed, append, join, clock, failOver } = rig({
      shards: 1,
      limits: { rewindMs: 0, waitingBytes: 600, lowWaterBytes: 1, recentEntries: 1, tailStallMs: 1000 },
    });
    const ids: string[] = [];
    for (let i = 0; i < 10; i++) {
      clock.ms += 100;
      ids.push(await append('cam-1'));
    }
    await feed.open();
    const { sink, subscription } = join({}, START);
    sink.block();
    await until('some', () => sink.ids.length >= 1);
    const seen = sink.ids.length;
    await failOver(8);
    clock.ms += 100;
    const next = await append('cam-1');
    await until('all', () => {
      sink.release();
      subscription.drained();
      return sink.ids.at(-1) === next;
    });
    expect(seen).toBeLessThan(8);
    expect(new Set(sink.ids)).toEqual(new Set([...ids.slice(0, 8), next]));
  });

  it('takes everybody back when the tail says that the store has lost what it had brought', async () => {
    const { feed, append, join, stream, clock } = rig({ shards: 1, limits: { rewindMs: 1000 } });
    await feed.open();
    const live = join({}, NOW);
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) {
      clock.ms += 400;
      ids.push(await append('cam-1'));
    }
    await until('five', () => live.sink.ids.length === 5);
    stream.rewind?.(0, (ids[3] ?? '').slice(3));
    await until('again', () => live.sink.ids.length > 5);
    const place = `00-${ids[1]?.split('-')[1]}-1`;
    const behind = (ids[4] ?? '').replace(/5$/, '6');
    expect(live.sink.gaps).toEqual([{ shard: 0, from: place, to: behind, count: 4, reason: 'rewound' }]);
    const next = await append('cam-1');
    await until('the next', () => live.sink.ids.at(-1) === next);
    expect(stream.tails).toBe(2);
    // Repeats, in order, after the gap was told.
    expect(live.sink.log).toEqual([...ids, 'gap rewound', ...ids.slice(1), next]);
  });

  it('tells at once, before what follows, which events were trimmed before the tail met them', async () => {
    const { feed, append, join, stream } = rig({ shards: 1, maxLength: 3, limits: { auditMs: 1e6 } });
    await feed.open();
    const live = join({}, NOW);
    const ids = [await append('cam-1'), await append('cam-1')];
    await until('two', () => live.sink.ids.length === 2);
    stream.loses = () => true;
    for (let i = 0; i < 6; i++) ids.push(await append('cam-1'));
    await tick();
    stream.loses = () => false;
    ids.push(await append('cam-1'));
    await until('the rest', () => live.sink.ids.length === 5);
    expect(live.sink.log).toEqual([...ids.slice(0, 2), 'gap trimmed', ...ids.slice(6)]);
    expect(live.sink.gaps).toEqual([{ shard: 0, from: ids[1], to: ids[6], count: 4, reason: 'trimmed' }]);
    // The cursor told with the gap leads behind it, and to the very next event.
    const again = join({}, from(live.sink.gapCursors[0] ?? '', 1)).sink;
    await until('what followed', () => again.ids.length === 3);
    expect(again.log).toEqual(ids.slice(6));
  });

  it('fetches what the tail has skipped and the store still has', async () => {
    const { feed, append, join, stream } = rig({ shards: 1, limits: { auditMs: 1e6 } });
    await feed.open();
    const live = join({}, NOW);
    stream.loses = ({ id }) => stream.tails === 1 && [3, 4, 5].includes(parsePosition(id).seq);
    const ids: string[] = [];
    for (let i = 0; i < 8; i++) ids.push(await append('cam-1'));
    await until('all', () => live.sink.ids.length === 8);
    expect(live.sink.log).toEqual(ids);
  });

  it('opens a tail anew to which nothing comes any more', async () => {
    const { feed, append, join, stream, clock } = rig({ shards: 1, limits: { tailStallMs: 1000 } });
    await feed.open();
    const { sink } = join({}, NOW);
    stream.loses = () => true;
    const id = await append('cam-1');
    await tick();
    stream.loses = () => false;
    await until('the event', () => {
      clock.ms += 100;
      return sink.ids.length === 1;
    });
    expect(sink.log).toEqual([id]);
    expect(stream.tails).toBe(2);
  });

  it('tells no gap for an event id or a time in shards where nothing happened lately', async () => {
    const { feed, append, join, clock, keyspace } = rig();
    const old = await append('cam-1');
    clock.ms += 60_000;
    const other = Array.from({ length: 50 }, (_, i) => `cam-${i}`).find(
      (code) => keyspace.shardOf(code as DeviceCode) !== keyspace.shardOf('cam-1' as DeviceCode),
    );
    const id = await append(other as string);
    await feed.open();
    const byId = join({}, from(id)).sink;
    const byTime = join({}, { from: 'time', ms: Number(id.split('-')[1]) + 5 }).sink;
    const next = await append('cam-1');
    await until('the next', () => byId.ids.length === 1);
    clock.ms += 10;
    const later = await append('cam-1');
    await until('the later', () => byId.ids.length === 2 && byTime.ids.length === 1);
    expect(byId.log).toEqual([next, later]);
    expect(byTime.log).toEqual([later]);
    expect(old).not.toBe(next);
  });

  it('tells a subscriber of some devices only the gaps of their shards', async () => {
    const { feed, append, join, stream, keyspace } = rig({ shards: 4 });
    await feed.open();
    const [code, other] = ['cam-1', 'cam-2'] as [DeviceCode, DeviceCode];
    expect(keyspace.shardOf(code)).not.toBe(keyspace.shardOf(other));
    const own = join({ devices: [code] }, NOW).sink;
    const all = join({}, NOW).sink;
    const id = await append(other);
    await until('the event', () => all.ids.length === 1);
    stream.rewind?.(keyspace.shardOf(other), id.slice(3));
    await until('the gap', () => all.gaps.length === 1);
    await until('the event again', () => all.ids.length === 2);
    expect(own.log).toEqual([]);
  });
});

describe('slow subscribers', () => {
  const small = { waitingBytes: 4000, lowWaterBytes: 1000, slowGraceMs: 1000, recentEntries: 8 } as const;

  it('never holds more than the bound, and reads on without loss when the peer takes bytes again', async () => {
    const { feed, append, join } = rig({ limits: small });
    await feed.open();
    const { sink, subscription } = join({}, NOW);
    const ids: string[] = [];
    sink.block();
    for (let i = 0; i < 200; i++) {
      ids.push(await append(`cam-${i % 7}`));
      if (i % 10 === 0) await tick();
    }
    await tick();
    expect(sink.mostWaitingBytes).toBeLessThanOrEqual(4000);
    expect(sink.ids.length).toBeLessThan(200);
    expect(feed.counts.behind).toBe(1);
    for (let i = 0; i < 20 && feed.counts.behind > 0; i++) {
      sink.release();
      subscription.drained();
      await tick();
    }
    await until('live again', () => {
      sink.release();
      subscription.drained();
      return feed.counts.behind === 0 && sink.ids.length === 200;
    });
    expect(new Set(sink.ids)).toEqual(new Set(ids));
    expect(sink.mostWaitingBytes).toBeLessThanOrEqual(4000);
    expect(sink.gaps).toEqual([]);
  });

  it('closes one that stays behind with a cursor that resumes without loss or repeat', async () => {
    const { feed, append, join, clock } = rig({ limits: small });
    await feed.open();
    const { sink } = join({}, NOW);
    const healthy = join({}, NOW).sink;
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push(await append(`cam-${i % 7}`));
    await until('five', () => sink.ids.length === 5);
    sink.block();
    for (let i = 0; i < 100; i++) ids.push(await append(`cam-${i % 7}`));
    await until('behind', () => feed.counts.behind === 1);
    expect(sink.end).toBeUndefined();
    clock.ms += 1001;
    await until('closed', () => sink.end === 'slow_consumer');
    expect(feed.counts).toMatchObject({ subscribers: 1, behind: 0, slowClosed: 1 });
    expect(healthy.ids).toHaveLength(105);
    const resumed = join({}, from(sink.cursor)).sink;
    await until('the rest', () => sink.ids.length + resumed.ids.length === 105);
    expect(new Set([...sink.ids, ...resumed.ids])).toEqual(new Set(ids));
  });

  it('closes one whose connection takes nothing for the grace time, though little waits', async () => {
    const { feed, append, join, clock } = rig({ limits: small });
    await feed.open();
    const { sink } = join({}, NOW);
    sink.block();
    await append('cam-1');
    await until('given', () => sink.ids.length === 1);
    await tick();
    const before = clock.ms;
    await until('closed', () => {
      clock.ms += 50;
      return sink.end === 'slow_consumer';
    });
    expect(clock.ms - before).toBeGreaterThanOrEqual(1000);
  });

  it('lets one event through that is larger than the bound when nothing else waits, and no second', async () => {
    const { feed, append, join } = rig({ limits: small, shards: 1 });
    await feed.open();
    const { sink, subscription } = join({}, NOW);
    sink.block();
    const large = { data: Buffer.from(JSON.stringify('x'.repeat(9000))) };
    const ids = [await append('cam-1', large), await append('cam-1', large), await append('cam-1')];
    await until('the first', () => sink.ids.length === 1 && feed.counts.behind === 1);
    await tick();
    expect(sink.ids).toEqual(ids.slice(0, 1));
    await until('all', () => {
      sink.release();
      subscription.drained();
      return sink.ids.length === 3;
    });
    expect(sink.ids).toEqual(ids);
  });

  it('gives each subscriber less when all together hold too much', async () => {
    const { feed, append, join } = rig({ limits: { ...small, totalWaitingBytes: 3000 } });
    await feed.open();
    const sinks = Array.from({ length: 4 }, () => join({}, NOW).sink);
    for (const sink of sinks) sink.block();
    for (let i = 0; i < 4; i++) await append('cam-1');
    await until('much waits', () => sinks.every((sink) => sink.ids.length === 4));
    await until('tight', () => {
      void append('cam-1');
      return feed.counts.behind === 4;
    });
    for (const sink of sinks) expect(sink.mostWaitingBytes).toBeLessThan(3000);
  });
});

describe('store away', () => {
  it('keeps subscribers, says so in heartbeats, and goes on from their own places', async () => {
    const { feed, append, join, stream, clock } = rig({ limits: { heartbeatMs: 100, slowGraceMs: 1e9 } });
    const before = await append('cam-1');
    await feed.open();
    stream.away = true;
    await until('noticed', () => feed.storeAway);
    const live = join({}, NOW).sink;
    const behind = join({}, START).sink;
    clock.ms += 100;
    await until('heartbeats', () => live.heartbeats.length > 0 && behind.heartbeats.length > 0);
    expect(live.heartbeats[0]?.storeAway).toBe(true);
    expect(behind.ids).toEqual([]);
    stream.away = false;
    await until('back', () => !feed.storeAway && behind.ids.length === 1);
    expect(behind.ids).toEqual([before]);
    const next = await append('cam-1');
    await until('both', () => live.ids.length === 1 && behind.ids.length === 2);
    expect(live.ids).toEqual([next]);
  });
});

describe('leaving', () => {
  it('closes every subscriber with its cursor, refuses new ones, and leaves nothing running (I8)', async () => {
    const { feed, append, join } = rig();
    await feed.open();
    const sinks = Array.from({ length: 100 }, () => join({}, NOW).sink);
    await append('cam-1');
    await until('delivered', () => sinks.every((sink) => sink.ids.length === 1));
    await feed.drain(400);
    expect(sinks.every((sink) => sink.end === 'draining' && sink.cursor !== '')).toBe(true);
    await expect(feed.open()).rejects.toMatchObject({ code: 'node_draining' });
    expect(feed.counts.subscribers).toBe(0);
    await feed.stop();
    await feed.stop();
  });
});
