/** Durable subscriptions over HTTP and `WS /v1/stream`, on a whole command process and a real Redis: what is accepted, what is refused and why,
 *  and what consumers see. */

import { randomBytes } from 'node:crypto';
import { request as httpRequest } from 'node:http';
import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import type { DeviceCode } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { createLog } from '@lapi-broker/telemetry';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type CommandService, createCommandService } from '../command.ts';
import { readCommandConfig } from '../config.ts';
import { record } from '../testing/event-record.ts';
import { openStream, type StreamClient } from '../testing/stream-client.ts';
import { BROKER_MESSAGES } from './message-schema.ts';
import { DeadLetterList, PullAnswer } from './subscription-schema.ts';

const ADMIN = `admin-${randomBytes(24).toString('base64url')}`;
const PREFIX = 'subscription-test';
const LIMIT = 30;
const keyspace = createKeyspace(PREFIX);

let redis: RedisServer;
let state: RedisConnection;
let stream: RedisEventStream;
let service: CommandService;
let reader: string;
let caller: string;

const settings = (): Record<string, string> => ({
  REDIS_URL: redis.url,
  LAPI_KEY_PREFIX: PREFIX,
  LAPI_API_HOST: '127.0.0.1',
  LAPI_API_PORT: '0',
  LAPI_PROBE_PORT: '0',
  LAPI_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'),
  LAPI_API_KEY: ADMIN,
  LAPI_SUBSCRIPTIONS: String(LIMIT),
});

async function startService(): Promise<CommandService> {
  const made = createCommandService(readCommandConfig(settings()), createLog({ service: 'command', level: 'silent' }));
  await made.lifecycle.start();
  return made;
}

beforeAll(async () => {
  redis = await startRedis();
  state = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(state, 5_000);
  stream = new RedisEventStream({ state, keyspace });
  service = await startService();
  reader = String((await ask('POST', '/v1/keys', { name: 'r', scopes: ['read'] })).body.key);
  caller = String((await ask('POST', '/v1/keys', { name: 'c', scopes: ['call'] })).body.key);
});

afterAll(async () => {
  await service.lifecycle.stop();
  await stream.stop();
  await closeConnection(state);
  await redis.stop();
});

const cleanUps: (() => Promise<unknown> | undefined)[] = [];
afterEach(async () => {
  for (const cleanUp of cleanUps.splice(0).reverse()) await cleanUp();
});

interface Answer {
  readonly status: number;
  readonly location: string | null;
  readonly text: string;
  readonly body: Record<string, unknown>;
}

async function ask(
  method: string,
  path: string,
  body?: unknown,
  key = ADMIN,
  port = service.ports().api,
): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${port}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    location: response.headers.get('location'),
    text,
    body: text === '' ? {} : JSON.parse(text),
  };
}

let made = 0;

/** A subscription of its own, which hears of its own devices only. */
async function subscription(part: Record<string, unknown> = {}): Promise<{ name: string; code: string }> {
  made += 1;
  const [name, code] = [`s${made}`, `CAM-${made}`];
  const filter = { devices: [`${code}*`] };
  const answer = await ask('POST', '/v1/subscriptions', { name, filter, from: 'start', ...part });
  expect(answer, answer.text).toMatchObject({ status: 201, location: `/v1/subscriptions/${name}` });
  cleanUps.push(() => ask('DELETE', `/v1/subscriptions/${name}`));
  return { name, code };
}

async function append(code: string, data = '{}'): Promise<void> {
  await stream.append(record({ code: code as DeviceCode, data: Buffer.from(data) }));
}

interface Delivery {
  readonly ackId: string;
  readonly attempt: number;
  readonly event: { readonly id: string; readonly code: string; readonly data: { readonly n: number } };
}

async function pull(name: string, body: object = {}, key = ADMIN): Promise<Delivery[]> {
  const answer = await ask('POST', `/v1/subscriptions/${name}/pull`, { waitSeconds: 10, ...body }, key);
  expect(answer.status, answer.text).toBe(200);
  return answer.body.deliveries as Delivery[];
}

