import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  type Keyspace,
  openConnection,
  type RedisConnection,
  ReplicaBarrier,
  ready,
} from '@lapi-broker/redis';
import { customAlphabet } from 'nanoid';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import type { StartPoint } from '../event/cursor.ts';
import { eventId, parsePosition } from '../event/position.ts';
import { record } from '../testing/event-record.ts';
import type { Delivery, GroupSpec } from './group.ts';
import { RedisGroups } from './redis-groups.ts';

let redis: RedisServer;
let state: RedisConnection;
let prefixes = 0;

beforeAll(async () => {
  redis = await startRedis();
  state = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(state, 5_000);
});

afterAll(async () => {
  await closeConnection(state);
  await redis.stop();
});

const cleanUps: (() => Promise<void> | void)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Rig {
  readonly keyspace: Keyspace;
  readonly stream: RedisEventStream;
  /** Each is another process as far as groups are concerned. */
  groups(read?: RedisEventStream['read']): RedisGroups;
  /** Public id of the new event. */
  append(code: string, kind?: string, data?: Buffer): Promise<string>;
}

const randomText = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz');

function rig(shards = 4, retention?: { maxAgeMs: number; maxBytes: number }): Rig {
  prefixes += 1;
  const keyspace = createKeyspace(`group${prefixes}`, shards);
  const stream = new RedisEventStream({ state, keyspace, ...(retention === undefined ? {} : { retention }) });
  cleanUps.push(() => stream.stop());
  return {
    keyspace,
    stream,
    groups(read = (shard, after, count) => stream.read(shard, after, count)) {
      const groups = new RedisGroups({
        state,
        keyspace,
        barrier: new ReplicaBarrier(state, false),
        stream: { read },
        listen: async () => undefined,
        groupsAllowed: 10,
        monotonicMs: () => performance.now(),
        randomText,
      });
      cleanUps.push(() => groups.stop());
      return groups;
    },
    async append(code, kind = 'alarm.MotionAlarmOn', data = Buffer.from('{}')) {
      const id = await stream.append(record({ code: code as DeviceCode, kind, data }));
      return eventId(keyspace.shardOf(code as DeviceCode), parsePosition(id));
    },
  };
}

const SPEC: GroupSpec = {
  name: 'g',
  filter: {},
  ackDeadlineMs: 60_000,
  maxInFlight: 1_000,
  maxAttempts: 3,
  ordered: true,
};
const START: StartPoint = { from: 'start' };
const AT_ONCE = { max: 100, waitMs: 0 } as const;

const idOf = ({ message }: Delivery): string =>
  message.type === 'event' ? eventId(message.event.shard, message.event.position) : 'gap';
const ackIds = (deliveries: readonly Delivery[]): string[] => deliveries.map(({ ackId }) => ackId);

/** Pulls and acknowledges until nothing comes any more. */
async function drink(groups: RedisGroups, name = 'g'): Promise<Delivery[]> {
  const all: Delivery[] = [];
  for (;;) {
    const some = await groups.pull(name, AT_ONCE);
    if (some.length === 0) return all;
    all.push(...some);
    await groups.settle(name, ackIds(some), { type: 'ack' });
  }
}

