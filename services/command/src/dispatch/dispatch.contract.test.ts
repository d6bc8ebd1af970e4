import { type PublishResult, type PubSub, RedisPubSub } from '@lapi-broker/bus';
import { RedisDeviceStore } from '@lapi-broker/device';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import {
  type CommandId,
  type DeviceCode,
  encodeEndedFrame,
  type InstanceId,
  type ReplyFrame,
} from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  openConnection,
  RedisClock,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { RedisNodeDirectory, RedisOwnerRegistry } from '@lapi-broker/routing';
import { nanoid } from 'nanoid';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { NodeWatch } from '../node/node-watch.ts';
import { FakeEdge } from '../testing/fake-edge.ts';
import { type CommandEnd, type DirectCommand, Dispatch, type DispatchMeter } from './dispatch.ts';
import { OwnerCache } from './owner-cache.ts';
import { StoreTimeKeeper } from './store-time.ts';

const keyspace = createKeyspace('dispatch', 4);
const monotonicMs = (): number => performance.now();

interface Counts {
  readonly ended: string[];
  readonly located: string[];
  published: number;
  retried: number;
  late: number;
}

let redis: RedisServer;
let connection: RedisConnection;
/** Released after each test, newest first. */
const open: (() => Promise<void> | void)[] = [];

beforeAll(async () => {
  redis = await startRedis();
});
afterAll(() => redis.stop());
afterEach(async () => {
  for (const release of open.splice(0).reverse()) await release();
});

async function connect(): Promise<RedisConnection> {
  const made = openConnection({ url: redis.url, commandTimeoutMs: 500 }, 'state');
  open.push(() => closeConnection(made));
  await ready(made, 5_000);
  return made;
}

function bus(): RedisPubSub {
  const made = new RedisPubSub({ state: connection, pingIntervalMs: 100, pingTimeoutMs: 300 });
  open.push(() => made.stop());
  return made;
}

interface FixtureOptions {
  readonly pendingCommands?: number;
  readonly cacheMs?: number;
  readonly wrap?: (pubsub: PubSub) => PubSub;
}

async function fixture({ pendingCommands = 100, cacheMs = 60_000, wrap = (pubsub) => pubsub }: FixtureOptions = {}) {
  connection = await connect();
  const registry = new RedisOwnerRegistry(connection, keyspace);
  const directory = new RedisNodeDirectory(connection, keyspace);
  const devices = new RedisDeviceStore(connection, keyspace);
  const nodes = new NodeWatch({ directory, intervalMs: 50, staleMs: 10_000, monotonicMs, random: Math.random });
  const clock = new RedisClock(monotonicMs);
  const time = new StoreTimeKeeper(connection, clock, monotonicMs);
  const counts: Counts = { ended: [], located: [], published: 0, retried: 0, late: 0 };
  const meter: DispatchMeter = {
    ended: (outcome) => counts.ended.push(outcome),
    located: (source) => counts.located.push(source),
    published: () => {
      counts.published += 1;
    },
    retried: () => {
      counts.retried += 1;
    },
    lateReply: () => {
      counts.late += 1;
    },
    foreignFrame: () => undefined,
  };
  const instance = `c${nanoid(8)}` as InstanceId;
  const ended: CommandId[] = [];
  const dispatch = new Dispatch(
    {
      instance,
      keyspace,
      pubsub: wrap(bus()),
      registry,
      nodes,
      time: clock,
      owners: new OwnerCache(100, cacheMs),
      meter,
      onEnded: (id) => ended.push(id),
      monotonicMs,
      random: () => 0.5,
    },
    { pendingCommands, sweepMs: 10, replyGraceMs: 50 },
  );
  await time.start();
  await nodes.start();
  await dispatch.start();
  open.push(
    () => dispatch.stop(),
    () => nodes.stop(),
    () => time.stop(),
  );
  const edge = async (name = 'edge', leaseMs?: number): Promise<FakeEdge> => {
    const made = new FakeEdge(name, { pubsub: bus(), keyspace, registry, directory });
    open.push(() => made.deafen());
    return made.start(leaseMs);
  };
  /** A new device, not registered anywhere. */
  const provision = async (): Promise<{ code: DeviceCode; revision: number }> => {
    const code = `CAM-${nanoid(8).replace(/_/g, '-')}` as DeviceCode;
    return { code, revision: (await devices.put(code, { secret: Buffer.from('sealed') })).revision };
  };
  const call = (code: DeviceCode, over: Partial<DirectCommand> = {}): Promise<CommandEnd> =>
    dispatch.call({
      code,
      method: 'GET',
      url: '/LAPI/V1.0/System/DeviceInfo',
      body: Buffer.alloc(0),
      timeoutMs: 2_000,
      connectTimeoutMs: 0,
      ...over,
    });
  return { dispatch, instance, ended, registry, directory, devices, nodes, counts, edge, provision, call };
}