const settle = async (name: string, verb: string, deliveries: readonly Delivery[], more = {}): Promise<unknown> =>
  (await ask('POST', `/v1/subscriptions/${name}/${verb}`, { ackIds: deliveries.map(({ ackId }) => ackId), ...more }))
    .body.results;

const numbers = (deliveries: readonly Delivery[]): number[] => deliveries.map(({ event }) => event.data.n);

async function progress(name: string): Promise<Record<string, unknown>> {
  return (await ask('GET', `/v1/subscriptions/${name}`)).body;
}

async function open(key = ADMIN, port = service.ports().api): Promise<StreamClient> {
  const client = await openStream(port, { authorization: `Bearer ${key}` });
  cleanUps.push(() => {
    client.close();
    expectDescribed(client);
    return undefined;
  });
  return client;
}

/** Each message is one of those that the AsyncAPI document describes. */
function expectDescribed(client: StreamClient): void {
  for (const message of client.messages) {
    const schema = Object.entries(BROKER_MESSAGES).find(([type]) => type === message.type)?.[1];
    expect(schema?.safeParse(message).error, JSON.stringify(message)).toBeUndefined();
    expect(schema).toBeDefined();
  }
}

const until = <T>(what: string, condition: () => T | Promise<T>): Promise<NonNullable<T>> =>
  waitFor(async () => (await condition()) || undefined, { deadlineMs: 10_000, what, intervalMs: 5 }) as Promise<
    NonNullable<T>
  >;

