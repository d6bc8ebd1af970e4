import { randomBytes } from 'node:crypto';
import { connect as connectTcp } from 'node:net';
import { RedisPubSub } from '@lapi-broker/bus';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { type DeviceCode, isDeviceCode, type ReplyFrame } from '@lapi-broker/protocol';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { RedisNodeDirectory, RedisOwnerRegistry } from '@lapi-broker/routing';
import { createLog } from '@lapi-broker/telemetry';
import fc from 'fast-check';
import { nanoid } from 'nanoid';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { type CommandService, createCommandService } from './command.ts';
import { readCommandConfig } from './config.ts';
import { methodsByPath, ROUTES } from './http/api.ts';
import { FakeEdge } from './testing/fake-edge.ts';

const ADMIN = `admin-${randomBytes(24).toString('base64url')}`;
const SECRET = 'k9!Zr7_pQ2wX4vLm';
const OTHER_SECRET = 'Vt3#mmQz81_pLw0x';
const PREFIX = 'api-test';

let redis: RedisServer;
let service: CommandService;
let connection: RedisConnection;
let edgeBus: RedisPubSub;
let edge: FakeEdge;
let base: string;

const config = (over: Record<string, string> = {}) =>
  readCommandConfig({
    REDIS_URL: redis.url,
    LAPI_KEY_PREFIX: PREFIX,
    LAPI_API_HOST: '127.0.0.1',
    LAPI_API_PORT: '0',
    LAPI_PROBE_PORT: '0',
    LAPI_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'),
    LAPI_API_KEY: ADMIN,
    LAPI_DIRECT_BODY_BYTES: '65536',
    LAPI_API_BODY_BYTES: '4096',
    ...over,
  });
const log = createLog({ service: 'command', level: 'silent' });

beforeAll(async () => {
  redis = await startRedis();
  service = createCommandService(config(), log);
  await service.lifecycle.start();
  base = `http://127.0.0.1:${service.ports().api}`;
  connection = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(connection, 5_000);
  const keyspace = createKeyspace(PREFIX);
  edgeBus = new RedisPubSub({ state: connection });
  edge = await new FakeEdge('edge-1', {
    pubsub: edgeBus,
    keyspace,
    registry: new RedisOwnerRegistry(connection, keyspace),
    directory: new RedisNodeDirectory(connection, keyspace),
  }).start();
});

afterAll(async () => {
  await service.lifecycle.stop();
  await edge.deafen();
  await edgeBus.stop();
  await closeConnection(connection);
  await redis.stop();
});

afterEach(() => {
  edge.device = () => ({});
  edge.frames.length = 0;
  edge.control.length = 0;
});

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly body: Record<string, unknown>;
}

interface Ask {
  readonly key?: string | null;
  readonly body?: string | Uint8Array;
  readonly headers?: Record<string, string>;
}

async function ask(method: string, path: string, { key = ADMIN, body, headers = {} }: Ask = {}): Promise<Answer> {
  const response = await fetch(`${base}${path}`, {
    method,
    headers: { ...(key === null ? {} : { authorization: `Bearer ${key}` }), ...headers },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : Buffer.from(body) }),
  });
  const text = await response.text();
  const isJson = (response.headers.get('content-type') ?? '').includes('json') && text !== '';
  return { status: response.status, headers: response.headers, text, body: isJson ? JSON.parse(text) : {} };
}

const put = (code: string, change: object): Promise<Answer> =>
  ask('PUT', `/v1/devices/${code}`, { body: JSON.stringify(change) });

/** A provisioned device; registered at the fake edge unless told otherwise. */
async function device(change: object = {}, registered = true): Promise<DeviceCode> {
  const code = `CAM-${nanoid(10).replace(/_/g, '-')}`;
  if (!isDeviceCode(code)) throw new Error('made to be one');
  const { body } = await put(code, { secret: SECRET, ...change });
  if (registered) await edge.claim(code, Number(body.revision));
  return code;
}

async function keyWith(...scopes: string[]): Promise<{ id: string; key: string }> {
  const { body } = await ask('POST', '/v1/keys', { body: JSON.stringify({ name: 'test', scopes }) });
  return { id: String(body.id), key: String(body.key) };
}

const INFO = 'LAPI/V1.0/System/DeviceInfo';

