/** What the bus over Redis does when Redis restarts, hangs, fails over, moves slots or forgets. Real servers, real signals. */

import { startRedis, startRedisCluster, startRedisSentinel, startTcpProxy, waitFor } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  type Keyspace,
  nodeFor,
  openConnection,
  parcelKey,
  RedisClock,
  type RedisConnection,
  ready,
  withDeadline,
} from '@lapi-broker/redis';
import { afterEach, expect, test } from 'vitest';
import { devicesOf, eventOf } from '../contract/event-stream.ts';
import { compareEntryIds, type EntryId, entryNumber, type StreamEntry, ZERO_ID } from '../event-stream.ts';
import { parcelSlip } from './parcel.ts';
import { RedisEventStream } from './redis-event-stream.ts';
import { RedisPubSub } from './redis-pubsub.ts';

const cleanups: (() => Promise<void>)[] = [];
afterEach(async () => {
  for (const cleanup of cleanups.splice(0).reverse()) await cleanup();
});

const within = (deadlineMs: number, what: string) => ({ deadlineMs, what });

async function connect(
  server: { readonly url: string; stop(): Promise<void> },
  commandTimeoutMs = 500,
): Promise<RedisConnection> {
  cleanups.push(() => server.stop());
  const state = openConnection({ url: server.url, commandTimeoutMs }, 'state');
  cleanups.push(() => closeConnection(state));
  await ready(state, 10_000);
  return state;
}

function openPubSub(
  state: RedisConnection,
  options: { pingIntervalMs?: number; pingTimeoutMs?: number } = {},
): RedisPubSub {
  const pubsub = new RedisPubSub({ state, ...options });
  cleanups.push(() => pubsub.stop());
  return pubsub;
}

function openStream(state: RedisConnection, keyspace: Keyspace, appendTimeoutMs?: number): RedisEventStream {
  const stream = new RedisEventStream({
    state,
    keyspace,
    ...(appendTimeoutMs === undefined ? {} : { appendTimeoutMs }),
  });
  cleanups.push(() => stream.stop());
  return stream;
}

interface Ear {
  readonly frames: string[];
  gaps: number;
}

async function listen(pubsub: RedisPubSub, channel: string): Promise<Ear> {
  const ear: Ear = { frames: [], gaps: 0 };
  await pubsub.subscribe(
    channel,
    (frame) => ear.frames.push(frame.toString()),
    () => {
      ear.gaps++;
    },
  );
  return ear;
}

test('after a restart of the server the subscription is back and its owner is told of the gap', async () => {
  const server = await startRedis();
  const pubsub = openPubSub(await connect(server));
  const ear = await listen(pubsub, 'inbox');
  await server.kill('SIGKILL');
  await waitFor(() => !pubsub.trustworthy(), within(2000, 'trust to end with the connection'));
  expect(await pubsub.publish('inbox', Buffer.from('lost'))).toMatchObject({ status: 'not_sent' });
  await server.restart();
  await waitFor(() => ear.gaps === 1 && pubsub.trustworthy(), within(10_000, 'the gap'));
  await waitFor(
    async () => (await pubsub.publish('inbox', Buffer.from('back'))).status === 'published',
    within(5000, 'a publication'),
  );
  await waitFor(() => ear.frames.length > 0, within(2000, 'the frame'));
  expect(ear.frames).toEqual(['back']);
});

test('a hung server is not trusted, an append is rejected within its time, and both come back (D8, D11)', async () => {
  const server = await startRedis();
  const state = await connect(server, 300);
  const pubsub = openPubSub(state, { pingIntervalMs: 300, pingTimeoutMs: 300 });
  const stream = openStream(state, createKeyspace(), 500);
  const ear = await listen(pubsub, 'inbox');
  await stream.append(eventOf('cam-1', 0));

  await server.kill('SIGSTOP');
  const stoppedMs = performance.now();
  const published = pubsub.publish('inbox', Buffer.from('x'));
  await expect(stream.append(eventOf('cam-1', 1))).rejects.toMatchObject({ code: 'broker_unavailable' });
  await expect(stream.append(eventOf('cam-1', 2))).rejects.toMatchObject({ code: 'broker_unavailable' });
  expect(performance.now() - stoppedMs).toBeLessThan(2 * (500 + 300) + 500);
  expect(await published).toMatchObject({ status: 'unknown' });
  // Interval, time-out and slack of the ping.
  await waitFor(() => !pubsub.trustworthy(), within(300 + 300 + 500 + 500, 'trust to end'));

  await server.kill('SIGCONT');
  await waitFor(() => ear.gaps > 0 && pubsub.trustworthy(), within(5000, 'the subscription'));
  await waitFor(() => stream.append(eventOf('cam-1', 3)), within(5000, 'an append'));
});