describe('a subscription', () => {
  test('is made once: the same request again finds it, another of the same name conflicts', async () => {
    const { name } = await subscription({ filter: { kinds: ['alarm.*'], tags: [] } });
    const same = { name, filter: { kinds: ['alarm.*'] }, from: 'now' };
    const again = await ask('POST', '/v1/subscriptions', same);
    expect(again.status).toBe(200);
    expect(again.body).toEqual({
      name,
      filter: { kinds: ['alarm.*'] },
      ackDeadlineSeconds: 30,
      maxInFlight: 1_000,
      maxAttempts: 5,
      ordered: true,
      createdAt: expect.stringMatching(/Z$/),
    });
    for (const other of [{ ordered: false }, { maxAttempts: 4 }, { filter: {} }]) {
      expect(await ask('POST', '/v1/subscriptions', { ...same, ...other })).toMatchObject({
        status: 409,
        body: { code: 'conflict' },
      });
    }
    const listed = (await ask('GET', '/v1/subscriptions')).body.items as { name: string }[];
    expect(listed.filter((each) => each.name === name)).toEqual([again.body]);
  });

  test('is changed in place, and gone when it was deleted', async () => {
    const { name, code } = await subscription();
    await append(code, '{"n":1}');
    expect(await ask('PATCH', `/v1/subscriptions/${name}`, { ackDeadlineSeconds: 60, maxAttempts: 9 })).toMatchObject({
      status: 200,
      body: { ackDeadlineSeconds: 60, maxAttempts: 9, maxInFlight: 1_000, filter: { devices: [`${code}*`] } },
    });
    expect(numbers(await pull(name))).toEqual([1]);
    expect((await ask('PATCH', `/v1/subscriptions/${name}`, { ordered: false })).status).toBe(400);
    expect((await ask('DELETE', `/v1/subscriptions/${name}`)).status).toBe(204);
    expect((await ask('DELETE', `/v1/subscriptions/${name}`)).status).toBe(404);
    const verbs: [string, string, object?][] = [
      ['GET', ''],
      ['PATCH', '', {}],
      ['POST', '/pull', {}],
      ['POST', '/ack', { ackIds: ['x'] }],
      ['POST', '/nack', { ackIds: ['x'] }],
      ['POST', '/extend', { ackIds: ['x'], seconds: 10 }],
      ['GET', '/dead-letters'],
      ['POST', '/dead-letters/replay'],
      ['POST', '/dead-letters/discard'],
    ];
    for (const [method, path, body] of verbs) {
      const answer = await ask(method, `/v1/subscriptions/${name}${path}`, body);
      expect(answer, `${method} ${path}`).toMatchObject({ status: 404, body: { code: 'not_found' } });
    }
  });

  test.each<[string, object]>([
    ['body.name', { name: 'webhook:1' }],
    ['body.name', { name: '' }],
    ['body.name', { name: 'x'.repeat(65) }],
    ['body.from', { name: 'x', from: 'yesterday' }],
    ['body.filter', { name: 'x', filter: { devices: ['a b'] } }],
    ['body.filter', { name: 'x', filter: { colour: ['red'] } }],
    ['body.ackDeadlineSeconds', { name: 'x', ackDeadlineSeconds: 0.5 }],
    ['body.ackDeadlineSeconds', { name: 'x', ackDeadlineSeconds: 601 }],
    ['body.maxInFlight', { name: 'x', maxInFlight: 10_001 }],
    ['body.maxAttempts', { name: 'x', maxAttempts: 101 }],
    ['body', { name: 'x', owner: 'sink' }],
  ])('is refused with what is wrong in it (%s)', async (path, body) => {
    const answer = await ask('POST', '/v1/subscriptions', body);
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
    expect((answer.body.errors as { path: string }[])[0]?.path).toBe(path);
  });

  test('is one of a bounded number', async () => {
    const before = ((await ask('GET', '/v1/subscriptions')).body.items as unknown[]).length;
    const names = Array.from({ length: LIMIT - before + 1 }, (_, i) => `many-${i}`);
    const statuses: number[] = [];
    for (const name of names) statuses.push((await ask('POST', '/v1/subscriptions', { name })).status);
    expect(statuses).toEqual([...Array.from({ length: LIMIT - before }, () => 201), 429]);
    for (const name of names.slice(0, -1)) {
      expect((await ask('DELETE', `/v1/subscriptions/${name}`)).status).toBe(204);
    }
  });

  test('is read and consumed with `read`, made and changed with `call`', async () => {
    const { name } = await subscription();
    const statuses = async (key: string): Promise<number[]> => [
      (await ask('POST', '/v1/subscriptions', { name: 'other' }, key)).status,
      (await ask('PATCH', `/v1/subscriptions/${name}`, {}, key)).status,
      (await ask('POST', `/v1/subscriptions/${name}/dead-letters/replay`, {}, key)).status,
      (await ask('GET', `/v1/subscriptions/${name}`, undefined, key)).status,
      (await ask('POST', `/v1/subscriptions/${name}/pull`, {}, key)).status,
      (await ask('POST', `/v1/subscriptions/${name}/ack`, { ackIds: ['x'] }, key)).status,
      (await ask('GET', `/v1/subscriptions/${name}/dead-letters`, undefined, key)).status,
    ];
    expect(await statuses(reader)).toEqual([403, 403, 403, 200, 200, 200, 200]);
    expect(await statuses(caller)).toEqual([201, 200, 200, 200, 403, 403, 403]);
    await ask('DELETE', '/v1/subscriptions/other');
  });
});