describe('pass-through', () => {
  it.each<[number | undefined, boolean, number]>([
    [0, true, 200],
    [2, false, 400],
    [3, false, 403],
    [5, false, 403],
    [4, false, 501],
    [2001, false, 404],
    [1, false, 502],
    [102, false, 502],
    [0, false, 502],
    [-7, false, 502],
    [undefined, false, 502],
  ])(
    'the device answered ResponseCode %s (success %s): %s, source device, its members intact (L32, 13.2)',
    async (responseCode, success, status) => {
      const code = await device();
      const text = `{"ResponseCode":${responseCode ?? null},"Data":{"Big":9007199254740993}}`;
      edge.device = () => ({ responseCode, success, body: Buffer.from(text) });
      const answer = await ask('GET', `/v1/devices/${code}/${INFO}`);
      expect(answer.status).toBe(status);
      expect(answer.headers.get('content-type')).toBe('application/json');
      expect(answer.text).toBe(`${text.slice(0, -1)},"source":"device"}`);
    },
  );

  it.each<[ReplyFrame['outcome'], boolean, number, boolean]>([
    ['device_busy', false, 429, true],
    ['node_draining', false, 503, true],
    ['timeout_not_sent', false, 504, true],
    ['timeout', true, 504, false],
    ['outcome_unknown', true, 502, false],
    ['request_too_large', false, 413, false],
  ])(
    'the broker answers %s with written %s: %s, source broker (L32, 13.3)',
    async (outcome, written, status, retryable) => {
      const code = await device();
      edge.device = () => ({ outcome, written });
      const answer = await ask('PUT', `/v1/devices/${code}/LAPI/V1.0/System/Time`, { body: '{}' });
      expect(answer.status).toBe(status);
      expect(answer.headers.get('content-type')).toBe('application/problem+json');
      expect(answer.body).toMatchObject({
        source: 'broker',
        error: outcome,
        code: outcome,
        written,
        retryable,
        executed: written ? 'maybe' : 'no',
      });
      if (status === 429 || status === 503) expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    },
  );

  it('path and query reach the device as they were sent, and the body byte by byte', async () => {
    const code = await device();
    const body = '{ "Big": 9007199254740993, "n": 1.0e5, "t": "\\u00e9é" }\n';
    await ask('PUT', `/v1/devices/${code}/LAPI/V1.0/Channels/1/Media?Begin=1&Name=a%20b+c&End=`, { body });
    const [frame] = edge.frames;
    expect(frame).toMatchObject({ code, method: 'PUT', url: '/LAPI/V1.0/Channels/1/Media?Begin=1&Name=a%20b+c&End=' });
    expect(Buffer.from(frame?.body ?? []).toString()).toBe(body);
  });

  it('a DeviceCode may come percent-encoded', async () => {
    const { body } = await put('00%3A11%3A22', { secret: SECRET });
    await edge.claim('00:11:22' as DeviceCode, Number(body.revision));
    expect((await ask('GET', `/v1/devices/00%3A11%3A22/${INFO}`)).status).toBe(200);
    expect(edge.frames[0]).toMatchObject({ code: '00:11:22', url: `/${INFO}` });
  });

  it('the device has the time that the header gives, and no part of the query', async () => {
    const code = await device();
    edge.device = () => undefined;
    const startedMs = performance.now();
    const answer = await ask('GET', `/v1/devices/${code}/${INFO}?timeout=9`, { headers: { 'X-LAPI-Timeout': '1000' } });
    expect(answer.body).toMatchObject({ error: 'timeout', written: true, retryable: true });
    expect(performance.now() - startedMs).toBeGreaterThan(1_000);
    expect(performance.now() - startedMs).toBeLessThan(3_000);
    expect(edge.frames[0]?.url).toBe(`/${INFO}?timeout=9`);
  });

  it('offline is told at once, or after the connect timeout', async () => {
    const code = await device({}, false);
    const answer = await ask('GET', `/v1/devices/${code}/${INFO}`);
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('5');
    expect(answer.body).toMatchObject({ error: 'device_offline', written: false, executed: 'no' });
    const startedMs = performance.now();
    await ask('GET', `/v1/devices/${code}/${INFO}`, { headers: { 'X-LAPI-Connect-Timeout': '400' } });
    expect(performance.now() - startedMs).toBeGreaterThanOrEqual(400);
  });

  it.each<[string, string, Ask]>([
    ['a timeout that is no number', 'header.X-LAPI-Timeout', { headers: { 'X-LAPI-Timeout': 'soon' } }],
    ['a timeout below the range', 'header.X-LAPI-Timeout', { headers: { 'X-LAPI-Timeout': '999' } }],
    ['a connect timeout above it', 'header.X-LAPI-Connect-Timeout', { headers: { 'X-LAPI-Connect-Timeout': '60001' } }],
    ['an Idempotency-Key', 'header.Idempotency-Key', { headers: { 'Idempotency-Key': 'k' }, body: '{}' }],
    ['half a JSON text', 'body', { body: '{"a":1' }],
    ['a body that is not JSON', 'body', { body: 'hello' }],
    ['a body that is not UTF-8', 'body', { body: Buffer.from([0x22, 0xff, 0x22]) }],
    ['a body nested 65 deep (S11)', 'body', { body: '['.repeat(65) + ']'.repeat(65) }],
  ])('%s is refused before anything is sent, naming %s', async (_name, fault, request) => {
    const code = await device();
    const answer = await ask('PUT', `/v1/devices/${code}/${INFO}`, request);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ error: 'invalid_request', written: false, errors: [{ path: fault }] });
    expect(edge.frames).toHaveLength(0);
  });

  it.each([
    ['an encoded slash', 'LAPI/V1.0/a%2fb'],
    ['two slashes', 'LAPI/V1.0//a'],
    ['a control character', 'LAPI/V1.0/%00'],
    ['a stray %', 'LAPI/V1.0/%'],
    ['more than 2,048 bytes', `LAPI/${'x'.repeat(2_048)}`],
  ])('a URL with %s is refused (C5)', async (_name, path) => {
    const code = await device();
    expect((await ask('GET', `/v1/devices/${code}/${path}`)).body).toMatchObject({ error: 'invalid_request' });
    expect(edge.frames).toHaveLength(0);
  });

  it('methods that LAPI does not have are refused with those it has', async () => {
    const code = await device();
    for (const method of ['PATCH', 'OPTIONS']) {
      const answer = await ask(method, `/v1/devices/${code}/${INFO}`);
      expect(answer.status).toBe(405);
      expect(answer.headers.get('allow')).toBe('GET, POST, PUT, DELETE');
    }
  });

  it('a body above the limit is refused, one at the limit passes', async () => {
    const code = await device();
    const at = (bytes: number): string => `"${'x'.repeat(bytes - 2)}"`;
    expect((await ask('PUT', `/v1/devices/${code}/LAPI/V1.0/X`, { body: at(65_536) })).status).toBe(200);
    const answer = await ask('PUT', `/v1/devices/${code}/LAPI/V1.0/X`, { body: at(65_537) });
    expect(answer.status).toBe(413);
    expect(answer.body).toMatchObject({ error: 'request_too_large', written: false });
  });

  it('reserved paths are refused for everybody, guarded ones without the admin scope (C10, S13)', async () => {
    const code = await device();
    const { key } = await keyWith('call');
    const error = async (path: string, as: string): Promise<unknown> =>
      (await ask('PUT', `/v1/devices/${code}/${path}`, { key: as, body: '{}' })).body.error;
    expect(await error('LAPI/V1.0/System/UpServer/Keepalive', ADMIN)).toBe('forbidden_by_policy');
    expect(await error('LAPI/V1.0/System/Event/Subscription', ADMIN)).toBe('forbidden_by_policy');
    expect(await error('LAPI/V1.0/System/Reboot', key)).toBe('forbidden_by_policy');
    expect(edge.frames).toHaveLength(0);
    expect(await error('LAPI/V1.0/System/Reboot', ADMIN)).toBeUndefined();
    expect(await error('LAPI/V1.0/System/Time', key)).toBeUndefined();
  });
});

