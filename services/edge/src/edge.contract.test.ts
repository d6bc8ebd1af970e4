/** An edge inside this process, so that what it leaves behind after its stop can be seen: the leak check of every test file finds its timers
 *  and connections, and here its keys and its clients of Redis are counted. */

import { randomBytes } from 'node:crypto';
import { RedisPubSub } from '@lapi-broker/bus';
import { createSecretVault, RedisDeviceStore } from '@lapi-broker/device';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { type OfflineFacts, SimulatedDevice } from '@lapi-broker/fleet';
import {
  type DeviceCode,
  decodeReplyFrame,
  encodeCommandFrame,
  type InstanceId,
  type NodeId,
  type ReplyFrame,
} from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { RedisOwnerRegistry } from '@lapi-broker/routing';
import { createLog } from '@lapi-broker/telemetry';
import { afterAll, afterEach, beforeAll, expect, test } from 'vitest';
import { readEdgeConfig } from './config.ts';
import { createEdge } from './edge.ts';

const SECRET = 'k9!Zr7_pQ2wX4vLm';
const CALLER = 'caller' as InstanceId;
const URL_PATH = '/LAPI/V1.0/System/DeviceInfo';
/** No call of its own, and called as early as a profile allows. */
const PROFILES = { quiet: { subscription: 'off', firstRequestDelayMs: 1_000 } };
const key = (): string => randomBytes(32).toString('base64');

let redis: RedisServer;
let connection: RedisConnection;
const closers: (() => Promise<unknown>)[] = [];
let prefixes = 0;

beforeAll(async () => {
  redis = await startRedis();
  connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
});
afterEach(async () => {
  for (const close of closers.splice(0).reverse()) await close();
});
afterAll(async () => {
  await closeConnection(connection);
  await redis.stop();
});

const clients = async (): Promise<number> =>
  String(await connection.call('CLIENT', 'LIST'))
    .trim()
    .split('\n').length;

/** An edge that runs, and devices that are online there; each stays away once it was closed. */
async function start(count: number, settings: Readonly<Record<string, string>> = {}) {
  const prefix = `edge${++prefixes}`;
  const keyspace = createKeyspace(prefix);
  const secretKey = key();
  const lines: string[] = [];
  const config = readEdgeConfig({
    REDIS_URL: redis.url,
    LAPI_KEY_PREFIX: prefix,
    LAPI_SECRET_KEY: secretKey,
    LAPI_NONCE_KEY: key(),
    LAPI_NODE_NAME: 'edge-1',
    LAPI_DEVICE_HOST: '127.0.0.1',
    LAPI_DEVICE_PORT: '0',
    LAPI_PROBE_PORT: '0',
    ...settings,
  });
  const log = createLog({ service: 'edge', level: 'info', destination: { write: (line) => lines.push(line) } });
  const edge = createEdge({ ...config, profileOverrides: PROFILES }, log);
  closers.push(() => edge.stop());
  await edge.start();
  const begun = lines.find((line) => line.includes('"service.ready"')) ?? '{}';
  const { node, port } = JSON.parse(begun) as { node: NodeId; port: number };
  const store = new RedisDeviceStore(connection, keyspace);
  const vault = createSecretVault({ current: Buffer.from(secretKey, 'base64') });
  const registry = new RedisOwnerRegistry(connection, keyspace);
  const fleet = await Promise.all(
    Array.from({ length: count }, async (_, i) => {
      const code = `CAM-${i}` as DeviceCode;
      await store.put(code, { secret: vault.seal(code, SECRET), profile: 'quiet' });
      const device = new SimulatedDevice({ code, secret: SECRET, urls: [`ws://127.0.0.1:${port}`] });
      const ends: OfflineFacts[] = [];
      device.on('offline', (facts) => {
        ends.push(facts);
        void device.stop();
      });
      closers.push(() => device.stop());
      device.start();
      expect(await device.untilOnline(10_000)).toBe(true);
      return { code, device, ends };
    }),
  );
  return { edge, node, keyspace, lines, fleet, registry };
}