describe('pulling', () => {
  test('hands out the stored bytes of an event, and what is acknowledged does not come again', async () => {
    const { name, code } = await subscription();
    const data = '{"n":1,"big":9007199254740993,"price":1.50}';
    await append(code, data);
    const answer = await ask('POST', `/v1/subscriptions/${name}/pull`, { waitSeconds: 10 }, reader);
    expect(answer.text).toContain(`"data":${data}}}]}`);
    expect(PullAnswer.parse(answer.body)).toEqual(answer.body);
    const [delivery] = answer.body.deliveries as Delivery[];
    expect(delivery).toMatchObject({ attempt: 1, event: { code } });
    expect(await progress(name)).toMatchObject({ inFlight: 1, waiting: 0, acknowledged: 0, lag: 0 });
    expect(await settle(name, 'ack', [delivery as Delivery])).toEqual(['done']);
    expect(await settle(name, 'ack', [delivery as Delivery])).toEqual(['stale']);
    expect(await progress(name)).toMatchObject({ inFlight: 0, acknowledged: 1 });
    expect(await pull(name, { waitSeconds: 0 })).toEqual([]);
    const asked = await ask('POST', `/v1/subscriptions/${name}/ack`, { ackIds: ['no id of ours'] });
    expect(asked.body.results).toEqual(['invalid']);
  });

  test('without a body takes what is there', async () => {
    const { name, code } = await subscription({ ordered: false });
    for (const n of [1, 2, 3]) await append(code, `{"n":${n}}`);
    const answer = await ask('POST', `/v1/subscriptions/${name}/pull`);
    expect(numbers(answer.body.deliveries as Delivery[])).toEqual([1, 2, 3]);
  });

  test('waits for the first event and then answers at once', async () => {
    const { name, code } = await subscription();
    const waiting = pull(name, { waitSeconds: 30 });
    await append(code, '{"n":7}');
    expect(numbers(await waiting)).toEqual([7]);
  });

  test('of a client that left leaves nothing taken', async () => {
    const { name, code } = await subscription({ ackDeadlineSeconds: 600 });
    const asked = httpRequest({
      port: service.ports().api,
      host: '127.0.0.1',
      method: 'POST',
      path: `/v1/subscriptions/${name}/pull`,
      headers: { authorization: `Bearer ${ADMIN}`, connection: 'close' },
    });
    asked.on('error', () => undefined);
    asked.end('{"waitSeconds":30}');
    await new Promise((resolve) => asked.once('finish', resolve));
    // The other side has it once an event that comes now would be its own.
    await pull(name, { waitSeconds: 0 });
    asked.destroy();
    await append(code, '{"n":1}');
    expect(numbers(await pull(name, { waitSeconds: 30 }))).toEqual([1]);
  });

  test.each<[string, string, object]>([
    ['pull', 'body.max', { max: 1_001 }],
    ['pull', 'body.waitSeconds', { waitSeconds: 31 }],
    ['ack', 'body.ackIds', { ackIds: [] }],
    ['ack', 'body.ackIds', { ackIds: Array.from({ length: 1_001 }, () => 'x') }],
    ['ack', 'body.ackIds.0', { ackIds: ['x'.repeat(201)] }],
    ['nack', 'body.delaySeconds', { ackIds: ['x'], delaySeconds: 86_401 }],
    ['extend', 'body.seconds', { ackIds: ['x'] }],
    ['extend', 'body.seconds', { ackIds: ['x'], seconds: 601 }],
    ['dead-letters/replay', 'body.ids.0', { ids: ['x'] }],
  ])('%s refuses what is out of bounds (%s)', async (verb, path, body) => {
    const answer = await ask('POST', `/v1/subscriptions/any/${verb}`, body);
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
    expect((answer.body.errors as { path: string }[])[0]?.path).toBe(path);
  });

  test('gives an event again that was given back, its next event only then, and more time to who asks for it', async () => {
    const { name, code } = await subscription({ ackDeadlineSeconds: 1 });
    for (const n of [1, 2]) await append(code, `{"n":${n}}`);
    const first = await pull(name);
    expect(numbers(first)).toEqual([1]);
    expect(await settle(name, 'nack', first)).toEqual(['done']);
    const second = await pull(name);
    expect(second).toMatchObject([{ attempt: 2, event: { data: { n: 1 } } }]);
    // Not settled: comes again by its deadline, and then the first of the two has no say.
    const third = await pull(name);
    expect(third).toMatchObject([{ attempt: 3, event: { data: { n: 1 } } }]);
    expect(await settle(name, 'extend', second, { seconds: 60 })).toEqual(['stale']);
    expect(await settle(name, 'extend', third, { seconds: 60 })).toEqual(['done']);
    expect(await pull(name, { waitSeconds: 1 })).toEqual([]);
    expect(await settle(name, 'ack', third)).toEqual(['done']);
    expect(numbers(await pull(name))).toEqual([2]);
  });

  test('a poison event becomes a dead letter, is listed with its bytes, and comes again as new when it is replayed', async () => {
    const { name, code } = await subscription({ maxAttempts: 2 });
    const data = '{"n":1,"big":9007199254740993}';
    await append(code, data);
    for (const attempt of [1, 2]) {
      const some = await pull(name);
      expect(some).toMatchObject([{ attempt }]);
      await settle(name, 'nack', some);
    }
    expect(await pull(name, { waitSeconds: 0 })).toEqual([]);
    const listed = await ask('GET', `/v1/subscriptions/${name}/dead-letters?limit=1`);
    expect(listed.text).toContain(`"data":${data}}}]`);
    expect(DeadLetterList.parse(listed.body)).toEqual(listed.body);
    const [letter] = listed.body.items as { id: string; event: { id: string } }[];
    expect(letter).toMatchObject({ attempts: 2, diedAt: expect.stringMatching(/Z$/), event: { code } });
    expect(letter?.id).toBe(letter?.event.id);
    expect(listed.body.after).toBe(letter?.id);
    const rest = await ask('GET', `/v1/subscriptions/${name}/dead-letters?after=${letter?.id}`);
    expect(rest.body).toEqual({ items: [] });
    expect((await ask('POST', `/v1/subscriptions/${name}/dead-letters/replay`, { ids: [letter?.id] })).body).toEqual({
      count: 1,
    });
    const again = await pull(name);
    expect(again).toMatchObject([{ attempt: 1, event: { data: { n: 1 } } }]);
    for (const some of [again, await settle(name, 'nack', again).then(() => pull(name))])
      await settle(name, 'nack', some);
    await until('dead again', async () => (await progress(name)).deadLetters === 1);
    expect((await ask('POST', `/v1/subscriptions/${name}/dead-letters/discard`)).body).toEqual({ count: 1 });
    expect(await progress(name)).toMatchObject({ deadLetters: 0, inFlight: 0, waiting: 0 });
  });
});