it('the reply channel also tells of recorded commands that ended', async () => {
  const { instance, ended, counts } = await fixture();
  const id = `00${'a'.repeat(20)}` as CommandId;
  await bus().publish(keyspace.reply(instance), encodeEndedFrame(id));
  await waitFor(() => ended.length === 1, { deadlineMs: 2_000, what: 'the frame' });
  expect(ended).toEqual([id]);
  expect(counts.late).toBe(0);
});

describe('direct commands', () => {
  it("the device's answer comes back byte by byte, and the request reaches it byte by byte", async () => {
    const { edge, provision, call, counts } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    const epoch = await node.claim(code, revision);
    const body = Buffer.from('{"ResponseCode":0,"Data":{"Big":9007199254740993,"T":"\\u00e9 é"}}');
    node.device = () => ({ body });
    const data = Buffer.from('{"n": 1.0e5 }');
    const sentAt = Date.now();
    const end = await call(code, { method: 'PUT', url: '/LAPI/V1.0/X?a=b&c=%20', body: data });
    expect(end).toEqual({ status: 'answered', success: true, responseCode: 0, body });
    const [frame] = node.frames;
    expect(frame).toMatchObject({ code, epoch, method: 'PUT', url: '/LAPI/V1.0/X?a=b&c=%20' });
    expect(Buffer.from(frame?.body ?? []).equals(data)).toBe(true);
    // Redis and this test share a clock.
    expect(Math.abs((frame?.deadlineMs ?? 0) - sentAt - 2_000)).toBeLessThan(500);
    expect(counts.ended).toEqual(['succeeded']);
  });

  it('the owner is looked up once for many calls, and again when its time is over', async () => {
    const { edge, provision, call, counts } = await fixture({ cacheMs: 300 });
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    for (let i = 0; i < 5; i++) await call(code);
    expect(counts.located.filter((source) => source === 'registry')).toHaveLength(1);
    await waitFor(async () => (await call(code)) && counts.located.at(-1) === 'registry', {
      deadlineMs: 5_000,
      what: 'a second look-up',
    });
  });

  it.each<[ReplyFrame['outcome'], boolean]>([
    ['device_busy', false],
    ['node_draining', false],
    ['timeout_not_sent', false],
    ['timeout', true],
    ['outcome_unknown', true],
    ['request_too_large', false],
    ['broker_unavailable', false],
  ])('what the node says of a call, %s with written %s, is passed on as it is', async (outcome, written) => {
    const { edge, provision, call, counts } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    node.device = () => ({ outcome, written });
    expect(await call(code)).toMatchObject({ status: 'refused', error: outcome, written });
    expect(node.frames).toHaveLength(1);
    expect(counts.ended).toEqual([outcome]);
  });

  it('a device that nobody provisioned is unknown, one without a session is offline, and nothing is published for either', async () => {
    const { provision, call, counts } = await fixture();
    expect(await call('NOBODY' as DeviceCode)).toMatchObject({ error: 'device_unknown', written: false });
    expect(await call((await provision()).code)).toMatchObject({ error: 'device_offline', written: false });
    expect(counts.published).toBe(0);
  });

  it('a device that moved is found again: one fresh look-up, the same command id, one answer (C6)', async () => {
    const { edge, provision, call, counts } = await fixture();
    const [a, b] = [await edge('a'), await edge('b')];
    const { code, revision } = await provision();
    await a.claim(code, revision);
    await call(code);
    await b.claim(code, revision);
    a.drop(code);
    expect(await call(code)).toMatchObject({ status: 'answered' });
    expect(counts.retried).toBe(1);
    expect(b.frames).toHaveLength(1);
    expect(b.frames[0]?.id).toBe(a.frames[1]?.id);
  });

  it('an owner that refused is forgotten: the next call asks the registry before anything is published', async () => {
    const { edge, provision, call, counts, registry } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    const epoch = await node.claim(code, revision);
    await call(code);
    node.drop(code);
    await registry.release({ code, node: node.node, epoch, reason: 'closed' });
    expect(await call(code)).toMatchObject({ error: 'device_offline', written: false });
    const published = counts.published;
    expect(await call(code)).toMatchObject({ error: 'device_offline', written: false });
    expect(counts.published).toBe(published);
  });

  it('a refusal for a stale owner ends the call after one further try, never in a loop', async () => {
    const { edge, provision, call, counts } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    node.drop(code);
    expect(await call(code)).toMatchObject({ error: 'device_offline', written: false });
    expect(node.frames).toHaveLength(2);
    expect(counts.retried).toBe(1);
  });

  it('a node that does not listen gets nothing: one fresh look-up, then a retryable refusal, not written (reliability 3.3)', async () => {
    const { edge, provision, call, counts } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    await call(code);
    await node.deafen();
    expect(await call(code)).toMatchObject({ error: 'broker_unavailable', written: false });
    expect(counts.published).toBe(3);
    await node.listen();
    expect(await call(code)).toMatchObject({ status: 'answered' });
  });

  it('the devices of a node whose lease ended are offline, also while they are remembered', async () => {
    const { edge, provision, call, nodes } = await fixture();
    const node = await edge('short', 400);
    const { code, revision } = await provision();
    await node.claim(code, revision);
    expect(await call(code)).toMatchObject({ status: 'answered' });
    await waitFor(() => nodes.liveness(node.node) === 'dead', { deadlineMs: 5_000, what: 'the death of the node' });
    expect(await call(code)).toMatchObject({ error: 'device_offline', written: false });
    expect(node.frames).toHaveLength(1);
  });

  it('a node that joined after the last look at the directory is not taken for dead', async () => {
    const { edge, provision, call, nodes } = await fixture();
    nodes.stop();
    const node = await edge('new');
    const { code, revision } = await provision();
    await node.claim(code, revision);
    expect(nodes.liveness(node.node)).toBe('unknown');
    expect(await call(code)).toMatchObject({ status: 'answered' });
  });

  it('without word from the node the end is pessimistic: timeout, written; what comes later is counted and dropped', async () => {
    const { edge, provision, call, counts, dispatch } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    node.device = () => undefined;
    const startedMs = performance.now();
    expect(await call(code, { timeoutMs: 200 })).toMatchObject({ error: 'timeout', written: true });
    expect(performance.now() - startedMs).toBeGreaterThan(240);
    expect(dispatch.pendingCount).toBe(0);
    const [frame] = node.frames;
    if (frame !== undefined) node.reply(frame, {});
    await waitFor(() => counts.late === 1, { deadlineMs: 2_000, what: 'the late reply' });
  });

  it('a publish of unknown result is never repeated: the reply or the deadline decides (I7)', async () => {
    let results: PublishResult['status'][] = [];
    const wrap = (pubsub: PubSub): PubSub => ({
      subscribe: (...subscribing) => pubsub.subscribe(...subscribing),
      trustworthy: () => pubsub.trustworthy(),
      publish: async (channel, frame) => {
        await pubsub.publish(channel, frame);
        results.push('unknown');
        return { status: 'unknown', cause: undefined };
      },
    });
    const { edge, provision, call } = await fixture({ wrap });
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    expect(await call(code)).toMatchObject({ status: 'answered' });
    results = [];
    node.device = () => undefined;
    expect(await call(code, { timeoutMs: 100 })).toMatchObject({ error: 'timeout', written: true });
    expect(results).toHaveLength(1);
  });

  it('an offline device is waited for until the connect timeout, and called when it comes', async () => {
    const { edge, provision, call, counts } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    const waiting = call(code, { connectTimeoutMs: 10_000 });
    await waitFor(() => counts.located.length >= 2, { deadlineMs: 5_000, what: 'a second look at the offline device' });
    await node.claim(code, revision);
    expect(await waiting).toMatchObject({ status: 'answered' });
  });

  it('an offline device that does not come is refused when the connect timeout is over, not before', async () => {
    const { provision, call } = await fixture();
    const { code } = await provision();
    const startedMs = performance.now();
    expect(await call(code, { connectTimeoutMs: 500 })).toMatchObject({ error: 'device_offline', written: false });
    const tookMs = performance.now() - startedMs;
    expect(tookMs).toBeGreaterThanOrEqual(500);
    expect(tookMs).toBeLessThan(2_000);
  });

  it('a waiting call whose caller left is dropped and never sent', async () => {
    const { edge, provision, call } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    let gone = false;
    const waiting = call(code, { connectTimeoutMs: 10_000, withdrawn: () => gone });
    gone = true;
    const startedMs = performance.now();
    expect(await waiting).toMatchObject({ status: 'refused', written: false });
    expect(performance.now() - startedMs).toBeLessThan(5_000);
    await node.claim(code, revision);
    expect(node.frames).toHaveLength(0);
  });

  it('more calls in progress than the bound are refused, and none of those taken is lost', async () => {
    const { edge, provision, call } = await fixture({ pendingCommands: 10 });
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    const ends = await Promise.all(Array.from({ length: 25 }, () => call(code)));
    expect(ends.filter((end) => end.status === 'answered')).toHaveLength(10);
    expect(ends.filter((end) => end.status === 'refused' && end.error === 'rate_limited')).toHaveLength(15);
    expect(await call(code)).toMatchObject({ status: 'answered' });
  });

  it('each of many concurrent calls gets its own answer', async () => {
    const { edge, provision, call } = await fixture({ pendingCommands: 2_000 });
    const edges = [await edge('a'), await edge('b')];
    for (const node of edges) node.device = (frame) => ({ body: Buffer.from(`{"Echo":"${frame.url}"}`) });
    const codes = await Promise.all(
      Array.from({ length: 20 }, async (_, i) => {
        const { code, revision } = await provision();
        await edges[i % 2]?.claim(code, revision);
        return code;
      }),
    );
    const ends = await Promise.all(
      Array.from({ length: 1_000 }, (_, i) => call(codes[i % codes.length] as DeviceCode, { url: `/LAPI/V1.0/${i}` })),
    );
    const echoes = ends.map((end) => (end.status === 'answered' ? Buffer.from(end.body).toString() : end.error));
    expect(echoes).toEqual(Array.from({ length: 1_000 }, (_, i) => `{"Echo":"/LAPI/V1.0/${i}"}`));
  });

  it('a drain waits for the calls in progress; stop ends what is left, sent ones as unknown', async () => {
    const { edge, provision, call, dispatch } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    node.device = () => undefined;
    const sent = call(code, { timeoutMs: 30_000 });
    const away = call((await provision()).code, { connectTimeoutMs: 30_000 });
    await waitFor(() => node.frames.length === 1, { deadlineMs: 2_000, what: 'the call at the node' });
    let drained = false;
    const draining = dispatch.drain(200).then(() => {
      drained = true;
    });
    expect(drained).toBe(false);
    await draining;
    await dispatch.stop();
    expect(await sent).toMatchObject({ error: 'outcome_unknown', written: true });
    expect(await away).toMatchObject({ error: 'broker_unavailable', written: false });
    expect(await call(code)).toMatchObject({ error: 'broker_unavailable', written: false });
  });

  it('a drain ends as soon as the last call has', async () => {
    const { edge, provision, call, dispatch } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    node.device = () => undefined;
    const sent = call(code, { timeoutMs: 30_000 });
    await waitFor(() => node.frames.length === 1, { deadlineMs: 2_000, what: 'the call at the node' });
    const draining = dispatch.drain(30_000);
    const [frame] = node.frames;
    if (frame !== undefined) node.reply(frame, {});
    await draining;
    expect(await sent).toMatchObject({ status: 'answered' });
  });

  it('while Redis is away calls are refused at once as not written, calls under way end by their deadline, and it heals by itself', async () => {
    const { edge, provision, call, dispatch, counts } = await fixture();
    const node = await edge();
    const { code, revision } = await provision();
    await node.claim(code, revision);
    node.device = () => undefined;
    const underWay = call(code, { timeoutMs: 500 });
    await waitFor(() => node.frames.length === 1, { deadlineMs: 2_000, what: 'the call at the node' });
    await redis.kill('SIGKILL');
    expect(await underWay).toMatchObject({ error: 'timeout', written: true });
    await waitFor(() => dispatch.unready() !== undefined, { deadlineMs: 5_000, what: 'the loss of the reply channel' });
    const startedMs = performance.now();
    expect(await call(code)).toMatchObject({ error: 'broker_unavailable', written: false });
    expect(performance.now() - startedMs).toBeLessThan(100);
    await redis.restart();
    node.device = () => ({});
    await waitFor(async () => (await call(code)).status === 'answered', {
      deadlineMs: 15_000,
      what: 'an answer after the restart',
    });
    expect(counts.ended).toContain('succeeded');
  });
});