/** Nothing of the node is left but the note that its end was announced: no row that names it, no index, no lease, no client. */
async function expectNothingLeft(
  { keyspace, registry, fleet, node }: Awaited<ReturnType<typeof start>>,
  clientsBefore: number,
): Promise<void> {
  for (const { code } of fleet) expect((await registry.lookUp(code)).owner).toBeUndefined();
  const keys = await connection.keys(`${keyspace.prefix}:*`);
  const named = keys.filter((each) => each.includes(node) || each === keyspace.node('edge-1'));
  expect(named.filter((each) => !each.includes(':ended:'))).toEqual([]);
  await waitFor(async () => (await clients()) === clientsBefore, {
    deadlineMs: 5_000,
    what: 'the clients of the edge',
  });
}

test('a drain answers the calls that are out, closes all devices, and leaves no session, lease, key, connection or timer (I8)', async () => {
  const clientsBefore = await clients();
  const it = await start(8, { LAPI_DRAIN_DELAY_SECONDS: '0' });
  const { edge, node, keyspace, fleet, registry } = it;
  const pubsub = new RedisPubSub({ state: connection, onEvent: () => undefined });
  const replies = new Map<number, ReplyFrame>();
  const take = (bytes: Buffer): void => {
    const frame = decodeReplyFrame(bytes);
    if (frame !== undefined) replies.set(frame.id, { ...frame, body: Buffer.from(frame.body) });
  };
  const subscription = await pubsub.subscribe(keyspace.reply(CALLER), take, () => undefined);
  closers.push(
    () => pubsub.stop(),
    () => subscription.close(),
  );
  const answers: (() => void)[] = [];
  for (const { device } of fleet) {
    device.onRequest = () =>
      new Promise((resolve) => {
        answers.push(() => resolve(undefined));
      });
  }
  for (const [id, { code }] of fleet.entries()) {
    const epoch = (await registry.lookUp(code)).owner?.epoch ?? fail('has no owner');
    const deadlineMs = Date.now() + 30_000;
    const head = { id, replyTo: CALLER, code, epoch, deadlineMs, method: 'GET', url: URL_PATH } as const;
    await pubsub.publish(keyspace.inbox(node), encodeCommandFrame({ ...head, body: Buffer.from('{}') }));
  }
  await waitFor(() => answers.length === fleet.length, { deadlineMs: 10_000, what: 'all calls at the devices' });
  const draining = edge.drain(20_000);
  await waitFor(() => it.lines.some((line) => line.includes('"drain.started"')), { deadlineMs: 5_000, what: 'drain' });
  for (const answer of answers) answer();
  await draining;
  for (const { ends } of fleet) expect(ends).toMatchObject([{ code: 1001, cause: 'remote' }]);
  await waitFor(() => replies.size === fleet.length, { deadlineMs: 5_000, what: 'all replies' });
  for (const reply of replies.values()) expect(reply).toMatchObject({ outcome: 'answered', success: true });
  await subscription.close();
  await pubsub.stop();
  await edge.stop();
  await expectNothingLeft(it, clientsBefore);
});

test('a stop in the middle of a drain, as a second signal asks for it, waits for nobody and leaves as little (I8)', async () => {
  const clientsBefore = await clients();
  const it = await start(3, { LAPI_DRAIN_DELAY_SECONDS: '600', LAPI_DRAIN_SECONDS: '3600' });
  const draining = it.edge.drain(3_600_000);
  await it.edge.stop();
  await draining;
  for (const { device, ends } of it.fleet) {
    await device.untilOffline(5_000);
    expect(ends).toMatchObject([{ code: 1001, cause: 'remote' }]);
  }
  await expectNothingLeft(it, clientsBefore);
});

function fail(what: string): never {
  throw new Error(what);
}