describe('commands as JSON', () => {
  const post = (code: string, body: string | object, more: Ask = {}): Promise<Answer> =>
    ask('POST', `/v1/devices/${code}/commands`, {
      body: typeof body === 'string' ? body : JSON.stringify(body),
      ...more,
    });
  const INFO_CALL = { method: 'GET', url: `/${INFO}` };

  it("the outcome says what happened, with the device's own bytes inside and the status of 13.2", async () => {
    const code = await device();
    edge.device = () => ({ body: Buffer.from('{"ResponseCode":0,"Data":{"Big":9007199254740993}}') });
    const answer = await post(code, INFO_CALL);
    expect(answer.status).toBe(200);
    expect(answer.text).toMatch(/"response":\{"ResponseCode":0,"Data":\{"Big":9007199254740993\}\}\}$/);
    expect(answer.body).toMatchObject({
      state: 'succeeded',
      executed: 'yes',
      source: 'device',
      id: expect.any(String),
    });
    edge.device = () => ({ success: false, responseCode: 4, body: Buffer.from('{"ResponseCode":4}') });
    const refused = await post(code, INFO_CALL);
    expect(refused.status).toBe(501);
    expect(refused.body).toMatchObject({ state: 'failed', executed: 'yes', response: { ResponseCode: 4 } });
  });

  it('`data` reaches the device byte by byte; without it, or with null, nothing is sent as Data', async () => {
    const code = await device();
    await post(
      code,
      '{"method":"PUT","url":"/LAPI/V1.0/X","data": {"Big": 9007199254740993, "n":1.0} ,"timeoutMs":2000}',
    );
    await post(code, '{"method":"PUT","url":"/LAPI/V1.0/X","data":null}');
    await post(code, '{"method":"PUT","url":"/LAPI/V1.0/X"}');
    expect(edge.frames.map((frame) => Buffer.from(frame.body).toString())).toEqual([
      '{"Big": 9007199254740993, "n":1.0}',
      '',
      '',
    ]);
  });

  it.each<[ReplyFrame['outcome'], boolean, string, string]>([
    ['timeout', true, 'timed_out', 'maybe'],
    ['outcome_unknown', true, 'unknown', 'maybe'],
    ['timeout_not_sent', false, 'expired', 'no'],
    ['device_busy', false, 'failed', 'no'],
  ])('%s ends the command as it is: written %s, state %s, executed %s', async (outcome, written, state, executed) => {
    const code = await device();
    edge.device = () => ({ outcome, written });
    expect((await post(code, { method: 'PUT', url: '/LAPI/V1.0/X' })).body).toMatchObject({
      error: outcome,
      state,
      executed,
      written,
      retryable: !written,
    });
    expect((await post(code, INFO_CALL)).body).toMatchObject({ retryable: true });
  });

  it.each<[string, object | string, string]>([
    ['a mode that does not exist', { ...INFO_CALL, mode: 'later' }, 'body.mode'],
    ['an option of a queue in a direct call', { ...INFO_CALL, ttlMs: 5_000 }, 'body.ttlMs'],
    [
      'an option of a direct call in a queue',
      { ...INFO_CALL, mode: 'queue', connectTimeoutMs: 1 },
      'body.connectTimeoutMs',
    ],
    ['two ends', { ...INFO_CALL, mode: 'queue', ttlMs: 5_000, expiresAt: '2026-01-01T00:00:00Z' }, 'body.expiresAt'],
    [
      'a begin of a direct call',
      { ...INFO_CALL, mode: 'direct-then-queue', notBefore: '2026-01-01T00:00:00Z' },
      'body.notBefore',
    ],
    ['no time', { ...INFO_CALL, mode: 'queue', expiresAt: 'tomorrow' }, 'body.expiresAt'],
    ['an end that is over', { ...INFO_CALL, mode: 'queue', expiresAt: '2020-01-01T00:00:00Z' }, 'body.expiresAt'],
    ['an end too far off', { ...INFO_CALL, mode: 'queue', expiresAt: '2099-01-01T00:00:00Z' }, 'body.expiresAt'],
    [
      'a begin after the end',
      { ...INFO_CALL, mode: 'queue', ttlMs: 5_000, notBefore: '2099-01-01T00:00:00Z' },
      'body.notBefore',
    ],
    ['an empty key', { ...INFO_CALL, idempotencyKey: '' }, 'body.idempotencyKey'],
    ['a key of 129 characters', { ...INFO_CALL, idempotencyKey: 'k'.repeat(129) }, 'body.idempotencyKey'],
    ['11 attempts', { ...INFO_CALL, mode: 'queue', maxAttempts: 11 }, 'body.maxAttempts'],
    ['a wait above 30 s', { ...INFO_CALL, mode: 'queue', waitMs: 30_001 }, 'body.waitMs'],
    ['an unknown member', { ...INFO_CALL, Cseq: 1 }, 'body'],
    ['no method', { url: `/${INFO}` }, 'body.method'],
    ['a method LAPI lacks', { method: 'PATCH', url: `/${INFO}` }, 'body.method'],
    ['a timeout below the range', { ...INFO_CALL, timeoutMs: 999 }, 'body.timeoutMs'],
    ['a timeout above it', { ...INFO_CALL, timeoutMs: 60_001 }, 'body.timeoutMs'],
    ['no JSON', 'method=GET', 'body'],
    ['nothing', '', 'body'],
    ['another shape', [], 'body'],
    ['own __proto__', '{"__proto__":{"mode":"x"},"method":"GET","url":"/LAPI/V1.0/X"}', 'body'],
  ])('%s is refused, naming the member', async (_name, body, fault) => {
    const code = await device();
    const answer = await post(code, body);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ error: 'invalid_request', errors: [{ path: fault }] });
    expect(edge.frames).toHaveLength(0);
  });

  it('the refusal of a mode says which there are', async () => {
    expect((await post('CAM', { ...INFO_CALL, mode: 'later' })).body.detail).toContain('"direct"');
  });

  it('paths are judged as on the other route, in every mode, before anything is accepted (C5, C10)', async () => {
    const code = await device();
    expect((await post(code, { method: 'GET', url: '/etc/passwd' })).body).toMatchObject({ error: 'invalid_request' });
    expect((await post(code, { method: 'PUT', url: '/LAPI/V1.0/System/UpServer/Register' })).status).toBe(403);
    const { key } = await keyWith('call', 'read');
    for (const mode of ['direct', 'queue', 'direct-then-queue']) {
      const guarded = { mode, method: 'PUT', url: '/LAPI/V1.0/System/Reboot', idempotencyKey: 'k' };
      expect((await post(code, guarded, { key })).body).toMatchObject({ error: 'forbidden_by_policy' });
    }
    expect((await ask('GET', `/v1/devices/${code}/commands`)).body).toEqual({ items: [] });
    expect(edge.frames).toHaveLength(0);
  });
});