describe('what a group hands out', () => {
  it('is every event that matches, once, in the order of each device, to several processes that share the work', async () => {
    const { append, groups } = rig();
    const [a, b] = [groups(), groups()];
    await a.create({ ...SPEC, filter: { kinds: ['alarm.*'] } }, 'platform', START);
    const sent = new Map<string, string[]>();
    for (let i = 0; i < 300; i++) {
      const code = `cam-${i % 7}`;
      if (i % 3 === 0) await append(code, 'structure');
      else sent.set(code, [...(sent.get(code) ?? []), await append(code)]);
    }
    const [ofA, ofB] = await Promise.all([drink(a), drink(b)]);
    // Blocked behind what the other had out at its last look.
    const all = [...ofA, ...ofB, ...(await drink(a))];
    const codes = new Map<string, string[]>();
    for (const delivery of all) {
      if (delivery.message.type === 'gap') throw new Error('a gap');
      const { code } = delivery.message.event.record;
      codes.set(code, [...(codes.get(code) ?? []), idOf(delivery)]);
    }
    expect(all.every(({ attempt }) => attempt === 1)).toBe(true);
    for (const [code, ids] of sent) {
      expect([...(codes.get(code) ?? [])].sort((x, y) => Number(x.split('-')[2]) - Number(y.split('-')[2]))).toEqual(
        ids,
      );
    }
    expect(all.length).toBe(200);
    expect(await a.progress('g')).toMatchObject({ lag: 0, waiting: 0, inFlight: 0, deadLetters: 0, acknowledged: 200 });
  });

  it('is one event of a device at a time where the group is ordered, and all at once where it is not', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create(SPEC, 'platform', START);
    await group.create({ ...SPEC, name: 'loose', ordered: false }, 'platform', START);
    const ids = [await append('cam-1'), await append('cam-1'), await append('cam-1'), await append('cam-2')];
    const loose = await group.pull('loose', AT_ONCE);
    expect(loose.map(idOf).sort()).toEqual([...ids].sort());

    const first = await group.pull('g', AT_ONCE);
    expect(first.map(idOf).sort()).toEqual([ids[0], ids[3]].sort());
    expect(await group.pull('g', AT_ONCE)).toEqual([]);
    await group.settle('g', ackIds(first.filter((each) => idOf(each) === ids[0])), { type: 'ack' });
    expect((await group.pull('g', AT_ONCE)).map(idOf)).toEqual([ids[1]]);
  });

  it('begins with the next event, the oldest, a time, an event or a cursor, as it was asked for', async () => {
    const { append, groups, keyspace } = rig();
    const group = groups();
    const ids = [await append('cam-1'), await append('cam-1'), await append('cam-1')];
    const shard = keyspace.shardOf('cam-1' as DeviceCode);
    const positions = ids.map((id) => parsePosition(id.slice(id.indexOf('-') + 1)));
    const starts: [string, StartPoint, number][] = [
      ['now', { from: 'now' }, 3],
      ['start', { from: 'start' }, 0],
      ['time', { from: 'time', ms: positions[0]?.ms ?? 0 }, 0],
      // Nothing was trimmed, so nothing can be missing.
      ['before', { from: 'time', ms: (positions[0]?.ms ?? 0) - 60_000 }, 0],
      ['event', { from: 'event', shard, position: positions[0] as (typeof positions)[0] }, 1],
      ['cursor', { from: 'cursor', positions: new Map([[shard, positions[1] as (typeof positions)[0]]]) }, 2],
    ];
    for (const [name, start] of starts) await group.create({ ...SPEC, name, ordered: false }, 'platform', start);
    ids.push(await append('cam-1'));
    for (const [name, , skipped] of starts) {
      expect([name, (await drink(group, name)).map(idOf)]).toEqual([name, ids.slice(skipped)]);
    }
  });

  it('never is more than may be in flight, over all processes, and goes on when there is room again', async () => {
    const { append, groups } = rig();
    const [a, b] = [groups(), groups()];
    await a.create({ ...SPEC, ordered: false, maxInFlight: 5 }, 'platform', START);
    for (let i = 0; i < 20; i++) await append(`cam-${i}`);
    const [ofA, ofB] = await Promise.all([a.pull('g', AT_ONCE), b.pull('g', AT_ONCE)]);
    expect(ofA.length + ofB.length).toBe(5);
    expect(await a.pull('g', AT_ONCE)).toEqual([]);
    await b.settle('g', ackIds([...ofA, ...ofB]).slice(0, 2), { type: 'ack' });
    expect(await a.pull('g', AT_ONCE)).toHaveLength(2);
  });

  it('takes an extended event for one in flight, and one that somebody else has settled for none', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create({ ...SPEC, ordered: false, maxInFlight: 1, ackDeadlineMs: 300 }, 'platform', START);
    const ids = [await append('cam-1'), await append('cam-1')];
    const late = await group.pull('g', AT_ONCE);
    const again = await group.pull('g', { max: 10, waitMs: 20_000 });
    expect([...late, ...again].map((each) => [idOf(each), each.attempt])).toEqual([
      [ids[0], 1],
      [ids[0], 2],
    ]);
    expect(await group.settle('g', ackIds(again), { type: 'extend', deadlineMs: 600_000 })).toEqual(['done']);
    expect(await group.pull('g', AT_ONCE)).toEqual([]);
    expect(await group.settle('g', ackIds(late), { type: 'ack' })).toEqual(['done']);
    expect(await group.settle('g', ackIds(again), { type: 'ack' })).toEqual(['stale']);
    expect((await group.pull('g', AT_ONCE)).map(idOf)).toEqual([ids[1]]);
  });

  it('is of all shards in turn where a consumer takes little at a time', async () => {
    const { append, groups, keyspace } = rig();
    const group = groups();
    await group.create({ ...SPEC, ordered: false }, 'platform', START);
    for (let i = 0; i < 40; i++) await append(`cam-${i}`);
    const shards = new Set<number>();
    for (let i = 0; i < keyspace.shards; i++) {
      const [one] = await group.pull('g', { max: 1, waitMs: 0 });
      if (one?.message.type === 'event') shards.add(one.message.event.shard);
    }
    expect(shards.size).toBe(keyspace.shards);
  });

  it('is no more than fits, and no more is brought from the store, however many large ones are due', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create({ ...SPEC, ordered: false, maxAttempts: 100 }, 'platform', START);
    const data = Buffer.from(JSON.stringify('x'.repeat(700_000)));
    for (let i = 0; i < 40; i++) await append(`cam-${i}`, 'structure', data);
    let taken = 0;
    while (taken < 40) {
      const some = await group.pull('g', { max: 1_000, waitMs: 0 });
      expect(some.length).toBeGreaterThan(0);
      taken += some.length;
      await group.settle('g', ackIds(some), { type: 'nack', delayMs: 1 });
      if ((await group.progress('g')).lag === 0) break;
    }
    const sentBytes = async (): Promise<number> =>
      Number(/total_net_output_bytes:(\d+)/.exec(String(await redis.command('INFO', 'stats')))?.[1]);
    const before = await sentBytes();
    const some = await groups().pull('g', { max: 1_000, waitMs: 0 });
    expect((await sentBytes()) - before).toBeLessThan(20 * 2 ** 20);
    expect(some.length).toBeGreaterThan(5);
    expect(some.length).toBeLessThan(20);
    expect((await group.progress('g')).inFlight).toBe(some.length);
    // Less where the consumer wants less, and never nothing.
    expect((await group.pull('g', { ...AT_ONCE, maxBytes: 1_500_000 })).length).toBeLessThanOrEqual(2);
    expect(await group.pull('g', { ...AT_ONCE, maxBytes: 1 })).toHaveLength(1);
  });

  it('is what was taken before the store failed, at the next try, and counts as that attempt', async () => {
    const { append, groups, stream } = rig(1);
    let away = false;
    const group = groups(async (...args) => {
      if (away) throw new BrokerError('broker_unavailable', 'away');
      return await stream.read(...args);
    });
    await group.create({ ...SPEC, ordered: false }, 'platform', START);
    const id = await append('cam-1');
    await group.settle('g', ackIds(await group.pull('g', AT_ONCE)), { type: 'nack', delayMs: 0 });
    await append('cam-1');
    away = true;
    await expect(group.pull('g', AT_ONCE)).rejects.toMatchObject({ code: 'broker_unavailable' });
    away = false;
    const next = (await group.pull('g', AT_ONCE)).filter((each) => idOf(each) === id);
    expect(next.map(({ attempt }) => attempt)).toEqual([2]);
  });

  it('comes to every consumer that waits in a process that did not know the group', async () => {
    const { append, groups } = rig();
    await groups().create(SPEC, 'platform', START);
    const group = groups();
    const waiting = [0, 1, 2].map(() => group.pull('g', { max: 1, waitMs: 20_000 }));
    const ids = [await append('cam-1'), await append('cam-2'), await append('cam-3')];
    expect((await Promise.all(waiting)).flat().map(idOf).sort()).toEqual(ids.sort());
  });

  it('wakes a consumer that waits, also when another process acknowledged what was in the way', async () => {
    const { append, groups } = rig();
    const [a, b] = [groups(), groups()];
    await a.create(SPEC, 'platform', START);
    const waiting = a.pull('g', { max: 10, waitMs: 20_000 });
    const first = await append('cam-1');
    const got = await waiting;
    expect(got.map(idOf)).toEqual([first]);
    const second = await append('cam-1');
    const next = a.pull('g', { max: 10, waitMs: 20_000 });
    await b.settle('g', ackIds(got), { type: 'ack' });
    expect((await next).map(idOf)).toEqual([second]);
  });
});

