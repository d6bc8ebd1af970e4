/** Groups on a Redis Cluster: the random walks, a slot that moves, a master that is away. */

import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisCluster, type RedisServer, startRedisCluster } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  openConnection,
  type RedisConnection,
  ReplicaBarrier,
  ready,
} from '@lapi-broker/redis';
import { customAlphabet } from 'nanoid';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { record } from '../testing/event-record.ts';
import { walkGroups } from '../testing/group-walk.ts';
import type { Delivery, GroupSpec } from './group.ts';
import { RedisGroups } from './redis-groups.ts';

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
    listen: async () => () => undefined,
    groupsAllowed: 10,
    monotonicMs: () => performance.now(),
    randomText: customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz'),
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
  await walkGroups(state, true, 3);
  await walkGroups(state, false, 2);
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