test('what was given up is not stored when its line lives again, so that it cannot come in behind what was sent later (D7, I5)', async () => {
  const redis = await startRedis();
  cleanups.push(() => redis.stop());
  const line = await startTcpProxy({ target: { port: redis.port } });
  const state = await connect({ url: `redis://127.0.0.1:${line.port}`, stop: () => line.stop() });
  const redisClock = new RedisClock();
  const sentMs = performance.now();
  const [seconds, micros] = await state.time();
  redisClock.observe(Math.floor(Number(seconds) * 1_000 + Number(micros) / 1_000), sentMs, performance.now());
  const stream = new RedisEventStream({ state, keyspace: createKeyspace('test', 1), redisClock });
  cleanups.push(() => stream.stop());
  await stream.append(eventOf('cam-1', 1));

  line.pause('up');
  const pausedMs = performance.now();
  await expect(stream.append(eventOf('cam-1', 2))).rejects.toMatchObject({ code: 'broker_unavailable' });
  const later = stream.append(eventOf('cam-1', 3));
  await waitFor(() => performance.now() > pausedMs + 2_100, within(10_000, 'the event to be too late'));
  line.heal();
  await later;
  const stored = await stream.read(0, ZERO_ID, 10);
  expect(stored.map(({ event }) => event.seq)).toEqual([1, 3]);
});

test('in the first moment after a pause of the process nothing is trusted, until the next answered ping (3.3)', async () => {
  const server = await startRedis();
  const state = await connect(server);
  let pausedMs = 0;
  const pubsub = new RedisPubSub({ state, pingIntervalMs: 200, monotonicMs: () => performance.now() + pausedMs });
  cleanups.push(() => pubsub.stop());
  const ear = await listen(pubsub, 'inbox');
  expect(pubsub.trustworthy()).toBe(true);
  pausedMs = 10_000;
  expect(pubsub.trustworthy()).toBe(false);
  await waitFor(() => pubsub.trustworthy(), within(2000, 'the next ping'));
  expect(ear.gaps).toBe(0);
});

test('frames of foreign and cut batches are counted and dropped; the next batch arrives', async () => {
  const server = await startRedis();
  const pubsub = openPubSub(await connect(server));
  const ear = await listen(pubsub, 'inbox');
  await server.command('PUBLISH', 'inbox', 'not a batch');
  await server.command('PUBLISH', 'inbox', '');
  await server.command('PUBLISH', 'inbox', '\0\0\0\x05abc');
  await pubsub.publish('inbox', Buffer.from('good'));
  await waitFor(() => ear.frames.length === 1, within(2000, 'the good frame'));
  expect(ear.frames).toEqual(['good']);
  expect(pubsub.counts.droppedBatches).toBe(3);
});

test('a full Redis takes no large frame, and says so at once; small ones go on', async () => {
  const redis = await startRedis();
  const pubsub = openPubSub(await connect(redis));
  const ear = await listen(pubsub, 'lapi:test');
  await redis.command('CONFIG', 'SET', 'maxmemory', 1);
  expect(await pubsub.publish('lapi:test', Buffer.alloc(2 ** 20))).toEqual({ status: 'not_sent' });
  expect(await pubsub.publish('lapi:test', Buffer.from('small'))).toEqual({ status: 'published', receivers: 1 });
  await waitFor(() => ear.frames.length > 0, within(5_000, 'the small frame'));
  expect(ear.frames).toEqual(['small']);
  expect(pubsub.counts.waitingBytes).toBe(0);
});

