/** Random walks over groups, on one Redis server and on a Cluster: several processes pull, acknowledge, refuse, release and die, while devices
 *  send and retention trims. What must hold afterwards is arithmetic: every event was acknowledged, or is a dead letter, or lies in a gap that
 *  was told, and gaps count exactly. And what only a Cluster does to groups: a slot that moves, a master that is away. */

import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisCluster, type RedisServer, startRedis, startRedisCluster } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  openConnection,
  type RedisConnection,
  ReplicaBarrier,
  ready,
} from '@lapi-broker/redis';
import fc from 'fast-check';
import { customAlphabet } from 'nanoid';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parsePosition } from '../event/position.ts';
import { record } from '../testing/event-record.ts';
import type { Delivery, GroupSpec } from './group.ts';
import { RedisGroups } from './redis-groups.ts';

const WALK_SHARDS = 2;
const DEVICES = 5;
const MAX_ATTEMPTS = 2;
const randomText = customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz');

type Step =
  | { readonly do: 'send'; readonly device: number; readonly count: number }
  /** Process 2 = both at once. */
  | { readonly do: 'pull'; readonly process: number; readonly max: number }
  | { readonly do: 'ack' | 'refuse' | 'release' | 'forget'; readonly pick: number }
  | { readonly do: 'trim'; readonly shard: number; readonly keep: number }
  | { readonly do: 'replay' };

const step: fc.Arbitrary<Step> = fc.oneof(
  {
    weight: 4,
    arbitrary: fc.record({
      do: fc.constant('send' as const),
      device: fc.nat(DEVICES - 1),
      count: fc.integer({ min: 1, max: 8 }),
    }),
  },
  {
    weight: 4,
    arbitrary: fc.record({ do: fc.constant('pull' as const), process: fc.nat(2), max: fc.integer({ min: 1, max: 9 }) }),
  },
  { weight: 5, arbitrary: fc.record({ do: fc.constant('ack' as const), pick: fc.nat(99) }) },
  {
    weight: 5,
    arbitrary: fc.record({
      do: fc.constantFrom('refuse' as const, 'refuse' as const, 'release' as const),
      pick: fc.nat(99),
    }),
  },
  {
    weight: 1,
    arbitrary: fc.record({ do: fc.constant('trim' as const), shard: fc.nat(WALK_SHARDS - 1), keep: fc.nat(10) }),
  },
  { weight: 1, arbitrary: fc.record({ do: fc.constant('replay' as const) }) },
);

let walks = 0;

/** `runs` walks of 20 to 80 steps each, every one in a key space of its own. */
async function walkGroups(state: RedisConnection, ordered: boolean, runs: number): Promise<void> {
  const plans = fc.array(step, { minLength: 20, maxLength: 80 });
  await fc.assert(
    fc.asyncProperty(plans, (plan) => walk(state, plan, ordered)),
    { numRuns: runs, endOnFailure: true },
  );
}

