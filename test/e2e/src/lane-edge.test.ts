/** Queued commands on their way over the edges: who sends them, in which order, how often, and what is said about it (I4, I6–I8). */

import {
  type ApiAnswer,
  type Broker,
  startRedisSentinel,
  startTcpProxy,
  type TcpProxy,
  waitFor,
} from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { answerTo, Device, type ReceivedCall } from './device.ts';
import { type Setting, startSetting, staysTrue } from './setting.ts';

let setting: Setting;
let broker: Broker;
/** Takes three unanswered commands of a lane. */
const WIDE = 2;
/** Reaches the store through a relay. */
const FAR = 3;
let relay: TcpProxy;

beforeAll(async () => {
  setting = await startSetting();
  broker = setting.broker;
  await broker.addEdge({ LAPI_LANE_WINDOW: '3' });
  relay = await startTcpProxy({ target: { port: Number(new URL(broker.redisUrl).port) } });
  await broker.addEdge({ REDIS_URL: `redis://127.0.0.1:${relay.port}/0` });
});
afterAll(async () => {
  await setting.stop();
  await relay.stop();
});

const ENDED = ['succeeded', 'failed', 'timed_out', 'unknown', 'expired', 'cancelled'];
const QUIET = { settings: { profile: 'quiet' } };

type View = Record<string, unknown>;

function viewOf(answer: ApiAnswer, status: number): View {
  expect(answer.status, answer.text).toBe(status);
  return answer.json();
}

async function queue(
  device: Device,
  url: string,
  more: Readonly<Record<string, unknown>> = {},
  at: Broker = broker,
): Promise<string> {
  const body = { mode: 'queue', method: 'PUT', url, ...more };
  const answer = await at.api(`/v1/devices/${device.code}/commands`, { method: 'POST', body });
  return String(viewOf(answer, 202).id);
}

/** One after the other: the order in which they are accepted. */
async function queueAll(device: Device, urls: readonly string[]): Promise<string[]> {
  const ids: string[] = [];
  for (const url of urls) ids.push(await queue(device, url));
  return ids;
}

async function read(id: string): Promise<View> {
  return viewOf(await broker.api(`/v1/commands/${id}`), 200);
}

async function until(id: string, isReached: (view: View) => boolean, deadlineMs = 15_000): Promise<View> {
  let last: View = {};
  return await waitFor(
    async () => {
      last = await read(id);
      return isReached(last) ? last : undefined;
    },
    { deadlineMs, what: `command ${id}` },
  ).catch((error: unknown) => {
    throw new Error(`${JSON.stringify(last)}`, { cause: error });
  });
}

const ended = (id: string, deadlineMs?: number): Promise<View> =>
  until(id, ({ state }) => ENDED.includes(String(state)), deadlineMs);

const numbered = (i: number): string => `/LAPI/V1.0/Channels/${i}/PTZ/PTZCtrl`;
const numbers = (count: number): number[] => Array.from({ length: count }, (_, i) => i + 1);
const urlsOf = (device: Device): string[] => device.calls.map(({ url }) => url);

