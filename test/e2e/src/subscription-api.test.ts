/** Durable subscriptions as platforms use them: consumers on several command services share the work, over HTTP and over `WS /v1/stream`, and a
 *  service that dies, an event that nobody can take, and retention that was faster lose nothing silently (I5.1). */

import { type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, Device } from './device.ts';
import { PlatformSocket } from './platform-socket.ts';
import { type Setting, startSetting } from './setting.ts';

/** Small enough to be passed by a test. */
const RETENTION_BYTES = 1024 * 1024;
const ENV = { LAPI_SHARDS: '4', LAPI_EVENT_RETENTION_BYTES: String(RETENTION_BYTES) };
const DOOMED = 2;

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({ edges: 1, commands: 3, edgeEnv: ENV, commandEnv: ENV });
  broker = setting.broker;
});
afterAll(() => setting.stop());

interface Delivery {
  readonly ackId: string;
  readonly attempt: number;
  readonly event?: { readonly id: string; readonly code: string; readonly data: { AlarmInfo: { AlarmSeq: number } } };
  readonly gap?: { readonly shard: number; readonly from: string; readonly to: string; readonly count: number | null };
}

async function post(path: string, body: unknown, service = 0): Promise<Record<string, unknown>> {
  const answer = await broker.api(`/v1/subscriptions${path}`, { method: 'POST', body, service });
  expect(answer.status, answer.text).toBeLessThan(300);
  return answer.json();
}

async function pull(name: string, options: object = {}, service = 0): Promise<Delivery[]> {
  return (await post(`/${name}/pull`, { waitSeconds: 20, ...options }, service)).deliveries as Delivery[];
}

async function settle(
  verb: 'ack' | 'nack',
  name: string,
  deliveries: readonly Delivery[],
  service = 0,
): Promise<unknown> {
  return (await post(`/${name}/${verb}`, { ackIds: deliveries.map(({ ackId }) => ackId) }, service)).results;
}

const seqOf = ({ event }: Delivery): number => event?.data.AlarmInfo.AlarmSeq ?? 0;
const numbersUpTo = (last: number): number[] => Array.from({ length: last }, (_, i) => i + 1);

async function fleet(size: number): Promise<Device[]> {
  return await Promise.all(
    Array.from({ length: size }, () => Device.online(broker, { settings: { profile: 'quiet' } })),
  );
}

async function subscribe(name: string, devices: readonly Device[], options: object = {}): Promise<void> {
  const filter = { devices: devices.map(({ code }) => code), kinds: ['alarm.*'] };
  await post('', { name, filter, ...options });
}

async function send(devices: readonly Device[], upTo: number): Promise<void> {
  await Promise.all(
    devices.map(async (device) => {
      for (const seq of numbersUpTo(upTo)) {
        expect((await device.notify('Alarm', alarm(seq))).ResponseCode).toBe(0);
      }
    }),
  );
}

/** What was received, in that order, by all consumers of a test. */
class Received {
  readonly all: { readonly code: string; readonly seq: number; readonly attempt: number; readonly by: number }[] = [];

  take(delivery: Delivery, by: number): void {
    this.all.push({ code: delivery.event?.code ?? '', seq: seqOf(delivery), attempt: delivery.attempt, by });
  }

  /** Of one device, each at its first receipt. */
  first(code: string): number[] {
    return [...new Set(this.all.filter((each) => each.code === code).map(({ seq }) => seq))];
  }

  async until(devices: readonly Device[], upTo: number): Promise<void> {
    await waitFor(() => devices.every(({ code }) => this.first(code).length === upTo), {
      deadlineMs: 30_000,
      what: 'every event at some consumer',
    });
  }
}