async function walk(state: RedisConnection, plan: readonly Step[], ordered: boolean): Promise<void> {
  walks += 1;
  const keyspace = createKeyspace(`walk${walks}`, WALK_SHARDS);
  const stream = new RedisEventStream({ state, keyspace });
  const processes = [0, 1].map(
    () =>
      new RedisGroups({
        state,
        keyspace,
        barrier: new ReplicaBarrier(state, false),
        stream,
        listen: async () => undefined,
        groupsAllowed: 1,
        monotonicMs: () => performance.now(),
        randomText,
      }),
  );
  const [first] = processes as [RedisGroups, RedisGroups];
  const spec = { name: 'g', filter: {}, ackDeadlineMs: 600_000, maxInFlight: 12, maxAttempts: MAX_ATTEMPTS, ordered };
  await first.create(spec, 'platform', { from: 'start' });

  const sent = new Map<string, { readonly code: string; readonly number: number; readonly shard: number }>();
  const acknowledged = new Set<string>();
  const told: { readonly shard: number; readonly from: number; readonly to: number; readonly count: number }[] = [];
  const out: Delivery[] = [];
  /** Number of the last event of a device that was handed out for the first time. */
  const lastNew = new Map<string, number>();
  const fresh = new Set<string>();

  const idOf = ({ message }: Delivery): string =>
    message.type === 'event' ? `${message.event.shard}:${message.event.position.seq}` : '';
  const pull = async (process: number, max: number): Promise<number> => {
    const taking = process === 2 ? processes : [processes[process] as RedisGroups];
    const takings = await Promise.all(taking.map((each) => each.pull('g', { max, waitMs: 0 })));
    for (const taken of takings) expect(taken.length).toBeLessThanOrEqual(max);
    const got = takings.flat();
    out.push(...got);
    expect(out.length).toBeLessThanOrEqual(spec.maxInFlight);
    for (const { message, attempt } of got) {
      if (message.type === 'gap') continue;
      expect(attempt, 'a dead letter is not handed out').toBeLessThanOrEqual(MAX_ATTEMPTS);
      const { code } = message.event.record;
      const { seq } = message.event.position;
      const id = `${message.event.shard}:${seq}`;
      expect(acknowledged.has(id), `${id} again after its acknowledgement`).toBe(false);
      if (ordered && !fresh.has(id)) {
        expect(lastNew.get(code) ?? 0, `order of ${code}`).toBeLessThan(seq);
        lastNew.set(code, seq);
      }
      fresh.add(id);
    }
    if (ordered) {
      const codes = out.flatMap(({ message }) => (message.type === 'event' ? message.event.record.code : []));
      expect(new Set(codes).size, 'one event of a device at a time').toBe(codes.length);
    }
    return got.length;
  };
  const settle = async (delivery: Delivery, verdict: 'ack' | 'nack' | 'release'): Promise<void> => {
    out.splice(out.indexOf(delivery), 1);
    const process = processes[out.length % 2] as RedisGroups;
    const results = await process.settle(
      'g',
      [delivery.ackId],
      verdict === 'nack' ? { type: 'nack', delayMs: out.length % 2 } : { type: verdict },
    );
    expect(results).toEqual(['done']);
    if (verdict !== 'ack') return;
    if (delivery.message.type === 'event') {
      acknowledged.add(idOf(delivery));
      return;
    }
    const { shard, from, to, count } = delivery.message.gap;
    const number = (id: string): number => parsePosition(id.slice(id.indexOf('-') + 1)).seq;
    told.push({ shard, from: number(from), to: number(to), count: count ?? Number.NaN });
  };

  for (const step of plan) {
    if (step.do === 'send') {
      for (let i = 0; i < step.count; i++) {
        const code = `cam-${step.device}`;
        const shard = keyspace.shardOf(code as DeviceCode);
        const { seq } = parsePosition(await stream.append(record({ code: code as DeviceCode })));
        sent.set(`${shard}:${seq}`, { code, number: seq, shard });
      }
    } else if (step.do === 'pull') await pull(step.process, step.max);
    else if (step.do === 'trim') await state.xtrim(keyspace.events(step.shard), 'MAXLEN', step.keep);
    else if (step.do === 'replay') await first.replay('g', undefined);
    else {
      const delivery = out[step.pick % Math.max(1, out.length)];
      if (delivery !== undefined)
        await settle(delivery, step.do === 'ack' ? 'ack' : step.do === 'release' ? 'release' : 'nack');
    }
  }
  for (let rounds = 0; ; rounds++) {
    expect(rounds, 'rounds until nothing is left').toBeLessThan(500);
    const got = await pull(0, 12);
    for (const delivery of [...out]) await settle(delivery, 'ack');
    const { lag, waiting, inFlight } = await first.progress('g');
    if (got === 0 && lag + waiting + inFlight === 0) break;
  }

  const dead = new Set(
    (await first.deadLetters('g', { after: undefined, limit: 1_000 })).map(
      ({ event }) => `${event.shard}:${event.position.seq}`,
    ),
  );
  const missing = [...sent].filter(([id]) => !acknowledged.has(id) && !dead.has(id));
  for (const [id, { shard, number }] of missing) {
    expect(
      told.some((gap) => gap.shard === shard && gap.from < number && number < gap.to),
      `${id} is in no gap`,
    ).toBe(true);
  }
  // Every gap counts what was lost in it, and nothing else: so together they count what is missing.
  expect(told.reduce((sum, { count }) => sum + count, 0)).toBe(missing.length);
  // With the dead letters gone nothing is left but the places.
  await first.discard('g', undefined);
  const { key } = await first.get('g');
  for (let shard = 0; shard < WALK_SHARDS; shard++) {
    const place = keyspace.group(shard, key);
    const others = ['ready', 'out', 'later', 'parked', 'heads', 'dead', 'item', 'body'].map(
      (name) => `${place}:${name}`,
    );
    expect(await state.exists(...others)).toBe(0);
    expect(Number((await state.hget(place, 'h')) ?? 0)).toBe(0);
  }
  await stream.stop();
}

describe('on one server', () => {
  let redis: RedisServer;
  let state: RedisConnection;

  beforeAll(async () => {
    redis = await startRedis();
    state = openConnection({ url: redis.url, commandTimeoutMs: 5_000 }, 'state');
    await ready(state, 5_000);
  });

  afterAll(async () => {
    await closeConnection(state);
    await redis.stop();
  });

  for (const ordered of [true, false]) {
    it(`${ordered ? 'an ordered' : 'an unordered'} group acknowledges, buries or tells as missing every event, whatever consumers and retention do`, async () => {
      await walkGroups(state, ordered, Number(process.env.GROUP_WALKS ?? 25));
    }, 600_000);
  }
});

