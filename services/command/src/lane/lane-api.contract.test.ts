import { createHash, randomBytes } from 'node:crypto';
import { RedisPubSub } from '@lapi-broker/bus';
import { type RedisServer, startRedis, startRedisSentinel, waitFor } from '@lapi-broker/fixture';
import { RedisLaneStore } from '@lapi-broker/lane';
import type { DeviceCode } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  openConnection,
  type RedisConnection,
  ready,
  StoreMemory,
} from '@lapi-broker/redis';
import { RedisNodeDirectory, RedisOwnerRegistry } from '@lapi-broker/routing';
import { createLog } from '@lapi-broker/telemetry';
import { nanoid } from 'nanoid';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type CommandService, createCommandService } from '../command.ts';
import { readCommandConfig } from '../config.ts';
import { FakeEdge } from '../testing/fake-edge.ts';

const ADMIN = `admin-${randomBytes(24).toString('base64url')}`;
const PREFIX = 'lane-api';
const keyspace = createKeyspace(PREFIX);
const log = createLog({ service: 'command', level: 'silent' });
const URL_PATH = '/LAPI/V1.0/System/DeviceInfo';
const READ = { mode: 'queue', method: 'GET', url: URL_PATH };
const WRITE = { mode: 'queue', method: 'PUT', url: URL_PATH };

let redis: RedisServer;
let service: CommandService;
/** Another process of the same installation. */
let other: CommandService;
let connection: RedisConnection;
let line: RedisLaneStore;
let edgeBus: RedisPubSub;
let edge: FakeEdge;

const config = (over: Record<string, string> = {}) =>
  readCommandConfig({
    REDIS_URL: redis.url,
    LAPI_KEY_PREFIX: PREFIX,
    LAPI_API_HOST: '127.0.0.1',
    LAPI_API_PORT: '0',
    LAPI_PROBE_PORT: '0',
    LAPI_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'),
    LAPI_API_KEY: ADMIN,
    LAPI_LANE_COMMANDS: '5',
    LAPI_LANE_BYTES: '600000',
    ...over,
  });

beforeAll(async () => {
  redis = await startRedis();
  service = createCommandService(config(), log);
  await service.lifecycle.start();
  other = createCommandService(config(), log);
  await other.lifecycle.start();
  connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
  line = new RedisLaneStore(connection, keyspace, { keepMs: 86_400_000 });
  edgeBus = new RedisPubSub({ state: connection });
  edge = await new FakeEdge('edge-1', {
    pubsub: edgeBus,
    keyspace,
    registry: new RedisOwnerRegistry(connection, keyspace),
    directory: new RedisNodeDirectory(connection, keyspace),
    line,
  }).start();
});

afterAll(async () => {
  await service.lifecycle.stop();
  await other.lifecycle.stop();
  await edge.deafen();
  await edgeBus.stop();
  await closeConnection(connection);
  await redis.stop();
});

afterEach(() => {
  edge.device = () => ({});
  edge.frames.length = 0;
  edge.begun.length = 0;
});

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly body: Record<string, unknown>;
}