describe('what is not acknowledged', () => {
  it('comes again after the ack deadline, and the late consumer can still say that it is done', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create({ ...SPEC, ackDeadlineMs: 1_000 }, 'platform', START);
    const id = await append('cam-1');
    const [first] = await group.pull('g', AT_ONCE);
    const [again] = await group.pull('g', { max: 10, waitMs: 20_000 });
    expect(first?.attempt).toBe(1);
    expect([again?.attempt, again && idOf(again)]).toEqual([2, id]);
    expect(await group.settle('g', [first?.ackId ?? ''], { type: 'nack', delayMs: 0 })).toEqual(['stale']);
    expect(await group.settle('g', [first?.ackId ?? ''], { type: 'extend', deadlineMs: 1_000 })).toEqual(['stale']);
    expect(await group.settle('g', [first?.ackId ?? '', 'nonsense'], { type: 'ack' })).toEqual(['done', 'invalid']);
    expect(await group.settle('g', [again?.ackId ?? ''], { type: 'ack' })).toEqual(['stale']);
    expect(await group.progress('g')).toMatchObject({ lag: 0, waiting: 0, inFlight: 0, acknowledged: 1 });
  });

  it('is a dead letter after its last attempt, lets the next event of its device pass, and can be replayed or discarded', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create({ ...SPEC, maxAttempts: 2 }, 'platform', START);
    const [poison, next] = [await append('cam-1'), await append('cam-1')];
    for (const attempt of [1, 2]) {
      const got = await group.pull('g', AT_ONCE);
      expect(got.map((each) => [idOf(each), each.attempt])).toEqual([[poison, attempt]]);
      expect(await group.settle('g', ackIds(got), { type: 'nack', delayMs: 0 })).toEqual(['done']);
    }
    expect((await drink(group)).map(idOf)).toEqual([next]);
    const letters = await group.deadLetters('g', { after: undefined, limit: 10 });
    expect(letters.map(({ id, attempts }) => [id, attempts])).toEqual([[poison, 2]]);
    expect(letters[0]?.event.record.code).toBe('cam-1');
    expect(await group.deadLetters('g', { after: poison, limit: 10 })).toEqual([]);

    expect(await group.replay('g', [poison])).toBe(1);
    expect(await group.deadLetters('g', { after: undefined, limit: 10 })).toEqual([]);
    const [replayed] = await group.pull('g', AT_ONCE);
    expect([replayed?.attempt, replayed && idOf(replayed)]).toEqual([1, poison]);
    await group.settle('g', [replayed?.ackId ?? ''], { type: 'nack', delayMs: 0 });
    const [last] = await group.pull('g', AT_ONCE);
    await group.settle('g', [last?.ackId ?? ''], { type: 'nack', delayMs: 0 });
    expect(await group.discard('g', undefined)).toBe(1);
    expect(await group.deadLetters('g', { after: undefined, limit: 10 })).toEqual([]);
    expect(await group.replay('g', undefined)).toBe(0);
  });

  it('is listed in pages of a bounded size, and past dead letters whose events are gone', async () => {
    const { append, groups, keyspace } = rig(1);
    const group = groups();
    await group.create({ ...SPEC, ordered: false, maxAttempts: 1 }, 'platform', START);
    const data = Buffer.from(JSON.stringify('x'.repeat(1_500_000)));
    const ids: string[] = [];
    for (let i = 0; i < 10; i++) ids.push(await append('cam-1', 'structure', data));
    while ((await group.progress('g')).deadLetters < 10) {
      await group.settle('g', ackIds(await group.pull('g', AT_ONCE)), { type: 'nack', delayMs: 0 });
    }
    const { key } = await group.get('g');
    await redis.command('HDEL', `${keyspace.group(0, key)}:body`, (ids[2] as string).slice(3));
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 0);
    const first = await group.deadLetters('g', { after: undefined, limit: 100 });
    const rest = await group.deadLetters('g', { after: first.at(-1)?.id, limit: 100 });
    expect(first.length).toBeLessThan(8);
    expect([...first, ...rest].map(({ id }) => id)).toEqual(ids.filter((_, i) => i !== 2));
    expect(await group.deadLetters('g', { after: undefined, limit: 3 })).toHaveLength(3);
    // What is gone is told when it is asked for.
    expect(await group.replay('g', [ids[2] as string])).toBe(1);
    const told = await group.pull('g', { max: 1, waitMs: 20_000 });
    expect(told[0]?.message).toMatchObject({ type: 'gap', gap: { count: 1 } });
  });

  it('is kept beyond retention as far as there is room, and told as missing as far as there is not', async () => {
    const { append, groups, keyspace } = rig(1);
    const group = groups();
    await group.create({ ...SPEC, ordered: false }, 'platform', START);
    const data = Buffer.from(JSON.stringify('x'.repeat(2_000_000)));
    const ids: string[] = [];
    for (let i = 0; i < 12; i++) ids.push(await append('cam-1', 'structure', data));
    const out: Delivery[] = [];
    while (out.length < 12) out.push(...(await group.pull('g', AT_ONCE)));
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 11);
    await group.settle('g', ackIds(out).reverse(), { type: 'nack', delayMs: 0 });
    // One is told as missing already; what found no room is in the stream yet.
    expect((await group.progress('g')).waiting).toBe(12);
    expect((await group.pull('g', { max: 1, waitMs: 0 })).map(idOf)).toEqual(['gap']);
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 0);
    const again: Delivery[] = [];
    const gaps = (): number[] =>
      again.flatMap(({ message }) => (message.type === 'gap' ? (message.gap.count ?? Number.NaN) : []));
    for (let pulls = 0; pulls < 20; pulls++) again.push(...(await drink(group)));
    const lost = gaps().reduce((sum, count) => sum + count, 0);
    expect(again.length - gaps().length).toBe(8);
    expect(lost).toBe(3);
  });

  it('waits as long as the consumer asked, keeps its device waiting, and outlives the stream', async () => {
    const { append, groups, stream, keyspace } = rig();
    const group = groups();
    await group.create(SPEC, 'platform', START);
    const [first, second] = [await append('cam-1'), await append('cam-1')];
    const got = await group.pull('g', AT_ONCE);
    await group.settle('g', ackIds(got), { type: 'nack', delayMs: 300 });
    expect(await group.pull('g', AT_ONCE)).toEqual([]);
    // All that the stream has goes; what was handed out in vain was copied, what nobody has seen yet is lost and must be told.
    await redis.command('XTRIM', keyspace.events(keyspace.shardOf('cam-1' as DeviceCode)), 'MAXLEN', 0);
    const again = await group.pull('g', { max: 10, waitMs: 20_000 });
    expect(again.map((each) => [idOf(each), each.attempt])).toEqual([[first, 2]]);
    await group.settle('g', ackIds(again), { type: 'ack' });
    const [gap] = await group.pull('g', { max: 10, waitMs: 20_000 });
    expect(gap?.message).toMatchObject({ type: 'gap', gap: { count: 1 } });
    expect(second).toBeDefined();
    await group.settle('g', [gap?.ackId ?? ''], { type: 'ack' });
    expect(await group.progress('g')).toMatchObject({ lag: 0, waiting: 0, inFlight: 0 });
    expect(stream.shards).toBe(4);
  });

  it('comes again at once, with its attempt given back, when it was released', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create({ ...SPEC, maxAttempts: 1 }, 'platform', START);
    await append('cam-1');
    for (let i = 0; i < 5; i++) {
      const got = await group.pull('g', AT_ONCE);
      expect(got.map(({ attempt }) => attempt)).toEqual([1]);
      await group.settle('g', ackIds(got), { type: 'release' });
    }
    expect(await group.progress('g')).toMatchObject({ deadLetters: 0 });
  });

  it('stays with a consumer that asks for more time', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create({ ...SPEC, ackDeadlineMs: 1_000 }, 'platform', START);
    await append('cam-1');
    const got = await group.pull('g', AT_ONCE);
    expect(await group.settle('g', ackIds(got), { type: 'extend', deadlineMs: 60_000 })).toEqual(['done']);
    expect(await group.pull('g', { max: 1, waitMs: 2_500 })).toEqual([]);
    expect(await group.settle('g', ackIds(got), { type: 'ack' })).toEqual(['done']);
  });
});

