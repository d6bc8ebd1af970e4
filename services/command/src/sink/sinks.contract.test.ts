/** The whole way of an event: stream → group on Redis → pump → message broker, with real servers, and with several processes as far as
 *  groups and pumps are concerned. */

import { randomBytes } from 'node:crypto';
import { RedisEventStream } from '@lapi-broker/bus';
import {
  missingSinkServer,
  type RedisServer,
  type SinkServer,
  type SinkServerName,
  startRedis,
  startSinkServer,
  startTcpProxy,
  type TcpProxy,
  waitFor,
} from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  openConnection,
  type RedisConnection,
  ReplicaBarrier,
  ready,
} from '@lapi-broker/redis';
import { createMetrics } from '@lapi-broker/telemetry';
import { jetstreamManager } from '@nats-io/jetstream';
import { connect as connectNats } from '@nats-io/transport-node';
import mqtt from 'mqtt';
import { customAlphabet } from 'nanoid';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { RedisGroups } from '../group/redis-groups.ts';
import { record } from '../testing/event-record.ts';
import { createSinks } from './parts.ts';
import type { SinkSettings } from './sink-settings.ts';

const DEADLINE_MS = 25_000;
const SHARDS = 4;
const DEVICES = 7;

let redis: RedisServer;
let state: RedisConnection;
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

const settings = (type: SinkSettings['type'], url: string): SinkSettings => ({
  name: type,
  type,
  url,
  address: type === 'nats' ? 'e.{code}' : 'e/{code}',
  filter: { kinds: ['alarm.*'] },
  from: 'start',
  createStream: type === 'nats' ? 'E' : undefined,
  credentialsFile: undefined,
  caFile: undefined,
  certFile: undefined,
  keyFile: undefined,
});

function rig(type: SinkSettings['type']) {
  const keyspace = createKeyspace(`s${randomBytes(4).toString('hex')}`, SHARDS);
  const stream = new RedisEventStream({ state, keyspace });
  cleanUps.push(() => stream.stop());
  let sent = 0;
  const openGroups = (): RedisGroups =>
    new RedisGroups({
      state,
      keyspace,
      barrier: new ReplicaBarrier(state, false),
      stream,
      listen: async () => undefined,
      groupsAllowed: 10,
      monotonicMs: () => performance.now(),
      randomText: customAlphabet('0123456789abcdefghijklmnopqrstuvwxyz'),
    });
  return {
    groups: openGroups(),
    get sent() {
      return sent;
    },
    async send(count: number): Promise<void> {
      for (let i = 0; i < count; i++) {
        const code = `cam-${sent % DEVICES}` as DeviceCode;
        await stream.append(record({ code, data: Buffer.from(`{"n":${sent}}`) }));
        await stream.append(record({ code, kind: 'structure' }));
        sent += 1;
      }
    },
    /** Events are out, and nobody has said that they are done. */
    async untilOut(): Promise<void> {
      await waitFor(async () => (await this.groups.progress(`sink:${type}`)).inFlight > 0, {
        deadlineMs: DEADLINE_MS,
        what: 'events out',
      });
    },
    async untilAcknowledged(): Promise<void> {
      const progress = await waitFor(
        async () => {
          const seen = await this.groups.progress(`sink:${type}`);
          return seen.acknowledged === sent ? seen : undefined;
        },
        { deadlineMs: DEADLINE_MS, what: 'all acknowledged' },
      );
      expect(progress).toMatchObject({ inFlight: 0, waiting: 0, deadLetters: 0 });
    },
    /** One more process. `die`: it does and says nothing any more, like one that was killed. */
    async process(url: string) {
      const groups = openGroups();
      let dead = false;
      const mortal = {
        create: groups.create.bind(groups),
        change: groups.change.bind(groups),
        replay: groups.replay.bind(groups),
        pull: groups.pull.bind(groups),
        settle: async (...args: Parameters<RedisGroups['settle']>) => (dead ? [] : groups.settle(...args)),
      };
      const [part] = createSinks({
        sinks: [settings(type, url)],
        groups: mortal,
        metrics: createMetrics('test'),
        log: { info: () => undefined, warn: () => undefined },
        random: Math.random,
        monotonicMs: () => performance.now(),
        limits: { pulls: 2, batch: 20, ackDeadlineMs: 2_000, pauseMs: { first: 20, most: 100 } },
      });
      await part?.start?.();
      const stop = async (): Promise<void> => {
        await part?.stop?.();
        groups.stop();
      };
      cleanUps.push(stop);
      return {
        die: async () => {
          dead = true;
          await stop();
        },
        drain: () => part?.drain?.(DEADLINE_MS),
      };
    },
  };
}

/** Everything that was sent is there, and what is there of each device is in order, repeats left aside. */
function expectAll(numbers: readonly number[], sent: number): void {
  const first = [...new Set(numbers)];
  expect(first.toSorted((a, b) => a - b)).toEqual(Array.from({ length: sent }, (_, n) => n));
  for (let device = 0; device < DEVICES; device++) {
    const own = first.filter((n) => n % DEVICES === device);
    expect(own).toEqual(own.toSorted((a, b) => a - b));
  }
}

async function server(name: SinkServerName): Promise<SinkServer> {
  const started = await startSinkServer(name);
  cleanUps.push(() => started.stop());
  return started;
}