async function ask(
  method: string,
  path: string,
  body?: unknown,
  headers: Record<string, string> = {},
  at: CommandService = service,
): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${at.ports().api}${path}`, {
    method,
    headers: { authorization: `Bearer ${ADMIN}`, ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, body: text === '' ? {} : JSON.parse(text) };
}

const post = (code: string, body: unknown, headers: Record<string, string> = {}, at = service): Promise<Answer> =>
  ask('POST', `/v1/devices/${code}/commands`, body, headers, at);
const read = (id: unknown): Promise<Answer> => ask('GET', `/v1/commands/${String(id)}`);

const revisions = new Map<DeviceCode, number>();

/** Provisioned, and offline. */
async function device(): Promise<DeviceCode> {
  const code = `CAM-${nanoid(10).replace(/_/g, '-')}` as DeviceCode;
  const { body } = await ask('PUT', `/v1/devices/${code}`, { secret: 'k9!Zr7_pQ2wX4vLm' });
  revisions.set(code, Number(body.revision));
  return code;
}

/** It registers, and its node looks at its lanes. */
async function online(code: DeviceCode): Promise<void> {
  await edge.claim(code, revisions.get(code) ?? 0);
  await edge.serveLanes(code);
}

async function onlineDevice(): Promise<DeviceCode> {
  const code = await device();
  await online(code);
  return code;
}

async function untilState(id: unknown, state: string, deadlineMs = 5_000): Promise<Record<string, unknown>> {
  let body: Record<string, unknown> = {};
  await waitFor(
    async () => {
      ({ body } = await read(id));
      return body.state === state;
    },
    { deadlineMs, what: `command ${String(id)} to be ${state}` },
  );
  return body;
}

describe('mode queue', () => {
  it('waits while the device is offline, and is delivered when it comes; 202 says where to read it', async () => {
    const code = await device();
    const accepted = await post(code, { ...WRITE, data: { Big: 1 } });
    expect(accepted.status).toBe(202);
    const { id } = accepted.body;
    expect(accepted.headers.get('location')).toBe(`/v1/commands/${String(id)}`);
    expect(accepted.body).toMatchObject({ code, mode: 'queue', lane: 'normal', method: 'PUT', url: URL_PATH });
    expect(accepted.body).toMatchObject({ state: 'queued', attempts: 0, maxAttempts: 1, responseBytes: 0 });
    const waiting = (await read(id)).body;
    expect(waiting).toEqual({ ...accepted.body, acceptedAt: waiting.acceptedAt });
    await online(code);
    expect(await untilState(id, 'succeeded')).toMatchObject({ executed: 'yes', attempts: 1, responseCode: 0 });
    expect(edge.begun.map(({ body }) => String(body))).toEqual(['{"Big":1}']);
  });

  it("with waitMs it answers with the end, and the device's own bytes inside (E18)", async () => {
    const code = await onlineDevice();
    const text = '{"ResponseCode":0, "Data":{"Big":9007199254740993}}';
    edge.device = () => ({ body: Buffer.from(text) });
    const startedMs = performance.now();
    const answer = await post(code, { ...READ, waitMs: 10_000 });
    expect(answer.status).toBe(200);
    expect(answer.text).toContain(`"response":${text}`);
    expect(answer.body).toMatchObject({ state: 'succeeded', executed: 'yes', responseBytes: text.length });
    // Long before the time that it may wait.
    expect(performance.now() - startedMs).toBeLessThan(8_000);
    expect((await read(answer.body.id)).text).toBe(answer.text);
  });

  it('with waitMs that was too short it answers 202, and an error of the device is an end like others', async () => {
    const code = await device();
    const waiting = await post(code, { ...READ, waitMs: 100 });
    expect(waiting.status).toBe(202);
    expect(waiting.body).toMatchObject({ state: 'queued' });
    edge.device = () => ({ success: false, responseCode: 3, body: Buffer.from('{"ResponseCode":3}') });
    await online(code);
    const failed = await post(code, { ...READ, waitMs: 10_000 });
    expect(failed.status).toBe(200);
    expect(failed.body).toMatchObject({ state: 'failed', executed: 'yes', reason: 'device_error', responseCode: 3 });
  });

  it('what waits for a device ends with the device, and is not for the next one under its code', async () => {
    const code = await device();
    const { id } = (await post(code, WRITE)).body;
    expect((await ask('DELETE', `/v1/devices/${code}`)).status).toBe(204);
    expect((await read(id)).body).toMatchObject({ state: 'cancelled', executed: 'no', reason: 'device_removed' });
  });

  it('an end that nobody told of is found within about a second', async () => {
    const code = await device();
    const waiting = post(code, { ...READ, waitMs: 20_000 });
    await waitFor(async () => (await ask('GET', `/v1/devices/${code}/commands`)).text.includes('queued'), {
      deadlineMs: 3_000,
      what: 'the command in its lane',
    });
    const epoch = await edge.claim(code, revisions.get(code) ?? 0);
    const notAfterMs = Date.now() + 5_000;
    const begun = await line.begin({ code, lane: 'normal', node: edge.node, epoch, window: 1, notAfterMs });
    if (begun.status !== 'begun') throw new Error(begun.status);
    const { id, attempt } = begun.command;
    const answered = { kind: 'answered', success: true, responseCode: 0, body: Buffer.from('{}') } as const;
    await line.settle(code, id, epoch, attempt, answered);
    const startedMs = performance.now();
    expect((await waiting).body).toMatchObject({ id, state: 'succeeded' });
    // Long before the time that it may wait.
    expect(performance.now() - startedMs).toBeLessThan(12_000);
  });

  it('expires unsent at its time, with executed no, though nobody looks at the lane (timer or sweep)', async () => {
    const code = await device();
    const { body } = await post(code, { ...WRITE, ttlMs: 1_000 });
    expect(await untilState(body.id, 'expired', 8_000)).toMatchObject({ executed: 'no', reason: 'expired' });
  });

  it('takes its place at notBefore, and not before', async () => {
    const code = await onlineDevice();
    const atMs = Date.now() + 1_200;
    const { body } = await post(code, { ...READ, notBefore: new Date(atMs).toISOString() });
    expect(body.notBefore).toBe(new Date(atMs).toISOString());
    const ended = await untilState(body.id, 'succeeded', 8_000);
    expect(Date.parse(String(ended.sentAt))).toBeGreaterThanOrEqual(atMs);
  });

  it('more attempts than one are for GET and what is declared safe to repeat (I7)', async () => {
    const code = await device();
    expect((await post(code, { ...READ, retrySafe: false })).body.maxAttempts).toBe(1);
    expect((await post(code, { ...WRITE, maxAttempts: 2 })).body).toMatchObject({
      status: 422,
      error: 'not_repeatable',
    });
    expect((await post(code, { ...WRITE, maxAttempts: 2, retrySafe: true })).body).toMatchObject({ maxAttempts: 2 });
    expect((await post(code, { ...WRITE, retrySafe: true })).body).toMatchObject({ maxAttempts: 3 });
    expect((await post(code, READ)).body).toMatchObject({ maxAttempts: 3 });
    expect((await post(code, WRITE)).body).toMatchObject({ maxAttempts: 1 });
  });

  it('a newer command replaces the waiting one with the same coalesceKey', async () => {
    const code = await device();
    const first = (await post(code, { ...WRITE, coalesceKey: 'ptz' })).body;
    const second = (await post(code, { ...WRITE, coalesceKey: 'ptz' })).body;
    expect((await read(first.id)).body).toMatchObject({ state: 'cancelled', reason: 'superseded', executed: 'no' });
    expect((await read(second.id)).body).toMatchObject({ state: 'queued', coalesceKey: 'ptz' });
  });

  it('urgent commands do not wait for the others', async () => {
    const code = await device();
    await post(code, { ...WRITE, data: 1 });
    await post(code, { ...WRITE, data: 2, lane: 'urgent' });
    edge.device = () => undefined;
    await online(code);
    expect(new Set(edge.begun.map(({ lane }) => lane))).toEqual(new Set(['normal', 'urgent']));
  });

  it('a device that is not provisioned gets nothing', async () => {
    expect((await post('NOBODY', READ)).body).toMatchObject({ status: 404, error: 'device_unknown' });
    expect((await ask('GET', '/v1/devices/NOBODY/commands')).body).toMatchObject({ error: 'device_unknown' });
  });
});

describe('limits', () => {
  it('a lane holds so many commands and not one more', async () => {
    const code = await device();
    for (let i = 0; i < 5; i++) expect((await post(code, WRITE)).status).toBe(202);
    const sixth = await post(code, WRITE);
    expect(sixth.status).toBe(429);
    expect(sixth.body).toMatchObject({ error: 'lane_full', executed: 'no', retryable: true });
    expect(sixth.body.detail).toContain('5 commands');
    expect(Number(sixth.headers.get('retry-after'))).toBeGreaterThan(0);
    expect((await post(code, { ...WRITE, lane: 'urgent' })).status).toBe(202);
  });

  it('and so many bytes', async () => {
    const code = await device();
    const data = 'x'.repeat(200_000 - URL_PATH.length - 2);
    for (let i = 0; i < 3; i++) expect((await post(code, { ...WRITE, data })).status).toBe(202);
    expect((await post(code, { ...WRITE })).body).toMatchObject({ error: 'lane_full' });
  });

  it('data of 256 KiB is kept, one byte more is 413', async () => {
    const code = await device();
    const text = (bytes: number): string => `"${'x'.repeat(bytes - 2)}"`;
    const send = (data: string) => post(code, `{"mode":"queue","method":"PUT","url":"${URL_PATH}","data":${data}}`);
    expect((await send(text(256 * 1024))).status).toBe(202);
    expect((await send(text(256 * 1024 + 1))).body).toMatchObject({ status: 413, error: 'request_too_large' });
  });

  it('the installation holds so many waiting commands', async () => {
    const small = createCommandService(config({ LAPI_KEY_PREFIX: 'lane-small', LAPI_WAITING_COMMANDS: '3' }), log);
    await small.lifecycle.start();
    try {
      await ask('PUT', '/v1/devices/CAM1', { secret: 'k9!Zr7_pQ2wX4vLm' }, {}, small);
      await ask('PUT', '/v1/devices/CAM2', { secret: 'k9!Zr7_pQ2wX4vLm' }, {}, small);
      for (const code of ['CAM1', 'CAM2', 'CAM1']) expect((await post(code, WRITE, {}, small)).status).toBe(202);
      const fourth = await post('CAM2', WRITE, {}, small);
      expect(fourth.status).toBe(429);
      expect(fourth.body).toMatchObject({ error: 'rate_limited' });
      expect(fourth.body.detail).toContain('3 commands');
      expect(fourth.headers.has('retry-after')).toBe(true);
      const { body } = await ask('GET', '/v1/devices/CAM1/commands', undefined, {}, small);
      const [first] = body.items as { id: string }[];
      await ask('DELETE', `/v1/commands/${first?.id}`, undefined, {}, small);
      await waitFor(async () => (await post('CAM2', WRITE, {}, small)).status === 202, {
        deadlineMs: 4_000,
        what: 'room after a cancel',
      });
    } finally {
      await small.lifecycle.stop();
    }
  });
});

describe('Idempotency-Key', () => {
  it('twenty calls at once on two processes are one command (I4.3)', async () => {
    const code = await onlineDevice();
    const answers = await Promise.all(
      Array.from({ length: 20 }, (_, i) =>
        post(code, { ...WRITE, waitMs: 10_000 }, { 'Idempotency-Key': 'once' }, i % 2 === 0 ? service : other),
      ),
    );
    expect(new Set(answers.map(({ status }) => status))).toEqual(new Set([200]));
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    expect(answers.filter(({ headers }) => headers.get('idempotent-replay') === 'true')).toHaveLength(19);
    expect(edge.begun).toHaveLength(1);
  });

  it('another request with the same key is refused, whatever differs, and so are two keys', async () => {
    const code = await device();
    const first = await post(code, { ...WRITE, data: { a: 1 }, idempotencyKey: 'k' });
    expect(first.status).toBe(202);
    const others = [
      { data: { a: 2 } },
      { url: '/LAPI/V1.0/Other' },
      { method: 'POST' },
      { mode: 'direct' },
      { lane: 'urgent' },
    ];
    for (const change of others) {
      const answer = await post(code, { ...WRITE, data: { a: 1 }, ...change }, { 'Idempotency-Key': 'k' });
      expect(answer.body).toMatchObject({ status: 409, error: 'key_conflict' });
      expect(answer.body.detail).toContain(first.body.id);
    }
    const again = await post(code, { ...WRITE, data: { a: 1 }, waitMs: 10 }, { 'Idempotency-Key': 'k' });
    expect(again.status).toBe(202);
    expect(again.headers.get('idempotent-replay')).toBe('true');
    expect(again.body).toMatchObject({ id: first.body.id });
    const two = await post(code, { ...WRITE, idempotencyKey: 'k' }, { 'Idempotency-Key': 'l' });
    expect(two.body).toMatchObject({ status: 400, errors: [{ path: 'body.idempotencyKey' }] });
    const foreign = await post(await device(), { ...WRITE, idempotencyKey: 'k' });
    expect(foreign.headers.has('idempotent-replay')).toBe(false);
  });

  it('a direct call with a key reaches the device once, and each repetition gets the answer of the first', async () => {
    const code = await onlineDevice();
    edge.device = () => undefined;
    const call = (at = service) =>
      post(code, { ...WRITE, mode: 'direct', timeoutMs: 5_000 }, { 'Idempotency-Key': 'd' }, at);
    const first = call();
    await waitFor(() => edge.frames.length === 1, { deadlineMs: 2_000, what: 'the call at the edge' });
    const while_out = [call(), call(other)];
    const [frame] = edge.frames;
    if (frame === undefined) throw new Error('waited for it');
    edge.reply(frame, {
      success: false,
      responseCode: 2,
      body: Buffer.from('{"ResponseCode":2,"Big":9007199254740993}'),
    });
    const answers = await Promise.all([first, ...while_out, call()]);
    for (const answer of answers) {
      expect(answer.status).toBe(400);
      expect(answer.text).toBe(answers[0]?.text);
      expect(answer.text).toContain('9007199254740993');
    }
    expect(answers.map(({ headers }) => headers.has('idempotent-replay'))).toEqual([false, true, true, true]);
    expect(edge.frames).toHaveLength(1);
    expect(await read(answers[0]?.body.id)).toMatchObject({
      body: { mode: 'direct', state: 'failed', executed: 'yes' },
    });
  });

  it('a direct call that was not written frees its key; one that may have been keeps it', async () => {
    const code = await device();
    const call = () => post(code, { ...WRITE, mode: 'direct', timeoutMs: 1_000 }, { 'Idempotency-Key': 'e' });
    const offline = await call();
    expect(offline.body).toMatchObject({ error: 'device_offline', executed: 'no', state: 'failed' });
    expect((await read(offline.body.id)).body).toMatchObject({
      state: 'failed',
      executed: 'no',
      reason: 'device_offline',
    });
    await online(code);
    edge.device = () => undefined;
    const silent = await call();
    expect(silent.body).toMatchObject({ status: 504, error: 'timeout', executed: 'maybe', state: 'timed_out' });
    const repeated = await call();
    expect(repeated.body).toMatchObject({ status: 504, error: 'timeout', id: silent.body.id, state: 'timed_out' });
    expect(repeated.headers.get('idempotent-replay')).toBe('true');
    expect(edge.frames).toHaveLength(1);
  });

  it('without a key nothing is recorded of a direct call', async () => {
    const code = await onlineDevice();
    expect((await post(code, { ...READ, mode: 'direct' })).status).toBe(200);
    expect((await ask('GET', `/v1/devices/${code}/commands`)).body).toEqual({ items: [] });
  });
});

describe('mode direct-then-queue', () => {
  it('answers at once where the device does, and nothing of it waits', async () => {
    const code = await onlineDevice();
    const answer = await post(code, { ...WRITE, mode: 'direct-then-queue' });
    expect(answer.status).toBe(200);
    expect(answer.body).toMatchObject({ state: 'succeeded', executed: 'yes', source: 'device' });
    expect((await read(answer.body.id)).body).toMatchObject({ mode: 'direct-then-queue', state: 'succeeded' });
  });

  it('waits in its lane where nothing was written, and is delivered when the device comes', async () => {
    const code = await device();
    const answer = await post(code, { ...WRITE, mode: 'direct-then-queue', idempotencyKey: 'q' });
    expect(answer.status).toBe(202);
    expect(answer.body).toMatchObject({ state: 'queued', attempts: 0 });
    await online(code);
    await untilState(answer.body.id, 'succeeded');
    const again = await post(code, { ...WRITE, mode: 'direct-then-queue', idempotencyKey: 'q' });
    expect(again).toMatchObject({ status: 200, body: { id: answer.body.id, state: 'succeeded' } });
    expect(edge.begun).toHaveLength(1);
    expect(edge.frames).toHaveLength(0);
  });

  it('what was written is never sent again: the silence is its end', async () => {
    const code = await onlineDevice();
    edge.device = () => undefined;
    const answer = await post(code, { ...READ, mode: 'direct-then-queue', timeoutMs: 1_000 });
    expect(answer.body).toMatchObject({ status: 504, error: 'timeout', executed: 'maybe', state: 'timed_out' });
    expect((await read(answer.body.id)).body).toMatchObject({ state: 'timed_out', executed: 'maybe' });
    expect(edge.begun).toHaveLength(0);
  });

  it('a full lane refuses it', async () => {
    const code = await device();
    for (let i = 0; i < 5; i++) await post(code, WRITE);
    const answer = await post(code, { ...WRITE, mode: 'direct-then-queue' });
    expect(answer.body).toMatchObject({ status: 429, error: 'lane_full', executed: 'no' });
  });
});

describe('cancel and retry', () => {
  it('what waits is cancelled; what is out or ended is not, and the answer says why', async () => {
    const code = await device();
    const { id } = (await post(code, WRITE)).body;
    const cancelled = await ask('DELETE', `/v1/commands/${String(id)}`);
    expect(cancelled).toMatchObject({ status: 200, body: { id, state: 'cancelled', executed: 'no' } });
    const again = await ask('DELETE', `/v1/commands/${String(id)}`);
    expect(again.body).toMatchObject({ status: 409, error: 'conflict', id, state: 'cancelled', executed: 'no' });
    expect(again.body.detail).toContain('was cancelled before');
    const out = (await post(code, WRITE)).body.id;
    edge.device = () => undefined;
    await online(code);
    const sent = await ask('DELETE', `/v1/commands/${String(out)}`);
    expect(sent.body).toMatchObject({ status: 409, state: 'sent', executed: 'maybe' });
    expect(sent.body.detail).toContain('its answer is awaited');
  });

  it('a cancel ends the wait of who asked for it', async () => {
    const code = await device();
    const waiting = post(code, { ...WRITE, waitMs: 20_000 });
    let id: unknown;
    await waitFor(
      async () => {
        const { body } = await ask('GET', `/v1/devices/${code}/commands`);
        id = (body.items as { id: string }[])[0]?.id;
        return id !== undefined;
      },
      { deadlineMs: 3_000, what: 'the command' },
    );
    await ask('DELETE', `/v1/commands/${String(id)}`, undefined, {}, other);
    expect(await waiting).toMatchObject({ status: 200, body: { state: 'cancelled' } });
  });

  it('an ended command is sent again as a new one that names it', async () => {
    const code = await onlineDevice();
    const first = (await post(code, { ...WRITE, data: { a: 1 }, waitMs: 5_000 })).body;
    const retried = await ask('POST', `/v1/commands/${String(first.id)}/retry`, { ttlMs: 60_000 });
    expect(retried.status).toBe(202);
    expect(retried.body).toMatchObject({ retryOf: first.id, method: 'PUT', url: URL_PATH });
    expect(retried.body.id).not.toBe(first.id);
    await untilState(retried.body.id, 'succeeded');
    expect(edge.begun.map(({ body }) => String(body))).toEqual(['{"a":1}', '{"a":1}']);
  });

  it('one that waits is not, and one that does not exist is 404', async () => {
    const code = await device();
    const { id } = (await post(code, WRITE)).body;
    const waiting = await ask('POST', `/v1/commands/${String(id)}/retry`);
    expect(waiting.body).toMatchObject({ status: 409, state: 'queued', executed: 'no' });
    for (const unknown of ['07aaaaaaaaaaaaaaaaaaaa', 'zzaaaaaaaaaaaaaaaaaaaa'])
      for (const [method, path] of [
        ['GET', ''],
        ['DELETE', ''],
        ['POST', '/retry'],
      ] as const)
        expect((await ask(method, `/v1/commands/${unknown}${path}`)).body).toMatchObject({ error: 'not_found' });
  });
});

describe('history', () => {
  it('names the commands of a device, newest first, in pages, and by state', async () => {
    const code = await device();
    const ids: unknown[] = [];
    for (let i = 0; i < 5; i++) ids.unshift((await post(code, { ...WRITE, data: i })).body.id);
    await ask('DELETE', `/v1/commands/${String(ids[4])}`);
    const found: unknown[] = [];
    let cursor: string | undefined;
    do {
      const query = cursor === undefined ? '' : `&cursor=${cursor}`;
      const { body } = await ask('GET', `/v1/devices/${code}/commands?limit=2${query}`);
      found.push(...(body.items as { id: string }[]).map(({ id }) => id));
      cursor = body.cursor as string | undefined;
    } while (cursor !== undefined);
    expect(found).toEqual(ids);
    const cancelled = await ask('GET', `/v1/devices/${code}/commands?limit=2&state=cancelled`);
    expect(cancelled.body.items).toMatchObject([{ id: ids[4], state: 'cancelled' }]);
    expect((await ask('GET', `/v1/devices/${code}/commands?cursor=x`)).body).toMatchObject({
      error: 'invalid_request',
    });
  });
});

describe('when the store has little memory left', () => {
  let small: RedisServer;
  let filler: RedisConnection;
  const started: CommandService[] = [];

  beforeAll(async () => {
    small = await startRedis({ args: ['--maxmemory', '12mb', '--maxmemory-policy', 'noeviction'] });
    filler = openConnection({ url: small.url, commandTimeoutMs: 2_000 }, 'state');
    await ready(filler, 5_000);
  });
  afterAll(async () => {
    for (const each of started) await each.lifecycle.stop();
    await closeConnection(filler);
    await small.stop();
  });

  const fill = async (): Promise<void> => {
    for (let i = 0; i < 8; i++) await filler.set(`fill:${i}`, 'x'.repeat(1_000_000));
  };
  const start = async (): Promise<CommandService> => {
    const made = createCommandService(config({ REDIS_URL: small.url }), log);
    started.push(made);
    await made.lifecycle.start();
    return made;
  };

  it('it is noticed, and so is room', async () => {
    const looks: number[] = [];
    const memory = new StoreMemory(filler, 20, (usedPercent) => looks.push(usedPercent));
    await memory.start();
    try {
      expect(memory.usedPercent).toBeLessThan(80);
      await fill();
      await waitFor(() => memory.usedPercent >= 80, { deadlineMs: 2_000, what: 'a full store' });
      await filler.flushdb();
      await waitFor(() => memory.usedPercent < 80, { deadlineMs: 2_000, what: 'room' });
      expect(looks.at(-1)).toBe(memory.usedPercent);
    } finally {
      memory.stop();
    }
  });

  it('new commands are refused first; direct calls, reads and cancels go on', async () => {
    const before = await start();
    await ask('PUT', '/v1/devices/CAM1', { secret: 'k9!Zr7_pQ2wX4vLm' }, {}, before);
    const accepted = await post('CAM1', WRITE, {}, before);
    expect(accepted.status).toBe(202);
    await fill();
    const full = await start();
    for (const mode of ['queue', 'direct-then-queue']) {
      const refused = await post('CAM1', { ...WRITE, mode }, {}, full);
      expect(refused.body).toMatchObject({ status: 503, error: 'store_full', executed: 'no', retryable: true });
      expect(refused.headers.get('retry-after')).toBe('30');
    }
    const direct = await post('CAM1', { ...WRITE, mode: 'direct' }, {}, full);
    expect(direct.body).toMatchObject({ error: 'device_offline' });
    const path = `/v1/commands/${String(accepted.body.id)}`;
    expect((await ask('GET', path, undefined, {}, full)).body).toMatchObject({ state: 'queued' });
    expect((await ask('DELETE', path, undefined, {}, full)).body).toMatchObject({ state: 'cancelled' });
  });
});

it('where Redis has replicas, nothing counts that none of them has; the same key finds it when one is back (I4.2)', async () => {
  const sentinel = await startRedisSentinel();
  const replicated = createCommandService(config({ REDIS_URL: sentinel.url }), log);
  try {
    await replicated.lifecycle.start();
    await ask('PUT', '/v1/devices/CAM1', { secret: 'k9!Zr7_pQ2wX4vLm' }, {}, replicated);
    const first = await post('CAM1', WRITE, { 'Idempotency-Key': 'a' }, replicated);
    expect(first.status).toBe(202);
    for (const replica of sentinel.replicas) await replica.kill('SIGSTOP');
    const send = () => post('CAM1', WRITE, { 'Idempotency-Key': 'b' }, replicated);
    for (const answer of [await send(), await send()]) {
      expect(answer.body).toMatchObject({
        status: 503,
        error: 'broker_unavailable',
        executed: 'maybe',
        retryable: true,
      });
      expect(answer.body.detail).toContain('may exist');
    }
    expect((await post('CAM1', WRITE, {}, replicated)).body).toMatchObject({ executed: 'maybe', retryable: false });
    const cancel = await ask('DELETE', `/v1/commands/${String(first.body.id)}`, undefined, {}, replicated);
    expect(cancel.body).toMatchObject({ error: 'broker_unavailable' });
    const direct = await post('CAM1', { ...WRITE, mode: 'direct' }, { 'Idempotency-Key': 'c' }, replicated);
    expect(direct.body).toMatchObject({ error: 'broker_unavailable', executed: 'no' });
    for (const replica of sentinel.replicas) await replica.kill('SIGCONT');
    await waitFor(async () => (await send()).status === 202, { deadlineMs: 10_000, what: 'a confirmation' });
    expect((await send()).headers.get('idempotent-replay')).toBe('true');
  } finally {
    await replicated.lifecycle.stop();
    await sentinel.stop();
  }
});

it('only hashes of Idempotency-Keys are stored', async () => {
  const code = await device();
  await post(code, WRITE, { 'Idempotency-Key': 'my-very-own-key' });
  const hash = createHash('sha256').update('api:my-very-own-key').digest('hex');
  expect(await connection.exists(keyspace.idempotency(code, hash))).toBe(1);
});