describe('a group that was away for longer than events are kept', () => {
  it('gets a gap with the exact number of what it missed before what is left, and again until it is acknowledged', async () => {
    const { append, groups, keyspace } = rig(1);
    const group = groups();
    await group.create({ ...SPEC, ordered: false, ackDeadlineMs: 1_000 }, 'platform', { from: 'now' });
    const ids: string[] = [];
    for (let i = 0; i < 50; i++) ids.push(await append('cam-1'));
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 20);
    const first = await group.pull('g', { max: 5, waitMs: 0 });
    expect(first[0]?.message).toMatchObject({ type: 'gap', gap: { shard: 0, to: ids[30], count: 30 } });
    await group.settle('g', ackIds(first.slice(1)), { type: 'ack' });
    const again = await waitFor(
      async () => (await group.pull('g', { max: 100, waitMs: 1_000 })).find(({ message }) => message.type === 'gap'),
      { deadlineMs: 20_000, what: 'the gap a second time' },
    );
    expect(again.message).toMatchObject({ type: 'gap', gap: { count: 30 } });
    expect(again.attempt).toBe(2);
  });

  it('hears of all that it had waiting for one device by one gap', async () => {
    const { append, groups, keyspace } = rig(1);
    const group = groups();
    await group.create(SPEC, 'platform', { from: 'now' });
    for (let i = 0; i < 30; i++) await append(`cam-${i % 2}`);
    // Matched and waiting behind what is out.
    const out = await group.pull('g', AT_ONCE);
    expect(out).toHaveLength(2);
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 10);
    await group.settle('g', ackIds(out), { type: 'ack' });
    const counts: (number | null)[] = [];
    const ids: string[] = [];
    for (;;) {
      const got = await group.pull('g', AT_ONCE);
      const { waiting, inFlight } = await group.progress('g');
      if (got.length === 0 && waiting + inFlight === 0) break;
      for (const each of got) {
        if (each.message.type === 'gap') counts.push(each.message.gap.count);
        else ids.push(idOf(each));
      }
      await group.settle('g', ackIds(got), { type: 'ack' });
    }
    expect(counts).toEqual([18]);
    expect(ids).toHaveLength(10);
  });

  it('gets a gap also when nothing is left', async () => {
    const { append, groups, keyspace } = rig(1);
    const group = groups();
    await group.create(SPEC, 'platform', { from: 'now' });
    const ids: string[] = [];
    for (let i = 0; i < 7; i++) ids.push(await append('cam-1'));
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 0);
    const [gap, ...others] = await group.pull('g', AT_ONCE);
    // The last one is missing too, so the gap ends behind it.
    const end = ids[6]?.replace(/\d+$/, (number) => String(Number(number) + 1));
    expect(gap?.message).toMatchObject({ type: 'gap', gap: { to: end, count: 7 } });
    expect(others).toEqual([]);
    const next = await append('cam-1');
    expect((await drink(group)).map(idOf)).toEqual([next]);
  });

  it('is told that something may be missing when it begins at a time that is past retention', async () => {
    const { append, groups, keyspace } = rig(1);
    const group = groups();
    const ids: string[] = [];
    for (let i = 0; i < 5; i++) ids.push(await append('cam-1'));
    await redis.command('XTRIM', keyspace.events(0), 'MAXLEN', 2);
    await group.create({ ...SPEC, ordered: false }, 'platform', { from: 'time', ms: Date.now() - 60_000 });
    const got = await group.pull('g', AT_ONCE);
    expect(got.map(idOf)).toEqual(['gap', ids[3], ids[4]]);
    expect(got[0]?.message).toMatchObject({ gap: { count: null } });
  });
});