describe.concurrent('consumers', () => {
  test('of two processes share the work: every event once, each device in its order', async () => {
    const devices = await fleet(6);
    await subscribe('shared', devices);
    const received = new Received();
    let over = false;
    const consumers = [0, 1, 0, 1].map(async (service) => {
      while (!over) {
        const deliveries = await pull('shared', { max: 4, waitSeconds: 1 }, service);
        for (const delivery of deliveries) received.take(delivery, service);
        if (deliveries.length === 0) continue;
        const results = await settle('ack', 'shared', deliveries, 1 - service);
        expect(results).toEqual(deliveries.map(() => 'done'));
      }
    });
    await send(devices, 20);
    await received.until(devices, 20);
    over = true;
    await Promise.all(consumers);
    for (const { code } of devices) expect(received.first(code)).toEqual(numbersUpTo(20));
    expect(received.all).toHaveLength(6 * 20);
    expect(new Set(received.all.map(({ by }) => by))).toEqual(new Set([0, 1]));
    expect((await broker.api('/v1/subscriptions/shared', { service: 1 })).json()).toMatchObject({
      inFlight: 0,
      waiting: 0,
      acknowledged: 120,
      deadLetters: 0,
    });
  });

  test('lose nothing when the process of one of them is killed in the middle, and each device keeps its order', async () => {
    const devices = await fleet(4);
    await subscribe('killed', devices, { ackDeadlineSeconds: 2 });
    const received = new Received();
    const consume = async (service: number): Promise<void> => {
      const socket = await PlatformSocket.open(broker, service);
      socket.onMessage = ({ type, text }) => {
        if (type !== 'delivery') return;
        const delivery = JSON.parse(text) as Delivery;
        received.take(delivery, service);
        socket.send({ type: 'ack', id: 'c', ackIds: [delivery.ackId] });
      };
      socket.send({ type: 'consume', id: 'c', subscription: 'killed', maxInFlight: 2 });
      await socket.until(({ type }) => type === 'consuming', 'consuming');
    };
    await Promise.all([consume(0), consume(DOOMED)]);
    const sending = send(devices, 30);
    await waitFor(() => received.all.filter(({ by }) => by === DOOMED).length >= 10, {
      deadlineMs: 20_000,
      what: 'work of the doomed',
    });
    await broker.commands[DOOMED]?.kill();
    await sending;
    await received.until(devices, 30);
    for (const { code } of devices) expect(received.first(code)).toEqual(numbersUpTo(30));
    await waitFor(async () => (await broker.api('/v1/subscriptions/killed')).json().acknowledged === 120, {
      deadlineMs: 20_000,
      what: 'every event acknowledged once',
    });
  });

  test('give a poison event back until it is a dead letter, go on with the next, and get it again when it is replayed', async () => {
    const [device] = await fleet(1);
    if (device === undefined) throw new RangeError('one device');
    await subscribe('poison', [device], { maxAttempts: 2 });
    await send([device], 2);
    for (const service of [0, 1]) {
      const some = await pull('poison', {}, service);
      expect(some.map(seqOf)).toEqual([1]);
      expect(await settle('nack', 'poison', some, service)).toEqual(['done']);
    }
    const next = await pull('poison');
    expect(next.map(seqOf)).toEqual([2]);
    await settle('ack', 'poison', next);
    const dead = (await broker.api('/v1/subscriptions/poison/dead-letters', { service: 1 })).json();
    expect(dead.items).toMatchObject([{ attempts: 2, event: { code: device.code } }]);
    expect(await post('/poison/dead-letters/replay', {}, 1)).toEqual({ count: 1 });
    const again = await pull('poison');
    expect(again).toMatchObject([{ attempt: 1, event: { data: { AlarmInfo: { AlarmSeq: 1 } } } }]);
    await settle('ack', 'poison', again);
    expect((await broker.api('/v1/subscriptions/poison')).json()).toMatchObject({ acknowledged: 2, deadLetters: 0 });
  });
});

test('a subscription that was away for longer than events are kept is told which, and gets the rest', async () => {
  const [device] = await fleet(1);
  if (device === undefined) throw new RangeError('one device');
  await subscribe('away', [device], { filter: { devices: [device.code], kinds: ['alarm.*'] }, ordered: false });
  const total = 24;
  const note = 'x'.repeat(Math.ceil((2 * RETENTION_BYTES) / total));
  for (const seq of numbersUpTo(total)) await device.notify('Alarm', alarm(seq, { Note: note }));
  const got: Delivery[] = [];
  while (!got.some((each) => seqOf(each) === total)) {
    const some = await pull('away');
    expect(await settle('ack', 'away', some)).toEqual(some.map(() => 'done'));
    got.push(...some);
  }
  const gaps = got.flatMap(({ gap }) => gap ?? []);
  const events = got.filter(({ event }) => event !== undefined);
  expect(events.map(seqOf)).toEqual(numbersUpTo(total).slice(-events.length));
  expect(events.length).toBeGreaterThan(2);
  expect(events.length).toBeLessThan(total - 2);
  // The shard may hold events of others, which the gap counts as well.
  const missed = gaps.reduce((sum, { count }) => sum + (count ?? Number.NaN), 0);
  expect(missed).toBeGreaterThanOrEqual(total - events.length);
  expect(got[0]?.gap).toBeDefined();
});