describe('devices', () => {
  it('a device is created, read, changed and removed, and no answer ever holds a secret (S3)', async () => {
    const code = `CAM-${nanoid(6).replace(/_/g, '-')}`;
    const created = await put(code, {
      secret: SECRET,
      nextSecret: OTHER_SECRET,
      type: 'nvr',
      tags: ['b', 'a'],
      profile: 'nvr',
    });
    expect(created.status).toBe(201);
    const read = await ask('GET', `/v1/devices/${code}`);
    expect(read.body).toMatchObject({
      code,
      online: false,
      type: 'nvr',
      tags: ['a', 'b'],
      profile: 'nvr',
      enabled: true,
      hasNextSecret: true,
    });
    const changed = await put(code, { enabled: false, nextSecret: null });
    expect(changed.status).toBe(200);
    const again = await ask('GET', `/v1/devices/${code}`);
    expect(again.body).toMatchObject({ enabled: false, hasNextSecret: false, type: 'nvr' });
    expect((await ask('DELETE', `/v1/devices/${code}`)).status).toBe(204);
    expect((await ask('GET', `/v1/devices/${code}`)).body).toMatchObject({ error: 'device_unknown' });
    expect((await ask('DELETE', `/v1/devices/${code}`)).status).toBe(404);
    for (const { text } of [created, read, changed, again]) expect(text).not.toMatch(/Zr7|mmQz|secret"/);
  });

  it.each<[string, object, string]>([
    ['no secret for a new device', { type: 'nvr' }, 'body.secret'],
    ['a short secret (G8)', { secret: 'short' }, 'body.secret'],
    ['a guessable one (G8)', { secret: '123456123456' }, 'body.secret'],
    ['a weak next secret (G8)', { secret: SECRET, nextSecret: 'aaaaaaaaaaaaaaaa' }, 'body.nextSecret'],
    ['a secret of 257 bytes', { secret: 'é'.repeat(129) }, 'body.secret'],
    ['an unknown profile', { secret: SECRET, profile: 'toaster' }, 'body.profile'],
    ['a tag with a comma', { secret: SECRET, tags: ['a,b'] }, 'body.tags.0'],
    ['a tag twice', { secret: SECRET, tags: ['a', 'a'] }, 'body.tags'],
    ['33 tags', { secret: SECRET, tags: Array.from({ length: 33 }, (_, i) => `t${i}`) }, 'body.tags'],
    ['an unknown member', { secret: SECRET, admin: true }, 'body'],
    ['a number for a secret', { secret: 12 }, 'body.secret'],
  ])('%s is refused, naming the member and never the secret', async (_name, change, fault) => {
    const answer = await put(`CAM-${nanoid(6).replace(/_/g, '-')}`, change);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ error: 'invalid_request', errors: [{ path: fault }] });
    expect(answer.text).not.toContain('123456123456');
  });

  it('the node of a device is told of each change of its provisioning, and of its removal', async () => {
    const code = await device();
    await put(code, { tags: ['x'] });
    await put(code, { nextSecret: OTHER_SECRET });
    expect((await ask('POST', `/v1/devices/${code}/secret/promote`)).status).toBe(200);
    await ask('DELETE', `/v1/devices/${code}`);
    await waitFor(() => edge.control.length === 4, { deadlineMs: 2_000, what: 'four hints' });
    expect(edge.control).toEqual(Array.from({ length: 4 }, () => ({ type: 'provisioning_changed', code })));
  });

  it('promoting makes the next secret the current one, once (G7)', async () => {
    const code = await device({ nextSecret: OTHER_SECRET });
    expect((await ask('POST', `/v1/devices/${code}/secret/promote`)).status).toBe(200);
    expect((await ask('GET', `/v1/devices/${code}`)).body).toMatchObject({ hasNextSecret: false });
    expect((await ask('POST', `/v1/devices/${code}/secret/promote`)).body).toMatchObject({
      status: 409,
      error: 'conflict',
    });
    expect((await ask('POST', '/v1/devices/NOBODY/secret/promote')).status).toBe(404);
  });

  it('disconnect reaches the node of an online device, and is a conflict for an offline one', async () => {
    const code = await device();
    expect((await ask('POST', `/v1/devices/${code}/disconnect`)).status).toBe(202);
    await waitFor(() => edge.control.length === 1, { deadlineMs: 2_000, what: 'the message' });
    expect(edge.control).toEqual([{ type: 'disconnect', code }]);
    expect((await ask('POST', `/v1/devices/${await device({}, false)}/disconnect`)).status).toBe(409);
    expect((await ask('POST', '/v1/devices/NOBODY/disconnect')).status).toBe(404);
  });

  it('an online device shows its session', async () => {
    const code = await device({ type: 'ipc' });
    expect((await ask('GET', `/v1/devices/${code}`)).body).toMatchObject({
      online: true,
      node: edge.node,
      epoch: expect.any(Number),
      session: expect.any(String),
      since: expect.stringMatching(/^\d{4}-.*Z$/),
      vendor: 'Uniview',
      deviceType: 'NVR',
      address: '192.0.2.1',
    });
  });

  it('paging through a listing shows each device exactly once, whatever the filter', async () => {
    const tag = `t-${nanoid(6)}`;
    const made: string[] = [];
    for (let i = 0; i < 7; i++) made.push(await device({ tags: [tag], type: i % 2 === 0 ? 'even' : 'odd' }, i < 3));
    const walk = async (query: string): Promise<string[]> => {
      const found: string[] = [];
      let cursor = '';
      for (let page = 0; page < 50; page++) {
        const { body, status } = await ask('GET', `/v1/devices?${query}${cursor}`);
        expect(status).toBe(200);
        found.push(...(body.items as { code: string }[]).map((item) => item.code));
        if (body.cursor === undefined) return found;
        cursor = `&cursor=${String(body.cursor)}`;
      }
      throw new Error('the listing does not end');
    };
    const sorted = (codes: string[]): string[] => [...codes].sort();
    expect(await walk(`tag=${tag}&limit=2`)).toEqual(sorted(made));
    expect(await walk(`tag=${tag}&online=true&limit=2`)).toEqual(sorted(made.slice(0, 3)));
    expect(await walk(`tag=${tag}&online=false&limit=3`)).toEqual(sorted(made.slice(3)));
    expect(await walk(`tag=${tag}&type=odd`)).toEqual(sorted(made.filter((_, i) => i % 2 === 1)));
    expect(await walk(`tag=${tag}&node=edge-1`)).toEqual(sorted(made.slice(0, 3)));
    expect(await walk(`tag=${tag}&node=${edge.node}`)).toEqual(sorted(made.slice(0, 3)));
    expect(await walk(`tag=${tag}&node=edge-2`)).toEqual([]);
    expect((await walk('limit=4')).filter((code) => made.includes(code))).toEqual(sorted(made));
  });

  it.each([
    ['limit=0', 'query.limit'],
    ['limit=1001', 'query.limit'],
    ['limit=ten', 'query.limit'],
    ['online=yes', 'query.online'],
    ['cursor=x', 'query.cursor'],
    ['color=red', 'query'],
    ['tag=a&tag=b', 'query.tag'],
  ])('a listing with %s is refused, naming the parameter', async (query, fault) => {
    const answer = await ask('GET', `/v1/devices?${query}`);
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ errors: [{ path: fault }] });
  });

  it('a body above the limit of the API is refused', async () => {
    expect((await put('CAM-big', { secret: 'x'.repeat(5_000) })).status).toBe(413);
  });
});