describe.concurrent('lanes', () => {
  test('commands for an offline device reach it in order once it registers, at whichever node (I6)', async () => {
    const device = await Device.provisioned(broker, QUIET);
    const urls = numbers(5).map(numbered);
    const ids = await queueAll(device, urls);
    await device.register(1);
    device.answering((call) => ({ Data: { url: call.url } }));
    for (const [i, id] of ids.entries()) {
      const response = { ResponseCode: 0, Data: { url: urls[i] } };
      expect(await ended(id)).toMatchObject({ state: 'succeeded', executed: 'yes', attempts: 1, response });
    }
    expect(urlsOf(device)).toEqual(urls);
  });

  test('no command goes out before the first request may (C2)', async () => {
    const device = await Device.provisioned(broker, QUIET);
    await queue(device, numbered(1));
    await device.register();
    device.answering();
    const { receivedMs } = await device.untilCalled(numbered(1));
    expect(receivedMs - device.registeredMs).toBeGreaterThan(950);
  });

  test('one command of a lane is out at a time; an urgent one does not wait for it; a failure stops nobody', async () => {
    const device = await Device.online(broker, QUIET);
    device.answering(() => undefined);
    const [first, second] = await queueAll(device, [numbered(1), numbered(2)]);
    const one = await device.untilCalled(numbered(1));
    const urgent = await queue(device, numbered(9), { lane: 'urgent' });
    const nine = await device.untilCalled(numbered(9));
    await staysTrue(() => device.calls.length === 2, 300, 'the second waits for the first');
    device.wire.json(answerTo(one, { ResponseCode: 1, ResponseString: 'Common Error' }));
    const two = await device.untilCalled(numbered(2));
    for (const call of [nine, two]) device.wire.json(answerTo(call, { Data: {} }));
    expect(await ended(first as string)).toMatchObject({ state: 'failed', executed: 'yes', responseCode: 1 });
    for (const id of [second as string, urgent]) expect(await ended(id)).toMatchObject({ state: 'succeeded' });
  });

  test('LAPI_LANE_WINDOW commands of a lane may be unanswered, in order', async () => {
    const device = await Device.online(broker, { ...QUIET, edge: WIDE });
    device.answering(() => undefined);
    const ids = await queueAll(device, numbers(5).map(numbered));
    await device.untilCalled(numbered(3));
    await staysTrue(() => device.calls.length === 3, 300, 'three are out');
    device.wire.json(answerTo(device.calls[1] as ReceivedCall, { Data: {} }));
    await device.untilCalled(numbered(4));
    expect(urlsOf(device)).toEqual(numbers(4).map(numbered));
    device.answering();
    for (const call of device.calls.slice(0, 4)) device.wire.json(answerTo(call, { Data: {} }));
    for (const id of ids) expect(await ended(id)).toMatchObject({ state: 'succeeded' });
  });

  test('a device that moves while a command is out: that one is unknown and never sent again, the others follow in order (I6, I7)', async () => {
    const device = await Device.online(broker, QUIET);
    device.answering((call) => (call.url === numbered(2) ? undefined : { Data: {} }));
    const ids = await queueAll(device, numbers(5).map(numbered));
    await device.untilCalled(numbered(2));
    // The old socket stays open: only the claim ends it.
    await device.register(1);
    device.answering();
    expect(await ended(ids[1] as string)).toMatchObject({
      state: 'unknown',
      executed: 'maybe',
      reason: 'session_lost',
    });
    for (const id of [0, 2, 3, 4].map((i) => ids[i] as string))
      expect(await ended(id)).toMatchObject({ state: 'succeeded' });
    expect(urlsOf(device)).toEqual(numbers(5).map(numbered));
  });

  test('a repeatable command that was out when its device left goes out again, before what came after it (I6)', async () => {
    const device = await Device.online(broker, QUIET);
    device.answering(() => undefined);
    const safe = await queue(device, numbered(1), { retrySafe: true, backoffMs: 100 });
    const next = await queue(device, numbered(2));
    await device.untilCalled(numbered(1));
    device.wire.destroy();
    await device.register(1);
    device.answering();
    expect(await ended(safe)).toMatchObject({ state: 'succeeded', attempts: 2 });
    expect(await ended(next)).toMatchObject({ state: 'succeeded', attempts: 1 });
    expect(urlsOf(device)).toEqual([numbered(1), numbered(1), numbered(2)]);
  });

  test('a mute device costs its lane one timeout; the answer that comes after it makes the outcome true, as late (E10)', async () => {
    const device = await Device.online(broker, QUIET);
    device.answering((call) => (call.url === numbered(1) ? undefined : { Data: {} }));
    const mute = await queue(device, numbered(1), { timeoutMs: 1_000 });
    const next = await queue(device, numbered(2));
    expect(await ended(next)).toMatchObject({ state: 'succeeded' });
    expect(await ended(mute)).toMatchObject({ state: 'timed_out', executed: 'maybe' });
    const [one, two] = device.calls as [ReceivedCall, ReceivedCall];
    expect(two.receivedMs - one.receivedMs).toBeLessThan(1_500);
    device.wire.json(answerTo(one, { Data: { late: 1 } }));
    expect(await until(mute, ({ state }) => state === 'succeeded')).toMatchObject({
      executed: 'yes',
      late: true,
      response: { Data: { late: 1 } },
    });
  });

  test('an edge that drains finishes what is out, begins nothing more, and leaves nothing unknown (I8)', async () => {
    const leaving = await broker.addEdge({ LAPI_DRAIN_SECONDS: '5' });
    const at = broker.edges.indexOf(leaving);
    const devices = await Promise.all(numbers(12).map(() => Device.online(broker, { ...QUIET, edge: at })));
    const urls = numbers(8).map(numbered);
    const slow = (device: Device): void => {
      const { wire } = device;
      device.answering((call) => {
        setTimeout(() => wire.closed || wire.json(answerTo(call, { Data: {} })), 150);
        return undefined;
      });
    };
    for (const device of devices) slow(device);
    const ids = (await Promise.all(devices.map((device) => queueAll(device, urls)))).flat();
    await Promise.all(devices.map((device) => device.untilCalled(numbered(2))));
    const stopped = leaving.stop();
    await Promise.all(
      devices.map(async (device) => {
        await device.wire.untilClosed(15_000);
        await device.register(1);
        slow(device);
      }),
    );
    await stopped;
    for (const id of ids) expect(await ended(id)).toMatchObject({ state: 'succeeded', executed: 'yes', attempts: 1 });
    for (const device of devices) expect(urlsOf(device)).toEqual(urls);
  });

  test('what devices answer while the store is away from their edge is told once it is back, and the lane goes on', async () => {
    const device = await Device.online(broker, { ...QUIET, edge: FAR });
    device.answering((call) => (call.url === numbered(1) ? undefined : { Data: {} }));
    const first = await queue(device, numbered(1));
    const one = await device.untilCalled(numbered(1));
    relay.refuse();
    relay.cut();
    const second = await queue(device, numbered(2));
    device.wire.json(answerTo(one, { Data: { while: 'away' } }));
    const edge = broker.edges[FAR] as Broker['edges'][number];
    await waitFor(async () => (await broker.metric(edge, 'lapi_lane_unheard_ends')) === 1, {
      deadlineMs: 5_000,
      what: 'an end that waits for the store',
    });
    relay.heal();
    const response = { Data: { while: 'away' } };
    expect(await ended(first)).toMatchObject({ state: 'succeeded', executed: 'yes', response });
    expect(await ended(second)).toMatchObject({ state: 'succeeded', attempts: 1 });
    expect(urlsOf(device)).toEqual([numbered(1), numbered(2)]);
  });
});