describe('a consumer on the stream', () => {
  const delivered = (client: StreamClient, consumer = 'c'): Delivery[] =>
    client.texts
      .map((text) => JSON.parse(text))
      .filter((message) => message.type === 'delivery' && message.consumer === consumer);

  test('gets the stored bytes, holds no more than it asked for, and settles', async () => {
    const { name, code } = await subscription({ ordered: false });
    const client = await open(reader);
    client.send({ type: 'consume', id: 'c', subscription: name, maxInFlight: 2 });
    await until('consuming', () => client.named('consuming').length === 1);
    expect(client.named('consuming')).toEqual([{ type: 'consuming', id: 'c', maxInFlight: 2 }]);
    for (const n of [1, 2, 3]) await append(code, `{"n":${n},"big":9007199254740993}`);
    await until('two', () => delivered(client).length === 2);
    expect(client.texts.at(-1)).toContain(',"big":9007199254740993}}}');
    expect(await progress(name)).toMatchObject({ inFlight: 2 });
    const [first, second] = delivered(client);
    client.send({ type: 'ack', id: 'c', ackIds: [first?.ackId] });
    client.send({ type: 'nack', id: 'c', ackIds: [second?.ackId, 'other'], delaySeconds: 600 });
    await until('the third', () => delivered(client).length === 3);
    client.send({ type: 'extend', id: 'c', ackIds: [delivered(client)[2]?.ackId], seconds: 60 });
    await until('three answers', () => client.named('settled').length === 3);
    expect(client.named('settled')).toEqual([
      { type: 'settled', id: 'c', results: ['done'] },
      { type: 'settled', id: 'c', results: ['done', 'invalid'] },
      { type: 'settled', id: 'c', results: ['done'] },
    ]);
    expect(await progress(name)).toMatchObject({ inFlight: 1, acknowledged: 1, waiting: 1 });
  });

  test('that unsubscribes gives back what it has not settled, without an attempt being counted', async () => {
    const { name, code } = await subscription();
    await append(code, '{"n":1}');
    const client = await open();
    client.send({ type: 'consume', id: 'c', subscription: name });
    await until('it', () => delivered(client).length === 1);
    client.send({ type: 'unsubscribe', id: 'c' });
    await until('the end', () => client.named('unsubscribed').length === 1);
    expect(client.named('unsubscribed')).toEqual([{ type: 'unsubscribed', id: 'c' }]);
    expect(await pull(name, { waitSeconds: 0 })).toMatchObject([{ attempt: 1, event: { data: { n: 1 } } }]);
    client.send({ type: 'ack', id: 'c', ackIds: [delivered(client)[0]?.ackId] });
    await until('a refusal', () => client.named('error').length === 1);
    expect(client.named('error')).toMatchObject([{ id: 'c', problem: { code: 'not_found' } }]);
  });

  test('whose socket is gone leaves what was written to the ack deadline', async () => {
    const { name, code } = await subscription({ ackDeadlineSeconds: 1 });
    await append(code, '{"n":1}');
    const client = await open();
    client.send({ type: 'consume', id: 'c', subscription: name });
    await until('it', () => delivered(client).length === 1);
    client.close();
    expect(await pull(name, { waitSeconds: 10 })).toMatchObject([{ attempt: 2, event: { data: { n: 1 } } }]);
  });

  test('is refused for a name that no subscription has and an id that is taken, and is told when its subscription is deleted', async () => {
    const { name } = await subscription();
    const client = await open();
    client.send({ type: 'consume', id: 'x', subscription: 'nobody' });
    client.send({ type: 'consume', id: 'c', subscription: name });
    await until('consuming', () => client.named('consuming').length === 1);
    client.send({ type: 'subscribe', id: 'c' });
    client.send({ type: 'consume', id: 'c', subscription: name });
    client.send({ type: 'ack', id: 'x', ackIds: ['y'] });
    await until('four refusals', () => client.named('error').length === 4);
    expect(client.named('error').map(({ id, problem }) => [id, problem?.code])).toEqual([
      ['x', 'not_found'],
      ['c', 'conflict'],
      ['c', 'conflict'],
      ['x', 'not_found'],
    ]);
    await ask('DELETE', `/v1/subscriptions/${name}`);
    await until('the end', () => client.named('unsubscribed').length === 1);
    expect(client.named('unsubscribed')).toMatchObject([{ id: 'c', problem: { code: 'not_found' } }]);
    expect(client.closed).toBeUndefined();
  });

  test('and a pull that wait when their process leaves are told, and what they held is there for others at once', async () => {
    const { name, code } = await subscription({ ackDeadlineSeconds: 600 });
    const other = await subscription();
    const second = await startService();
    const port = second.ports().api;
    await append(code, '{"n":1}');
    const client = await open(ADMIN, port);
    client.send({ type: 'consume', id: 'c', subscription: name });
    await until('it', () => delivered(client).length === 1);
    const waiting = ask('POST', `/v1/subscriptions/${other.name}/pull`, { waitSeconds: 30 }, ADMIN, port);
    const draining = second.lifecycle.drain(20_000);
    await until('the goodbye', () => client.closed !== undefined);
    expect(client.messages.at(-1)).toMatchObject({ type: 'closing', reason: 'draining', cursors: {} });
    expect(client.closed).toEqual({ code: 1001, reason: 'draining' });
    expect(await pull(name, { waitSeconds: 10 })).toMatchObject([{ attempt: 1, event: { data: { n: 1 } } }]);
    expect(await waiting).toMatchObject({ status: 200, body: { deliveries: [] } });
    await draining;
    await second.lifecycle.stop();
  });
});