describe('nodes', () => {
  it('are listed with what they report', async () => {
    const { body } = await ask('GET', '/v1/nodes');
    expect(body.items).toContainEqual(
      expect.objectContaining({ node: edge.node, name: 'edge-1', phase: 'serving', address: 'ws://test', sessions: 0 }),
    );
  });

  it('are asked to drain and to serve again, by name or incarnation, and say how far they are', async () => {
    const keyspace = createKeyspace(PREFIX);
    const directory = new RedisNodeDirectory(connection, keyspace);
    const parts = { pubsub: edgeBus, keyspace, registry: new RedisOwnerRegistry(connection, keyspace), directory };
    const asked = await new FakeEdge('asked', parts).start();
    const { node } = asked;
    const load = { sessions: 7, registrations: 0, loopLagMs: 0 };
    const heard = async () => {
      const renewed = await directory.renew(node, { ...load, phase: 'serving' }, 600_000, 8.64e15);
      return renewed.status === 'renewed' ? renewed.asked : undefined;
    };
    for (const [path, body, word] of [
      [`/v1/nodes/asked/drain`, { seconds: 60 }, { ask: 'drain', seconds: 60 }],
      [`/v1/nodes/${node}/drain`, undefined, { ask: 'drain', seconds: undefined }],
      [`/v1/nodes/asked/resume`, undefined, { ask: 'resume' }],
    ] as const) {
      const answer = await ask('POST', path, body === undefined ? {} : { body: JSON.stringify(body) });
      expect(answer).toMatchObject({ status: 202, body: { node, name: 'asked', phase: 'serving' } });
      expect(await heard()).toMatchObject(word);
    }
    const drain = { startedAtMs: 1_735_689_600_000, endsAtMs: 1_735_689_620_000, devices: 9, left: 7 };
    await directory.renew(node, { ...load, phase: 'draining', drain }, 600_000, 8.64e15);
    expect((await ask('GET', '/v1/nodes/asked')).body).toMatchObject({
      node,
      phase: 'draining',
      drain: { startedAt: '2025-01-01T00:00:00.000Z', endsAt: '2025-01-01T00:00:20.000Z', devices: 9, left: 7 },
    });
    await directory.leave(node);
    expect(await ask('POST', `/v1/nodes/${node}/drain`)).toMatchObject({ status: 409, body: { code: 'conflict' } });
    await asked.deafen();
  });

  it('that do not exist are not found, and what is no drain is refused', async () => {
    for (const [method, path] of [
      ['GET', '/v1/nodes/nobody'],
      ['POST', '/v1/nodes/nobody/drain'],
      ['POST', '/v1/nodes/nobody/resume'],
    ] as const)
      expect(await ask(method, path)).toMatchObject({ status: 404, body: { code: 'not_found' } });
    for (const body of [{ seconds: 0 }, { seconds: 3_601 }, { minutes: 1 }, []])
      expect((await ask('POST', '/v1/nodes/edge-1/drain', { body: JSON.stringify(body) })).status).toBe(400);
    expect((await ask('GET', '/v1/nodes/a%20b')).status).toBe(400);
  });
});