test('a subscription that closes while frames are on their way hears them first', async () => {
  const server = await startRedis();
  const publisher = openPubSub(await connect(server));
  const proxy = await startTcpProxy({ target: { port: server.port } });
  cleanups.push(() => proxy.stop());
  const state = openConnection({ url: `redis://127.0.0.1:${proxy.port}`, commandTimeoutMs: 5_000 }, 'state');
  cleanups.push(() => closeConnection(state));
  await ready(state, 10_000);
  const pubsub = openPubSub(state, { pingIntervalMs: 60_000, pingTimeoutMs: 10_000 });
  const frames: string[] = [];
  const subscription = await pubsub.subscribe(
    'inbox',
    (frame) => frames.push(frame.toString()),
    () => undefined,
  );
  proxy.pause('down');
  expect(await publisher.publish('inbox', Buffer.from('late'))).toEqual({ status: 'published', receivers: 1 });
  const closing = subscription.close();
  proxy.heal();
  await closing;
  expect(frames).toEqual(['late']);
  expect(await publisher.publish('inbox', Buffer.from('too late'))).toEqual({ status: 'published', receivers: 0 });
});

test('a subscription closes on a server that hangs, too', async () => {
  const server = await startRedis();
  const pubsub = openPubSub(await connect(server), { pingIntervalMs: 60_000, pingTimeoutMs: 300 });
  const subscription = await pubsub.subscribe(
    'inbox',
    () => undefined,
    () => undefined,
  );
  await server.kill('SIGSTOP');
  await withDeadline(subscription.close(), 10_000);
  expect(pubsub.trustworthy()).toBe(false);
  await server.kill('SIGCONT');
});

test('a subscriber on a server that became a replica leaves it, because publications there are not counted (3.3)', async () => {
  const [server, other] = [await startRedis(), await startRedis()];
  cleanups.push(() => other.stop());
  const pubsub = openPubSub(await connect(server), { pingIntervalMs: 100, pingTimeoutMs: 500 });
  const ear = await listen(pubsub, 'inbox');
  await server.command('REPLICAOF', '127.0.0.1', other.port);
  await waitFor(() => !pubsub.trustworthy(), within(3000, 'trust to end'));
  await server.command('REPLICAOF', 'NO', 'ONE');
  await waitFor(() => ear.gaps === 1 && pubsub.trustworthy(), within(5000, 'the subscription'));
});

test('a tail goes on without hole or double while its connections are cut and the server restarts', async () => {
  const server = await startRedis({ args: ['--appendfsync', 'always'] });
  const state = await connect(server, 2000);
  const keyspace = createKeyspace();
  const stream = openStream(state, keyspace);
  const devices = devicesOf(keyspace);
  const heard: StreamEntry[] = [];
  const rewinds: number[] = [];
  const tail = await stream.tail(
    new Map(),
    (_, entries) => heard.push(...entries),
    (shard) => rewinds.push(shard),
  );
  cleanups.push(() => tail.close());

  const stored: EntryId[] = [];
  for (let seq = 0; seq < 2000; seq++) {
    const code = devices[seq % 4] ?? '';
    // Retried until stored, so that holes of the tail are told from failures of the append. What was stored twice is two entries.
    stored.push(await waitFor(() => stream.append(eventOf(code, seq)), within(15_000, 'an append')));
    if (seq % 250 === 100) await cutReaders(server);
    if (seq === 1200) {
      await server.kill('SIGKILL');
      await server.restart();
    }
  }
  await waitFor(() => heard.length >= stored.length, within(10_000, 'all entries'));
  const all: StreamEntry[] = [];
  for (const code of devices) all.push(...(await stream.read(keyspace.shardOf(code as DeviceCode), '0-0', 5000)));
  expect(heard).toHaveLength(all.length);
  for (const code of devices) {
    const ids = heard.filter(({ event }) => event.code === code).map(({ id }) => id);
    expect(ids).toEqual(all.filter(({ event }) => event.code === code).map(({ id }) => id));
  }
  expect(rewinds).toEqual([]);
});