describe('a group as a thing', () => {
  it('is made once, stays where it is when it is asked for again, and refuses a different one of its name', async () => {
    const { append, groups } = rig();
    const [a, b] = [groups(), groups()];
    const made = await a.create(SPEC, 'platform', START);
    expect(made.status).toBe('created');
    const id = await append('cam-1');
    expect((await drink(a)).map(idOf)).toEqual([id]);
    expect((await b.create(SPEC, 'platform', START)).status).toBe('existing');
    expect(await drink(b)).toEqual([]);
    expect((await b.create({ ...SPEC, maxAttempts: 9 }, 'platform', START)).status).toBe('conflict');
    expect((await b.create(SPEC, 'webhook', START)).status).toBe('conflict');
    expect((await a.list('platform')).map(({ name }) => name)).toEqual(['g']);
    expect(await a.list('webhook')).toEqual([]);
  });

  it('is gone with all that it had, for every process, and comes back empty under its name', async () => {
    const { append, groups, keyspace } = rig();
    const [a, b] = [groups(), groups()];
    await a.create(SPEC, 'platform', START);
    await append('cam-1');
    const got = await b.pull('g', AT_ONCE);
    await a.remove('g');
    await a.remove('g');
    await expect(a.pull('g', AT_ONCE)).rejects.toMatchObject({ code: 'not_found' });
    await waitFor(
      () =>
        b.pull('g', AT_ONCE).then(
          () => false,
          (error) => error.code === 'not_found',
        ),
      {
        deadlineMs: 10_000,
        what: 'the other process to hear of it',
      },
    );
    expect(await redis.command('KEYS', `${keyspace.prefix}:*group*`)).toEqual([]);
    expect((await a.create(SPEC, 'platform', { from: 'now' })).status).toBe('created');
    expect(await a.settle('g', ackIds(got), { type: 'ack' })).toEqual(['invalid']);
    expect(await a.pull('g', AT_ONCE)).toEqual([]);
  });

  it('is finished by the next who comes when its maker died half way', async () => {
    const { append, groups, keyspace } = rig();
    const group = groups();
    await group.create(SPEC, 'platform', { from: 'now' });
    const id = await append('cam-1');
    const key = keyspace.groupSpec('g');
    for (let shard = 1; shard < 4; shard++) {
      const { key: own } = await group.get('g');
      if (shard !== keyspace.shardOf('cam-1' as DeviceCode)) await redis.command('DEL', keyspace.group(shard, own));
    }
    await redis.command('HSET', key, 'state', 'opening');
    expect((await drink(groups())).map(idOf)).toEqual([id]);
    await redis.command('HSET', key, 'state', 'removing');
    await expect(groups().get('g')).rejects.toMatchObject({ code: 'not_found' });
    expect(await redis.command('KEYS', `${keyspace.prefix}:*group*`)).toEqual([]);
  });

  it('changes its filter and limits in place', async () => {
    const { append, groups } = rig();
    const group = groups();
    await group.create(SPEC, 'platform', START);
    await group.change('g', { filter: { devices: ['cam-2'] }, maxAttempts: 9 });
    await append('cam-1');
    const id = await append('cam-2');
    expect((await drink(group)).map(idOf)).toEqual([id]);
    expect(await group.get('g')).toMatchObject({ maxAttempts: 9, filter: { devices: ['cam-2'] } });
    await expect(group.change('g', { filter: { devices: ['a b'] } })).rejects.toMatchObject({
      code: 'invalid_request',
    });
    await expect(group.change('other', { maxAttempts: 2 })).rejects.toMatchObject({ code: 'not_found' });
  });

  it('goes by its changed filter in every process once the change is answered, also for consumers that wait', async () => {
    const { append, groups } = rig();
    const [a, b, c] = [groups(), groups(), groups()];
    await a.create({ ...SPEC, filter: { devices: ['cam-2'] } }, 'platform', START);
    expect(await b.pull('g', AT_ONCE)).toEqual([]);
    const waiting = c.pull('g', { max: 1, waitMs: 20_000 });
    await waitFor(async () => (await c.get('g')).filter.devices?.[0] === 'cam-2', { deadlineMs: 10_000, what: 'c' });
    await a.change('g', { filter: { devices: ['cam-1'] } });
    const ids = [await append('cam-1')];
    const got = [...(await b.pull('g', { max: 1, waitMs: 0 }))];
    if (got.length === 0) got.push(...(await waiting));
    else {
      await a.settle('g', ackIds(got), { type: 'ack' });
      ids.push(await append('cam-1'));
      got.push(...(await waiting));
    }
    expect(got.map(idOf)).toEqual(ids);
  });

  it('goes on with the oldest event kept in a shard that has lost its place, and is not made anew when it is gone', async () => {
    const { append, groups, keyspace } = rig();
    const group = groups();
    await group.create(SPEC, 'platform', { from: 'now' });
    const id = await append('cam-1');
    const place = keyspace.group(keyspace.shardOf('cam-1' as DeviceCode), (await group.get('g')).key);
    await redis.command('DEL', place);
    expect(await group.progress('g')).toMatchObject({ lag: 1 });
    await redis.command('DEL', place);
    expect((await group.pull('g', { max: 10, waitMs: 20_000 })).map(idOf)).toEqual([id]);
    const waiting = group.pull('g', { max: 10, waitMs: 20_000 });
    await groups().remove('g');
    await expect(waiting).rejects.toMatchObject({ code: 'not_found' });
    expect(await redis.command('KEYS', `${keyspace.prefix}:*g*`)).not.toContain(place);
  });

  it('is pulled as the one that it is now where it was deleted and made again elsewhere', async () => {
    const { append, groups } = rig();
    const [a, b] = [groups(), groups()];
    await a.create(SPEC, 'platform', START);
    expect(await b.pull('g', AT_ONCE)).toEqual([]);
    await a.remove('g');
    await a.create(SPEC, 'platform', START);
    const id = await append('cam-1');
    expect((await b.pull('g', { max: 1, waitMs: 20_000 })).map(idOf)).toEqual([id]);
  });

  it('leaves no permits behind for ever, and serves consumers when the store is full', async () => {
    const { append, groups, keyspace } = rig();
    const group = groups();
    await group.create(SPEC, 'platform', START);
    const id = await append('cam-1');
    await redis.command('CONFIG', 'SET', 'maxmemory', '1');
    try {
      const got = await group.pull('g', AT_ONCE);
      expect(got.map(idOf)).toEqual([id]);
      const { key } = await group.get('g');
      expect(Number(await redis.command('PTTL', keyspace.groupPermits(key)))).toBeGreaterThan(600_000);
      expect(await group.settle('g', ackIds(got), { type: 'extend', deadlineMs: 1_000 })).toEqual(['done']);
      expect(await group.settle('g', ackIds(got), { type: 'ack' })).toEqual(['done']);
      await group.remove('g');
    } finally {
      await redis.command('CONFIG', 'SET', 'maxmemory', '0');
    }
  });

  it('is one of a bounded number', async () => {
    const { groups } = rig(1);
    const group = groups();
    for (let i = 0; i < 10; i++) await group.create({ ...SPEC, name: `g${i}` }, 'platform', START);
    expect(await group.create(SPEC, 'platform', START)).toEqual({ status: 'full', limit: 10 });
  });
});