describe('on a Cluster', () => {
  let cluster: RedisCluster;
  let state: RedisConnection;

  beforeAll(async () => {
    cluster = await startRedisCluster();
    state = openConnection({ url: cluster.url, commandTimeoutMs: 1_000 }, 'state');
    await ready(state, 10_000);
  });

  afterAll(async () => {
    await closeConnection(state);
    await cluster.stop();
  });

  const SPEC: GroupSpec = {
    name: 'g',
    filter: {},
    ackDeadlineMs: 60_000,
    maxInFlight: 1_000,
    maxAttempts: 3,
    ordered: true,
  };
  const SHARDS = 16;
  const AT_ONCE = { max: 100, waitMs: 0 } as const;

  function open(prefix: string, onRead: () => Promise<void> = async () => undefined) {
    const keyspace = createKeyspace(prefix, SHARDS);
    const stream = new RedisEventStream({ state, keyspace });
    const groups = new RedisGroups({
      state,
      keyspace,
      barrier: new ReplicaBarrier(state, false),
      stream: {
        async read(...args) {
          const page = await stream.read(...args);
          await onRead();
          return page;
        },
      },
      listen: async () => undefined,
      groupsAllowed: 10,
      monotonicMs: () => performance.now(),
      randomText: randomText,
    });
    return { keyspace, stream, groups };
  }

  const codesOf = (deliveries: readonly Delivery[]): string[] =>
    deliveries.flatMap(({ message }) => (message.type === 'event' ? message.event.record.code : []));

  async function masterOf(key: string): Promise<{ master: RedisServer; slot: number; others: RedisServer[] }> {
    const slot = Number(await cluster.masters[0]?.command('CLUSTER', 'KEYSLOT', key));
    const index = Math.floor((slot * cluster.masters.length) / 16_384);
    const master = cluster.masters[index] as RedisServer;
    return { master, slot, others: cluster.masters.filter((each) => each !== master) };
  }

  it('groups acknowledge, bury or tell as missing every event, whatever consumers and retention do', async () => {
    await walkGroups(state, true, 2);
    await walkGroups(state, false, 1);
  });

  it('an event that is read while the slot of its shard begins to move is handed out afterwards, not skipped', async () => {
    let onRead = async (): Promise<void> => undefined;
    const { keyspace, stream, groups } = open('moving', () => onRead());
    await groups.create(SPEC, 'platform', { from: 'start' });
    await stream.append(record({ code: 'cam-1' as DeviceCode }));
    const { master, slot, others } = await masterOf(keyspace.events(keyspace.shardOf('cam-1' as DeviceCode)));
    const [target] = others as [RedisServer];
    const [from, to] = [await master.command('CLUSTER', 'MYID'), await target.command('CLUSTER', 'MYID')];
    onRead = async () => {
      await target.command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', String(from));
      await master.command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', String(to));
    };
    expect(await groups.pull('g', AT_ONCE)).toEqual([]);
    await expect(groups.progress('g')).rejects.toMatchObject({ code: 'broker_unavailable' });
    onRead = async () => undefined;
    for (const each of [master, target]) await each.command('CLUSTER', 'SETSLOT', slot, 'STABLE');
    const got = await groups.pull('g', { max: 10, waitMs: 20_000 });
    expect(codesOf(got)).toEqual(['cam-1']);
    groups.stop();
    await stream.stop();
  });

  it('a master that is away holds up its own shards only', async () => {
    const { keyspace, stream, groups } = open('away');
    await groups.create({ ...SPEC, ordered: false }, 'platform', { from: 'start' });
    const { key } = await groups.get('g');
    const needed = await Promise.all([keyspace.groupPermits(key), keyspace.groupSpec('g')].map(masterOf));
    const away = cluster.masters.find((each) => needed.every(({ master }) => master !== each)) as RedisServer;
    const reached: string[] = [];
    for (let i = 0; i < 40; i++) {
      const code = `cam-${i}`;
      const shard = keyspace.shardOf(code as DeviceCode);
      await stream.append(record({ code: code as DeviceCode }));
      if ((await masterOf(keyspace.events(shard))).master !== away) reached.push(code);
    }
    await away.kill('SIGSTOP');
    try {
      const got: string[] = [];
      while (got.length < reached.length) {
        const some = await groups.pull('g', { max: 7, waitMs: 0 });
        expect(some.length).toBeGreaterThan(0);
        got.push(...codesOf(some));
        const ackIds = some.map(({ ackId }) => ackId);
        expect(new Set(await groups.settle('g', ackIds, { type: 'ack' }))).toEqual(new Set(['done']));
      }
      expect(new Set(got)).toEqual(new Set(reached));
    } finally {
      await away.kill('SIGCONT');
    }
    groups.stop();
    await stream.stop();
  });
});