test('where Redis has replicas, a command is written once one of them knows that it is (I7)', async () => {
  const redis = await startRedisSentinel();
  const replicated = await startSetting({
    redis: { url: redis.url },
    edges: 1,
    commandEnv: { LAPI_CONFIRM_COMMANDS: 'off' },
  });
  try {
    const at = replicated.broker;
    const device = await Device.online(at, QUIET);
    device.answering();
    await queue(device, numbered(1), {}, at);
    await device.untilCalled(numbered(1));
    const replicas = redis.replicas.map((replica) => replica.pid() as number);
    for (const pid of replicas) process.kill(pid, 'SIGSTOP');
    await queue(device, numbered(2), {}, at);
    const edge = at.edges[0] as Broker['edges'][number];
    const back = (): Promise<number> => at.metric(edge, 'lapi_lane_give_backs_total', { reason: 'unconfirmed' });
    await waitFor(async () => (await back()) >= 1, { deadlineMs: 5_000, what: 'a command that is given back' });
    expect(device.calls).toHaveLength(1);
    for (const pid of replicas) process.kill(pid, 'SIGCONT');
    await device.untilCalled(numbered(2));
    expect(urlsOf(device)).toEqual([numbered(1), numbered(2)]);
  } finally {
    await replicated.stop();
    await redis.stop();
  }
});