describe('a node that dies', () => {
  it('is listed as dead, and its devices turn offline with the reason, without a word of it (design §4)', async () => {
    const keyspace = createKeyspace(PREFIX);
    const dying = await new FakeEdge('dying', {
      pubsub: edgeBus,
      keyspace,
      registry: new RedisOwnerRegistry(connection, keyspace),
      directory: new RedisNodeDirectory(connection, keyspace),
    }).start(1_500);
    const code = await device({}, false);
    const { body } = await ask('GET', `/v1/devices/${code}`);
    await dying.claim(code, Number(body.revision));
    expect((await ask('GET', `/v1/devices/${code}`)).body).toMatchObject({ online: true, node: dying.node });
    const shown = await waitFor(
      async () => {
        const row = (await ask('GET', `/v1/devices/${code}`)).body;
        return row.online ? undefined : row;
      },
      { deadlineMs: 10_000, what: 'the end of its lease' },
    );
    // From the first moment on, also before anybody has written it.
    expect(shown).toMatchObject({ online: false, lastOffline: { reason: 'node_lost' } });
    expect((await ask('GET', '/v1/nodes')).body.items).toContainEqual(
      expect.objectContaining({ node: dying.node, phase: 'dead' }),
    );
    await dying.deafen();
  });
});

describe('keys and scopes', () => {
  it('a key is shown once, listed without itself, works within its scopes, and is dead at once where it was revoked', async () => {
    const { id, key } = await keyWith('read');
    expect(key).toMatch(/^lapi_[A-Za-z0-9_-]{43}$/);
    const listed = await ask('GET', '/v1/keys');
    expect(listed.text).toContain(id);
    expect(listed.text).not.toContain(key);
    expect((await ask('GET', '/v1/devices', { key })).status).toBe(200);
    expect((await ask('DELETE', `/v1/keys/${id}`)).status).toBe(204);
    expect((await ask('GET', '/v1/devices', { key })).status).toBe(401);
    expect((await ask('DELETE', `/v1/keys/${id}`)).body).toMatchObject({ error: 'not_found' });
  });

  it('only hashes of keys are stored', async () => {
    const { key } = await keyWith('read');
    const names = (await redis.command('KEYS', '*')) as string[];
    expect(names.some((name) => name.includes(key) || name.includes(ADMIN))).toBe(false);
    for (const name of names.filter((each) => each.includes(':apikey:'))) {
      expect(JSON.stringify(await redis.command('HGETALL', name))).not.toContain(key);
    }
  });

  it.each<[string, object, string]>([
    ['no scopes', { name: 'x', scopes: [] }, 'body.scopes'],
    ['an unknown scope', { name: 'x', scopes: ['root'] }, 'body.scopes.0'],
    ['no name', { scopes: ['read'] }, 'body.name'],
  ])('a key with %s is refused', async (_name, body, fault) => {
    const answer = await ask('POST', '/v1/keys', { body: JSON.stringify(body) });
    expect(answer.status).toBe(400);
    expect(answer.body).toMatchObject({ errors: [{ path: fault }] });
  });

  const PATHS = ROUTES.map(({ method, path, operation }) => ({
    method: method === 'ANY' ? 'GET' : method,
    path: path.replace(':code', 'NOBODY').replace(':id', 'nothing').replace('*', 'V1.0/X'),
    scope: operation.scope,
    orScope: operation.orScope,
  }));

  it.each(PATHS.filter(({ scope }) => scope !== undefined))(
    '$method $path needs a key with the scope $scope',
    async ({ method, path, scope, orScope }) => {
      const none = await ask(method, path, { key: null });
      expect(none.status).toBe(401);
      expect(none.headers.get('www-authenticate')).toContain('Bearer');
      expect((await ask(method, path, { key: 'lapi_unknown' })).status).toBe(401);
      const { key } = await keyWith(scope === 'read' ? 'call' : 'read');
      const forbidden = expect.objectContaining({ status: 403, error: 'forbidden' });
      const expected = orScope === undefined ? forbidden : expect.not.objectContaining({ status: 403 });
      expect((await ask(method, path, { key })).body).toEqual(expected);
    },
  );

  it.each(PATHS.filter(({ scope }) => scope === undefined))('$method $path is open', async ({ method, path }) => {
    expect((await ask(method, path, { key: null })).status).toBe(200);
  });
});

