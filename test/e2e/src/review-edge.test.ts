/** What may not happen to sessions and ownership when messages cross, get lost or come late: stories from the cracks between claim, hint,
 *  lease and socket (I1, I3, D3, D8, G7, S5, S10). Each has a broker of its own, because it breaks the store or a node. */

import { createServer, connect as dial, type Server, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { type RedisServer, startRedis, startTcpProxy, type TcpProxy, waitFor } from '@lapi-broker/fixture';
import { afterEach, expect, test } from 'vitest';
import { DEVICE_INFO, Device, KEEPALIVE } from './device.ts';
import { EventReader, epochsOf } from './event-reader.ts';
import { type Setting, startSetting } from './setting.ts';
import { encodeFrame, nonceOf, REGISTER, registerQuery, Wire } from './wire.ts';

const ends: (() => Promise<unknown> | unknown)[] = [];
afterEach(async () => {
  for (const end of ends.splice(0).reverse()) await end();
});

async function ownRedis(): Promise<RedisServer> {
  const redis = await startRedis();
  ends.push(() => redis.stop());
  return redis;
}

async function setUp(
  redis: RedisServer,
  edges: number,
  edgeEnv: Readonly<Record<string, string>> = {},
): Promise<Setting> {
  const setting = await startSetting({
    redis: { url: redis.url },
    edges,
    edgeEnv,
  });
  ends.push(() => setting.stop());
  return setting;
}

async function proxyTo(redis: RedisServer): Promise<TcpProxy> {
  const proxy = await startTcpProxy({ target: { port: redis.port } });
  ends.push(() => proxy.stop());
  return proxy;
}

/** The key of the device's row, wherever its shard is. */
async function rowKey(redis: RedisServer, code: string): Promise<string> {
  const keys = (await redis.command('KEYS', `*:device:${code}`)) as string[];
  expect(keys).toHaveLength(1);
  return keys[0] as string;
}

/** Cuts the inboxes of all edges, as a network does: every node then looks at its rows again. */
async function cutInboxes(redis: RedisServer): Promise<void> {
  await redis.command('CLIENT', 'KILL', 'TYPE', 'pubsub');
}

/** A way to Redis on which only commands are late, and messages of channels are not. */
async function lateCommands(redis: RedisServer): Promise<{ readonly url: string; delay(ms: number): void }> {
  let delayMs = 0;
  const sockets = new Set<Socket>();
  const timers = new Set<NodeJS.Timeout>();
  const server: Server = createServer((client) => {
    const target = dial({ host: '127.0.0.1', port: redis.port });
    let subscriber = false;
    for (const socket of [client, target]) {
      sockets.add(socket);
      socket.on('error', () => undefined);
      socket.on('close', () => {
        sockets.delete(socket);
        client.destroy();
        target.destroy();
      });
    }
    client.on('data', (bytes) => {
      subscriber ||= bytes.includes('lapi-subscriber');
      target.write(bytes);
    });
    target.on('data', (bytes) => {
      if (subscriber || delayMs === 0) client.write(bytes);
      else timers.add(setTimeout(() => client.writable && client.write(bytes), delayMs));
    });
  });
  await new Promise<void>((resolve) => server.listen(0, '127.0.0.1', resolve));
  ends.push(() => {
    for (const timer of timers) clearTimeout(timer);
    for (const socket of sockets) socket.destroy();
    return new Promise((resolve) => server.close(resolve));
  });
  const address = server.address();
  if (address === null || typeof address === 'string') throw new Error('no port');
  return {
    url: `redis://127.0.0.1:${address.port}`,
    delay: (ms) => {
      delayMs = ms;
    },
  };
}

test('D8, I3: a call that waited through the fence is not written to a session of the earlier incarnation', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 0);
  const way = await proxyTo(redis);
  const fenced = await broker.addEdge({ REDIS_URL: `redis://127.0.0.1:${way.port}` });
  await broker.addEdge();
  const device = await Device.online(broker, { settings: { profile: 'single' } });
  const old = device.wire;
  const ask = (n: number) =>
    broker.api(`/v1/devices/${device.code}${DEVICE_INFO}?n=${n}`, { headers: { 'x-lapi-timeout': '60000' } });
  await sleep(1_100);
  const first = ask(1).catch(() => undefined);
  const call = await old.call(/n=1/);
  const second = ask(2).catch(() => undefined);
  await sleep(300);

  fenced.signal('SIGSTOP');
  await sleep(10_500);
  const current = await device.register(1);
  device.answering();
  way.latency(400);
  fenced.signal('SIGCONT');
  await waitFor(() => fenced.lines().filter((line) => line.includes('"lease.taken"')).length === 2, {
    deadlineMs: 15_000,
    what: 'the new incarnation',
  });
  old.json({ ResponseURL: DEVICE_INFO, ResponseCode: 0, Cseq: call.Cseq, Data: {} });
  await old.untilClosed(15_000);
  expect(old.texts().filter((text) => text.includes('n=2'))).toEqual([]);
  expect(current.closed).toBe(false);
  way.heal();
  const [, answer] = await Promise.all([first, second]);
  // Refused unwritten by the fenced node, it may be brought to the new session, once, and then ends with its answer.
  const reached = device.calls.filter(({ url }) => url.includes('n=2')).length;
  expect({ reached, status: answer?.status, written: answer?.json().written }).toBeOneOf([
    { reached: 1, status: 200, written: undefined },
    { reached: 0, status: 503, written: false },
  ]);
}, 90_000);