test('a stream that lost its end is announced, and what was written below our position is not skipped (D9)', async () => {
  const server = await startRedis();
  const state = await connect(server);
  const keyspace = createKeyspace();
  const stream = openStream(state, keyspace);
  const shard = keyspace.shardOf('cam-1' as DeviceCode);
  const key = keyspace.events(shard);
  const heard: string[] = [];
  const rewinds: [number, EntryId][] = [];
  const tail = await stream.tail(
    new Map(),
    (_, entries) => heard.push(...entries.map(({ id }) => id)),
    (...rewind) => rewinds.push(rewind),
  );
  cleanups.push(() => tail.close());
  const ids: EntryId[] = [];
  for (let seq = 0; seq < 10; seq++) ids.push(await stream.append(eventOf('cam-1', seq)));
  await waitFor(() => heard.length === 10, within(5000, 'the first entries'));

  // What a promoted replica that was six entries and three seconds behind looks like.
  const kept = ids.slice(0, 4);
  const forgetful = ['return redis.call("DEL", KEYS[1], KEYS[2])', '2', key, `${key}:count`] as const;
  await server.command('EVAL', ...forgetful);
  for (const [seq, id] of kept.entries()) await addAs(server, key, id, seq);
  const late = `${(ids[4] ?? '').split('-')[0]}-${Number((ids[4] ?? '').split('-')[1])}`;
  await addAs(server, key, late, 100);
  await server.command('HSET', `${key}:count`, 'n', 5, 't', Number.parseInt(late, 10));
  await cutReaders(server);

  await waitFor(() => heard.length >= 11, within(5000, 'the entry of the new history'));
  expect(heard.slice(10)).toEqual([late]);
  expect(rewinds[0]).toEqual([shard, late]);
  const next = await stream.append(eventOf('cam-1', 101));
  await waitFor(() => heard.includes(next), within(5000, 'the next entry'));
  expect(heard).toHaveLength(12);
});

test('a hung Sentinel master is left: subscription, publications, appends and tail go on at the new one (D11)', async () => {
  const sentinels = await startRedisSentinel();
  const state = await connect(sentinels, 1000);
  const keyspace = createKeyspace();
  const [pubsub, stream] = [openPubSub(state), openStream(state, keyspace)];
  const ear = await listen(pubsub, 'inbox');
  const heard: number[] = [];
  const tail = await stream.tail(new Map(), (_, entries) => heard.push(...entries.map(({ event }) => event.seq)));
  cleanups.push(() => tail.close());
  await stream.append(eventOf('cam-1', 1));
  await waitFor(() => heard.includes(1), within(5000, 'the first entry'));

  await sentinels.master.kill('SIGSTOP');
  cleanups.push(() => sentinels.master.kill('SIGCONT'));
  await waitFor(() => ear.gaps > 0 && pubsub.trustworthy(), within(20_000, 'the subscription'));
  await waitFor(() => stream.append(eventOf('cam-1', 2)), within(20_000, 'an append'));
  await waitFor(() => heard.includes(2), within(10_000, 'the entry after the failover'));
  await waitFor(
    async () => {
      const result = await pubsub.publish('inbox', Buffer.from('back'));
      return result.status === 'published' && result.receivers === 1;
    },
    within(5000, 'a counted publication'),
  );
});

test('an event that no replica confirms is refused; after a failover the numbers go on where the stream ends (I5, D9)', async () => {
  const sentinels = await startRedisSentinel();
  const state = await connect(sentinels, 1000);
  const appends = openConnection({ url: sentinels.url, commandTimeoutMs: 1000 }, 'state');
  cleanups.push(() => closeConnection(appends));
  await ready(appends, 10_000);
  const keyspace = createKeyspace(undefined, 1);
  const stream = new RedisEventStream({ state, appends, keyspace, confirmed: true });
  cleanups.push(() => stream.stop());
  for (let seq = 1; seq <= 20; seq++) await stream.append(eventOf('cam-1', seq));

  for (const replica of sentinels.replicas) await replica.kill('SIGSTOP');
  await expect(stream.append(eventOf('cam-1', 21))).rejects.toMatchObject({ code: 'broker_unavailable' });
  for (const replica of sentinels.replicas) await replica.kill('SIGCONT');
  // It is stored all the same, which its owner cannot know: sent again it is a repeat.
  const again = await waitFor(() => stream.append(eventOf('cam-1', 21)), within(20_000, 'a confirmed append'));
  expect(entryNumber(again)).toBeGreaterThanOrEqual(22);

  await sentinels.master.kill('SIGSTOP');
  cleanups.push(() => sentinels.master.kill('SIGCONT'));
  const next = await waitFor(() => stream.append(eventOf('cam-1', 22)), within(30_000, 'an append after the failover'));
  const entries = await waitFor(() => stream.read(0, ZERO_ID, 1000), within(10_000, 'the entries'));
  const numbers = entries.map(({ id }) => entryNumber(id));
  expect(entryNumber(next)).toBeGreaterThan(entryNumber(again));
  expect(numbers).toEqual(Array.from({ length: entryNumber(next) }, (_, i) => i + 1));
  expect(await state.hget(`${keyspace.events(0)}:count`, 'n')).toBe(String(numbers.length));
});