/** Numbers in the order of the stream. Rejects while the server is away. */
async function inStream(url: string): Promise<number[]> {
  const nats = await connectNats({ servers: url, reconnect: false });
  try {
    const { streams } = await jetstreamManager(nats);
    const stream = await streams.get('E');
    const { state: has } = await stream.info();
    const numbers: number[] = [];
    for (let seq = has.first_seq; seq <= has.last_seq; seq++) {
      const message = await stream.getMessage({ seq });
      if (message !== null) numbers.push(message.json<{ data: { n: number } }>().data.n);
    }
    return numbers;
  } finally {
    await nats.close();
  }
}

const streamed = (url: string, count: number) =>
  waitFor(
    async () => {
      const numbers = await inStream(url);
      return new Set(numbers).size >= count ? numbers : undefined;
    },
    { deadlineMs: DEADLINE_MS, what: `${count} messages`, intervalMs: 100 },
  );

async function listen(url: string): Promise<number[]> {
  const client = await mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0 });
  cleanUps.push(() => client.endAsync(true));
  const numbers: number[] = [];
  client.on('message', (_topic, payload) => {
    numbers.push(JSON.parse(String(payload)).data.n);
  });
  await client.subscribeAsync('e/#', { qos: 1 });
  return numbers;
}

/** Between a sink and its broker: with the way down paused, what is published arrives and nothing is confirmed. */
async function proxyTo(broker: SinkServer): Promise<TcpProxy & { readonly url: string }> {
  const proxy = await startTcpProxy({ target: { port: broker.port } });
  cleanUps.push(() => proxy.stop());
  return Object.assign(proxy, { url: broker.url.replace(String(broker.port), String(proxy.port)) });
}

const nats = missingSinkServer('nats');
describe.skipIf(nats !== undefined)(`a sink on NATS JetStream${nats === undefined ? '' : ` (${nats})`}`, () => {
  test('two processes share the events; each arrives once, in the order of its device', async () => {
    const { url } = await server('nats');
    const it = rig('nats');
    await it.send(50);
    await it.process(url);
    await it.process(url);
    await it.send(200);
    const numbers = await streamed(url, it.sent);
    expectAll(numbers, it.sent);
    expect(numbers).toHaveLength(it.sent);
    await it.untilAcknowledged();
  });

  test('a server that is killed in a flow and comes back loses nothing, and drops the repeats', async () => {
    const broker = await server('nats');
    const proxy = await proxyTo(broker);
    const it = rig('nats');
    await it.process(proxy.url);
    await it.process(proxy.url);
    await it.send(20);
    await it.untilAcknowledged();
    proxy.pause('down');
    const flow = it.send(200);
    // The stream has more than it could confirm.
    await streamed(broker.url, 21);
    await broker.kill();
    proxy.cut();
    proxy.heal();
    await flow;
    await broker.restart();
    await it.send(20);
    const numbers = await streamed(broker.url, it.sent);
    expectAll(numbers, it.sent);
    await it.untilAcknowledged();
    expect(await inStream(broker.url)).toHaveLength(it.sent);
  });

  test('a process that is killed with events out leaves them to the other; one that drains leaves nothing open', async () => {
    const broker = await server('nats');
    const proxy = await proxyTo(broker);
    const it = rig('nats');
    const first = await it.process(proxy.url);
    await it.send(20);
    await it.untilAcknowledged();
    proxy.pause('down');
    await it.send(50);
    // The stream has more than it could confirm.
    await streamed(broker.url, 21);
    const second = await it.process(broker.url);
    await first.die();
    await it.send(50);
    expectAll(await streamed(broker.url, it.sent), it.sent);
    await it.untilAcknowledged();
    await second.drain();
    expect(await it.groups.progress('sink:nats')).toMatchObject({ inFlight: 0, lag: 0 });
    expect(await inStream(broker.url)).toHaveLength(it.sent);
  });
});

const mosquitto = missingSinkServer('mosquitto');
describe.skipIf(mosquitto !== undefined)(`a sink on MQTT${mosquitto === undefined ? '' : ` (${mosquitto})`}`, () => {
  test('two processes share the events; each arrives once, in the order of its device', async () => {
    const { url } = await server('mosquitto');
    const numbers = await listen(url);
    const it = rig('mqtt');
    await it.process(url);
    await it.process(url);
    await it.send(200);
    await waitFor(() => numbers.length >= it.sent, { deadlineMs: DEADLINE_MS, what: 'all messages' });
    expectAll(numbers, it.sent);
    expect(numbers).toHaveLength(it.sent);
  });

  test('a connection that is cut with events out loses nothing', async () => {
    const broker = await server('mosquitto');
    const proxy = await proxyTo(broker);
    const numbers = await listen(broker.url);
    const it = rig('mqtt');
    await it.process(proxy.url);
    for (let round = 0; round < 2; round++) {
      await it.send(20);
      await it.untilAcknowledged();
      // What was sent may arrive or not: in one direction or both.
      proxy.pause(round === 0 ? 'down' : 'both');
      const flow = it.send(40);
      await it.untilOut();
      proxy.cut();
      proxy.heal();
      await flow;
    }
    await it.untilAcknowledged();
    await waitFor(() => new Set(numbers).size >= it.sent, { deadlineMs: DEADLINE_MS, what: 'all messages' });
    expectAll(numbers, it.sent);
  });

  test('a broker that is not there gets everything when it comes, and nothing was given up', async () => {
    const broker = await server('mosquitto');
    const it = rig('mqtt');
    await broker.kill();
    await it.process(broker.url);
    await it.send(100);
    await broker.restart();
    const numbers = await listen(broker.url);
    await it.send(100);
    await it.untilAcknowledged();
    await waitFor(() => numbers.includes(it.sent - 1), { deadlineMs: DEADLINE_MS, what: 'the last message' });
  });
});