test('D3: a take-over that is told while the older claim is still on its way closes the older session', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 0);
  const way = await lateCommands(redis);
  await broker.addEdge({ REDIS_URL: way.url });
  await broker.addEdge();
  const device = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
  const slow = await Wire.connect(broker.edgeUrl(0));
  const nonce = nonceOf(await slow.get(REGISTER));
  way.delay(700);
  const answer = slow.get(`${REGISTER}?${registerQuery(device.identity, nonce)}`);
  // The claim is made, its answer is under way.
  await waitFor(async () => (await redis.command('HGET', await rowKey(redis, device.code), 'node')) !== null, {
    deadlineMs: 5_000,
    what: 'the claim',
  });
  const newest = await device.register(1);
  expect((await answer).status).toBe(101);
  way.delay(0);
  await slow.untilClosed(5_000);
  expect(newest.closed).toBe(false);
});

test('H7, D3: a registration that was broken off after its claim leaves no older session without ownership', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 0);
  const way = await lateCommands(redis);
  await broker.addEdge({ REDIS_URL: way.url });
  const device = await Device.online(broker, { settings: { profile: 'quiet' } });
  const { epoch } = await broker.untilOnline(device.code);
  const second = await Wire.connect(broker.edgeUrl(0));
  const nonce = nonceOf(await second.get(REGISTER));
  way.delay(500);
  second.write(
    `GET ${REGISTER}?${registerQuery(device.identity, nonce)} HTTP/1.1\r\nHost: broker.example\r\nUpgrade: websocket\r\nSec-WebSocket-Key: bHBrZjA5ODc2NTQzMjEwMQ==\r\n\r\n`,
  );
  await waitFor(
    async () => (await redis.command('HGET', await rowKey(redis, device.code), 'epoch')) !== String(epoch),
    {
      deadlineMs: 5_000,
      what: 'the second claim',
    },
  );
  second.destroy();
  await broker.untilOnline(device.code, false);
  way.delay(0);
  await device.wire.untilClosed(5_000);
});

test('G7: a removal that is told while the claim is still on its way ends the session', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 0);
  const way = await lateCommands(redis);
  await broker.addEdge({ REDIS_URL: way.url });
  const device = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
  const wire = await Wire.connect(broker.edgeUrl(0));
  const nonce = nonceOf(await wire.get(REGISTER));
  way.delay(700);
  const answer = wire.get(`${REGISTER}?${registerQuery(device.identity, nonce)}`);
  await waitFor(async () => (await redis.command('HGET', await rowKey(redis, device.code), 'node')) !== null, {
    deadlineMs: 5_000,
    what: 'the claim',
  });
  expect((await broker.api(`/v1/devices/${device.code}`, { method: 'DELETE' })).status).toBe(204);
  expect((await answer).status).toBe(101);
  way.delay(0);
  await wire.untilClosed(5_000);
  expect(wire.closeCode).toBe(1008);
});

test('G7: a device that was removed while its node could not hear it is closed when the inbox is back', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 1);
  const removed = await Device.online(broker, { settings: { profile: 'quiet' } });
  const rotated = await Device.online(broker, { settings: { profile: 'quiet' } });
  const kept = await Device.online(broker, { settings: { profile: 'quiet' } });
  // As the removal leaves the row; nobody is told.
  await redis.command('HDEL', await rowKey(redis, removed.code), 'rev', 'enabled', 'profile', 'type', 'tags');
  await redis.command('HSET', await rowKey(redis, rotated.code), 'enabled', '0');
  await cutInboxes(redis);
  await Promise.all([removed.wire.untilClosed(10_000), rotated.wire.untilClosed(10_000)]);
  expect([removed.wire.closeCode, rotated.wire.closeCode]).toEqual([1008, 1008]);
  expect(await kept.keepalive()).toContain('"ResponseCode":0');
});

test('I1: a session that its row does not name is closed after a gap, also when the store fell back to an older owner', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 2);
  const device = await Device.online(broker, { settings: { profile: 'quiet' } });
  await broker.untilOnline(device.code);
  const row = await rowKey(redis, device.code);
  const before = (await redis.command('HMGET', row, 'node', 'epoch', 'session')) as [string, string, string];
  const moved = await device.register(1);
  await broker.untilOnline(device.code);
  // A failover to a replica that was behind: the take-over is forgotten.
  await redis.command('HSET', row, 'node', before[0], 'epoch', before[1], 'session', before[2]);
  await cutInboxes(redis);
  await moved.untilClosed(10_000);
  const again = await device.register(1);
  device.answering();
  await waitFor(async () => (await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status === 200, {
    deadlineMs: 10_000,
    what: 'a call to the device',
  });
  expect(again.closed).toBe(false);
});