test('a hung Cluster master is left: all goes on at its replica, and the other masters never stopped (D11, D13)', async () => {
  const cluster = await startRedisCluster({ masters: 3, replicasPerMaster: 1 });
  const state = await connect(cluster, 1000);
  const keyspace = createKeyspace();
  const [pubsub, stream] = [openPubSub(state), openStream(state, keyspace, 15_000)];
  const channels = await channelsOfMasters(cluster.masters, 'inbox');
  const ears = await Promise.all(channels.map((channel) => listen(pubsub, channel)));
  const heard: StreamEntry[] = [];
  const tail = await stream.tail(new Map(), (_, entries) => heard.push(...entries));
  cleanups.push(() => tail.close());
  const devices = Array.from({ length: 32 }, (_, i) => `cam-${i}`);
  await Promise.all(devices.map((code) => stream.append(eventOf(code, 1))));
  await waitFor(() => heard.length >= devices.length, within(10_000, 'the first entries'));

  await cluster.masters[0]?.kill('SIGSTOP');
  cleanups.push(async () => cluster.masters[0]?.kill('SIGCONT'));
  const outage = await waitFor(
    async () => (await pubsub.publish(channels[0] ?? '', Buffer.from('x'))).status !== 'published',
    within(5000, 'the outage'),
  );
  expect(outage).toBe(true);
  expect(await pubsub.publish(channels[1] ?? '', Buffer.from('other'))).toEqual({ status: 'published', receivers: 1 });
  // What was under way to the hung master is rejected, because it may be stored there; asked again, it waits for the replica.
  const store = (code: string) => waitFor(() => stream.append(eventOf(code, 2)), within(20_000, 'an append'));
  await Promise.all(devices.map(store));
  await waitFor(() => ears[0]?.gaps === 1 && pubsub.trustworthy(), within(20_000, 'the subscription'));
  expect(ears.slice(1).map(({ gaps }) => gaps)).toEqual([0, 0]);
  expect(await pubsub.publish(channels[0] ?? '', Buffer.from('back'))).toEqual({ status: 'published', receivers: 1 });
  await waitFor(
    () => new Set(heard.filter(({ event }) => event.seq === 2).map(({ event }) => event.code)).size === devices.length,
    within(20_000, 'all entries after the failover'),
  );
});