describe('every route', () => {
  it.each([...methodsByPath(ROUTES)].filter(([, methods]) => !methods.includes('ANY')))(
    '%s allows %j and no other method',
    async (path, methods) => {
      const other = ['PATCH', 'PUT'].find((method) => !methods.includes(method)) ?? 'TRACE';
      const answer = await ask(other, path.replace(':code', 'CAM').replace(/:(?:id|name)/, 'key'));
      expect(answer.status).toBe(405);
      expect(answer.headers.get('allow')).toBe(methods.join(', '));
      expect(answer.body).toMatchObject({ error: 'method_not_allowed' });
    },
  );

  it('what does not exist is a problem document, device paths included (S9)', async () => {
    for (const path of ['/', '/v1', '/v1/devices/', '/v2/devices', '/LAPI/V1.0/System/UpServer/Register', '/metrics']) {
      expect((await ask('GET', path)).body).toMatchObject({ status: 404, error: 'not_found', source: 'broker' });
    }
  });

  it("every answer has a request id: the caller's own when it is a safe one, else a new one", async () => {
    const own = await ask('GET', '/v1/devices?limit=0', { headers: { 'X-Request-Id': 'mine-1' } });
    expect(own.headers.get('x-request-id')).toBe('mine-1');
    expect(own.body.requestId).toBe('mine-1');
    const odd = await ask('GET', '/v1/nodes', { headers: { 'X-Request-Id': 'a b"<x>' } });
    expect(odd.headers.get('x-request-id')).toMatch(/^c[0-9a-z]{15}-/);
    const [first, second] = [await ask('GET', '/nope'), await ask('GET', '/nope')];
    expect(first.headers.get('x-request-id')).not.toBe(second.headers.get('x-request-id'));
  });

  it('the document and the page made of it are served, and nothing of an installation is in them', async () => {
    const [a, b, page] = [
      await ask('GET', '/v1/openapi.json', { key: null }),
      await ask('GET', '/openapi.json', { key: null }),
      await ask('GET', '/docs', { key: null }),
    ];
    expect(a.body.openapi).toBe('3.1.0');
    expect(b.text).toBe(a.text);
    expect(page.headers.get('content-security-policy')).toContain("default-src 'none'");
    expect(page.text).toContain('callDevice');
  });

  it('arbitrary requests get an answer of the API and never a defect', async () => {
    await device({ tags: ['fuzz'] });
    const text = fc.oneof(
      fc.string({ unit: 'binary', maxLength: 40 }),
      fc.constantFrom('..', '%', '%00', '%2f', ':', '*', 'CAM', '', 'null', '__proto__'),
    );
    const json = fc.oneof(
      fc.jsonValue().map((value) => JSON.stringify(value)),
      fc.string({ unit: 'binary', maxLength: 60 }),
      fc.constantFrom(
        '{',
        '[[[[',
        '{"mode":"direct","method":"GET","url":"/LAPI/V1.0/X","data":{"a":[1,2',
        '{"secret":null}',
        '"',
        '{"__proto__":1}',
      ),
    );
    const route = fc.constantFrom(...ROUTES.map(({ path }) => path), '/v1/events', '/v1/stream', '/v1/x');
    const request = fc.record({
      route,
      parts: fc.array(text, { minLength: 3, maxLength: 3 }),
      method: fc.constantFrom('GET', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'),
      query: fc.option(text, { nil: undefined }),
      body: fc.option(json, { nil: undefined }),
      header: fc.constantFrom(
        'X-LAPI-Timeout',
        'X-LAPI-Connect-Timeout',
        'X-Request-Id',
        'Idempotency-Key',
        'Last-Event-ID',
      ),
      value: fc.stringMatching(/^[!-~]{0,30}$/),
    });
    await fc.assert(
      fc.asyncProperty(request, async ({ route: pattern, parts, method, query, body, header, value }) => {
        let part = 0;
        const path = pattern.replace(/:\w+|\*/g, () => encodeURIComponent((parts[part++] ?? '').toWellFormed()));
        const url = `${base}${path}${query === undefined ? '' : `?${encodeURI(query.toWellFormed())}`}`;
        const cancel = new AbortController();
        const response = await fetch(url, {
          method,
          headers: { authorization: `Bearer ${ADMIN}`, [header]: value },
          signal: cancel.signal,
          ...(method === 'GET' || body === undefined ? {} : { body }),
        });
        // An event stream does not end by itself.
        if (!(response.headers.get('content-type') ?? '').startsWith('text/event-stream')) await response.text();
        cancel.abort();
        expect([500, 502, 504], `${method} ${url}`).not.toContain(response.status);
        expect(response.headers.get('x-request-id')).toBeTruthy();
      }),
      { numRuns: 300 },
    );
    const metrics = await (await fetch(`http://127.0.0.1:${service.ports().probe}/metrics`)).text();
    expect(metrics).toMatch(/lapi_defects_total\{service="command"\} 0/);
  });

  it('bytes that are not HTTP, and connections that end anywhere, leave the process working', async () => {
    const head = `PUT /v1/devices/CAM/LAPI/V1.0/X HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer ${ADMIN}\r\nContent-Length: 100\r\n\r\n{"a":`;
    const inputs = [
      '\r\n\r\n',
      'GET',
      '\u0000\u0001',
      head,
      head.slice(0, 40),
      `GET /v1/devices HTTP/1.1\r\nHost: x\r\n${'a: b\r\n'.repeat(200)}\r\n`,
    ];
    for (const input of inputs) {
      await new Promise<void>((resolve) => {
        const socket = connectTcp(service.ports().api, '127.0.0.1', () => socket.write(input, () => socket.destroy()));
        socket.on('close', () => resolve());
        socket.on('error', () => resolve());
      });
    }
    expect((await ask('GET', '/readyz')).status).toBe(200);
  });
});

describe('life of the process', () => {
  const started: CommandService[] = [];
  afterEach(async () => {
    for (const each of started.splice(0)) await each.lifecycle.stop();
  });
  const start = async (over: Record<string, string> = {}): Promise<CommandService> => {
    const made = createCommandService(config(over), log);
    started.push(made);
    await made.lifecycle.start();
    return made;
  };

  it('another shard count than the store was set up with is an error at the start', async () => {
    await expect(start({ LAPI_SHARDS: '8' })).rejects.toThrow(/16 shards/);
  });

  it('bodies in progress are bounded together: beyond it 429, and room comes back with each answer', async () => {
    const other = await start({ LAPI_BODIES_BYTES: '131072' });
    const code = await device();
    edge.device = () => undefined;
    const { api, probe } = other.ports();
    const send = async (): Promise<{ status: number; text: string }> => {
      const response = await fetch(`http://127.0.0.1:${api}/v1/devices/${code}/LAPI/V1.0/X`, {
        method: 'PUT',
        headers: { authorization: `Bearer ${ADMIN}` },
        body: `"${'x'.repeat(65_000)}"`,
      });
      return { status: response.status, text: await response.text() };
    };
    const held = [send(), send()];
    await waitFor(() => edge.frames.length === 2, { deadlineMs: 2_000, what: 'both calls at the edge' });
    const third = await send();
    expect(third.status).toBe(429);
    expect(third.text).toContain('rate_limited');
    for (const frame of edge.frames) edge.reply(frame, {});
    expect((await Promise.all(held)).map(({ status }) => status)).toEqual([200, 200]);
    const metrics = await (await fetch(`http://127.0.0.1:${probe}/metrics`)).text();
    expect(metrics).toMatch(/lapi_request_body_bytes\{service="command"\} 0/);
    edge.device = () => ({});
    expect((await send()).status).toBe(200);
  });

  it('a drain lets the calls in progress finish, ends readiness, and takes no new connections', async () => {
    const other = await start();
    const code = await device();
    edge.device = () => undefined;
    const { api, probe } = other.ports();
    const calling = fetch(`http://127.0.0.1:${api}/v1/devices/${code}/${INFO}`, {
      headers: { authorization: `Bearer ${ADMIN}` },
    });
    await waitFor(() => edge.frames.length === 1, { deadlineMs: 2_000, what: 'the call at the edge' });
    const draining = other.lifecycle.drain(10_000);
    await waitFor(async () => (await fetch(`http://127.0.0.1:${probe}/readyz`)).status === 503, {
      deadlineMs: 2_000,
      what: 'readiness to end',
    });
    const [frame] = edge.frames;
    if (frame !== undefined) edge.reply(frame, {});
    expect((await calling).status).toBe(200);
    await draining;
    await expect(fetch(`http://127.0.0.1:${api}/livez`)).rejects.toThrow();
  });

  it('while Redis is away requests are refused at once, readiness says why, and everything comes back by itself', async () => {
    const code = await device();
    await redis.kill('SIGKILL');
    await waitFor(async () => (await ask('GET', '/readyz')).status === 503, {
      deadlineMs: 10_000,
      what: 'readiness to end',
    });
    for (const path of [`/v1/devices/${code}/${INFO}`, '/v1/devices', `/v1/devices/${code}`, '/v1/nodes']) {
      const startedMs = performance.now();
      const answer = await ask('GET', path);
      // The admin key is forgotten after its cache time; either way the answer is that nothing can be said now.
      expect(answer.body).toMatchObject({ status: 503, error: 'broker_unavailable', written: false, retryable: true });
      expect(answer.headers.get('retry-after')).toBe('2');
      expect(performance.now() - startedMs).toBeLessThan(1_000);
    }
    expect((await ask('GET', '/livez')).status).toBe(200);
    await redis.restart();
    await waitFor(async () => (await ask('GET', '/readyz')).status === 200, { deadlineMs: 15_000, what: 'readiness' });
    await waitFor(async () => (await ask('GET', `/v1/devices/${code}/${INFO}`)).status === 200, {
      deadlineMs: 15_000,
      what: 'an answer',
    });
  });
});