test('limits: a node takes no more sessions than it may, wherever the nonce came from', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 0);
  await broker.addEdge({ LAPI_MAX_SESSIONS: '1' });
  await broker.addEdge();
  const device = await Device.online(broker, { settings: { profile: 'quiet' } });
  const other = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
  const elsewhere = await Wire.connect(broker.edgeUrl(1));
  const register = async (who: Device): Promise<number> => {
    const nonce = nonceOf(await elsewhere.get(REGISTER));
    const full = await Wire.connect(broker.edgeUrl(0));
    const { status } = await full.get(`${REGISTER}?${registerQuery(who.identity, nonce)}`);
    if (status !== 101) full.destroy();
    else ends.push(() => full.destroy());
    return status;
  };
  expect(await register(other)).toBe(503);
  expect(device.wire.closed).toBe(false);
  // Its own device may come back: that needs no further place.
  expect(await register(device)).toBe(101);
  elsewhere.destroy();
});

test('S5: no log line holds a nonce or a Sign when Redis refuses a claim', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 1);
  const device = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
  const wire = await Wire.connect(broker.edgeUrl(0));
  const nonce = nonceOf(await wire.get(REGISTER));
  await redis.command('CONFIG', 'SET', 'maxmemory', '1');
  const answer = await wire.get(`${REGISTER}?${registerQuery(device.identity, nonce)}`);
  expect(answer.status).toBe(503);
  const lines = await waitFor(
    () => {
      const found = broker.edges[0]?.lines().filter((line) => line.includes('"register.failed"')) ?? [];
      return found.length > 0 ? found : undefined;
    },
    { deadlineMs: 5_000, what: 'the log line' },
  );
  expect(lines.filter((line) => line.includes(nonce))).toEqual([]);
});

test('S10: connections beyond what a node holds unauthenticated are closed, and devices that are in stay in', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 1, { LAPI_UNAUTHENTICATED_CONNECTIONS: '20' });
  const device = await Device.online(broker, { settings: { profile: 'quiet' } });
  const flood = await Promise.all(
    Array.from({ length: 40 }, (_, i) => Wire.connect(broker.edgeUrl(0), `127.0.0.${10 + (i % 4)}`)),
  );
  ends.push(() => {
    for (const wire of flood) wire.destroy();
  });
  await waitFor(() => flood.filter((wire) => wire.closed).length >= 20, {
    deadlineMs: 5_000,
    what: 'closed connections',
  });
  expect(flood.filter((wire) => wire.closed)).toHaveLength(20);
  expect(await device.keepalive()).toContain('"ResponseCode":0');
});

test('K5: a device that kept alive while its node was paused is not taken for silent', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 1, { LAPI_LIVENESS_FLOOR_SECONDS: '1' });
  const device = await Device.online(broker, { settings: { profile: 'brief' } });
  const { wire } = device;
  const [edge] = broker.edges;
  edge?.signal('SIGSTOP');
  await sleep(20_000);
  wire.json({ RequestURL: KEEPALIVE, Method: 'PUT', Cseq: 5, Data: {} });
  await sleep(9_000);
  edge?.signal('SIGCONT');
  await wire.response(5);
  const row = await broker.untilOnline(device.code);
  expect(wire.closed).toBe(false);
  const reader = await EventReader.replay(broker, `device=${device.code}`);
  await waitFor(() => epochsOf(reader.events, device.code).online.at(-1) === row.epoch, {
    deadlineMs: 10_000,
    what: 'the epoch of the new incarnation',
  });
}, 90_000);

test('S11, I4.5: a device that floods with keepalives or pings is closed with 1008, and the others go on', async () => {
  const redis = await ownRedis();
  const { broker } = await setUp(redis, 1);
  const other = await Device.online(broker, { settings: { profile: 'quiet' } });
  const keepalive = encodeFrame(`{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":1,"Data":{}}`);
  for (const frame of [keepalive, encodeFrame('', { opcode: 9 })]) {
    const hostile = await Device.online(broker, { settings: { profile: 'quiet' } });
    hostile.wire.onFrame = ({ opcode }) => opcode !== 8;
    hostile.wire.write(Buffer.concat(Array.from({ length: 4_000 }, () => frame)));
    await hostile.wire.untilClosed(5_000);
    expect(hostile.wire.closeCode).toBe(1008);
    const row = await broker.untilOnline(hostile.code, false);
    expect(row.lastOffline).toMatchObject({ reason: 'overflow' });
  }
  expect(await other.keepalive()).toContain('"ResponseCode":0');
});