test('a slot that moves under load takes channel and stream along, in order and without hole', async () => {
  const cluster = await startRedisCluster();
  const state = await connect(cluster, 2000);
  const keyspace = createKeyspace();
  // No ping during the test: the server itself tells that the channel is gone.
  const [pubsub, stream] = [openPubSub(state, { pingIntervalMs: 60_000 }), openStream(state, keyspace)];
  const shard = keyspace.shardOf('cam-1' as DeviceCode);
  const key = keyspace.events(shard);
  const channel = `${key}:channel`;
  const ear = await listen(pubsub, channel);
  const heard: number[] = [];
  const tail = await stream.tail(new Map(), (_, entries) => heard.push(...entries.map(({ event }) => event.seq)));
  cleanups.push(() => tail.close());

  // Small portions in every turn of the loop, so that much is under way and waiting when the slot goes.
  let seq = 0;
  let stored = 0;
  let feeding = true;
  const feed = (): void => {
    if (!feeding) return;
    for (let i = 0; i < 20 && seq - stored < 2000; i++)
      void stream.append(eventOf('cam-1', seq++)).then(() => stored++);
    setImmediate(feed);
  };
  feed();
  try {
    await waitFor(() => stored > 1000, within(5000, 'some appends'));
    await moveSlot(cluster.masters, key);
    await waitFor(() => ear.gaps > 0 && pubsub.trustworthy(), within(10_000, 'the subscription'));
    const after = seq;
    await waitFor(() => stored > after, within(5000, 'some more appends'));
  } finally {
    feeding = false;
  }
  await waitFor(() => stored === seq, within(10_000, 'all appends'));
  await waitFor(() => heard.length >= seq, within(10_000, 'all entries'));
  expect(heard).toEqual(Array.from({ length: seq }, (_, i) => i));
  expect(await stream.bounds(shard)).toMatchObject({ added: seq, length: seq });
  expect(await pubsub.publish(channel, Buffer.from('x'))).toEqual({ status: 'published', receivers: 1 });

  // A reader that has not heard of a move fetches a large frame all the same.
  const inbox = await listen(pubsub, 'lapi:inbox:e1');
  const parcel = parcelKey('lapi:inbox:e1', 'moved');
  await state.set(parcel, '\0\0\0\x05large');
  await moveSlot(cluster.masters, parcel);
  const owner = nodeFor(state, 'lapi:inbox:e1');
  expect(await owner?.spublish('lapi:inbox:e1', parcelSlip('moved'))).toBe(1);
  await waitFor(() => inbox.frames.length > 0, within(5_000, 'the large frame'));
  expect(inbox.frames).toEqual(['large']);
});

interface Server {
  readonly port: number;
  command(name: string, ...args: readonly (string | number)[]): Promise<unknown>;
}

/** Cuts all connections that block in a read, as a network fault would. */
async function cutReaders(server: Server): Promise<void> {
  for (const line of String(await server.command('CLIENT', 'LIST')).split('\n')) {
    const id = /^id=(\d+) .*name=lapi-reader/.exec(line)?.[1];
    if (id !== undefined) await server.command('CLIENT', 'KILL', 'ID', id);
  }
}

async function addAs(server: Server, key: string, id: EntryId, seq: number): Promise<void> {
  const event = eventOf('cam-1', seq);
  expect(compareEntryIds(id, '0-0')).toBeGreaterThan(0);
  const fields = [
    'c',
    event.code,
    'k',
    event.kind,
    'u',
    event.url,
    't',
    event.at,
    'e',
    event.epoch,
    's',
    event.session,
  ];
  await server.command('XADD', key, id, ...fields, 'n', seq, 'g', 'site-a,größe', 'q', event.dedupKey, 'd', '{}');
}

/** One channel per master, served by it. */
async function channelsOfMasters(masters: readonly Server[], name: string): Promise<readonly string[]> {
  const channels = new Map<number, string>();
  for (let i = 0; channels.size < masters.length; i++) {
    const channel = `${name}:${i}`;
    const slot = Number(await masters[0]?.command('CLUSTER', 'KEYSLOT', channel));
    const index = Math.min(masters.length - 1, Math.floor((slot * masters.length) / 16_384));
    if (!channels.has(index)) channels.set(index, channel);
  }
  return masters.map((_, index) => channels.get(index) ?? '');
}

/** Moves the slot of a key to the next master, keys included, by the steps of the Cluster specification. */
async function moveSlot(masters: readonly Server[], key: string): Promise<void> {
  const slot = Number(await masters[0]?.command('CLUSTER', 'KEYSLOT', key));
  const ids = await Promise.all(masters.map(async (master) => String(await master.command('CLUSTER', 'MYID'))));
  const from = Math.min(masters.length - 1, Math.floor((slot * masters.length) / 16_384));
  const to = (from + 1) % masters.length;
  const [source, target] = [masters[from] as Server, masters[to] as Server];
  await target.command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', ids[from] ?? '');
  await source.command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', ids[to] ?? '');
  const keys = (await source.command('CLUSTER', 'GETKEYSINSLOT', slot, 100)) as string[];
  if (keys.length > 0) await source.command('MIGRATE', '127.0.0.1', target.port, '', 0, 5000, 'KEYS', ...keys);
  await target.command('CLUSTER', 'SETSLOT', slot, 'NODE', ids[to] ?? '');
  await source.command('CLUSTER', 'SETSLOT', slot, 'NODE', ids[to] ?? '');
}
