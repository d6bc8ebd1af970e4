/** Webhooks over HTTP on a whole command process and a real Redis: what is accepted, what is refused and why, who may, and what is shown. */

import { randomBytes } from 'node:crypto';
import { RedisEventStream } from '@lapi-broker/bus';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { closeConnection, createKeyspace, openConnection, type RedisConnection, ready } from '@lapi-broker/redis';
import { createLog } from '@lapi-broker/telemetry';
import { Webhook as Judge } from 'standardwebhooks';
import { afterAll, beforeAll, beforeEach, describe, expect, test } from 'vitest';
import { type CommandService, createCommandService } from '../command.ts';
import { readCommandConfig } from '../config.ts';
import { record } from '../testing/event-record.ts';
import { type Verify, WebhookReceiver } from '../testing/webhook-receiver.ts';
import { newSigningSecret } from '../webhook/signature.ts';
import { NewWebhook, WebhookDeliveries, WebhookProgress } from './webhook-schema.ts';

const ADMIN = `admin-${randomBytes(24).toString('base64url')}`;
const PREFIX = 'webhook-test';
const LIMIT = 5;
const keyspace = createKeyspace(PREFIX);
const NOWHERE = '0mk5x3v9qx2m4q8w1z5t';

/** By the library of the Standard Webhooks project. */
const verify: Verify = (secret, text, headers) => void new Judge(secret).verify(text, headers);

let redis: RedisServer;
let state: RedisConnection;
let stream: RedisEventStream;
let service: CommandService;
let receiver: WebhookReceiver;
let reader: string;
let caller: string;

beforeAll(async () => {
  redis = await startRedis();
  receiver = await new WebhookReceiver(verify).start();
  state = openConnection({ url: redis.url, commandTimeoutMs: 2_000 }, 'state');
  await ready(state, 5_000);
  stream = new RedisEventStream({ state, keyspace });
  service = createCommandService(
    readCommandConfig({
      REDIS_URL: redis.url,
      LAPI_KEY_PREFIX: PREFIX,
      LAPI_API_HOST: '127.0.0.1',
      LAPI_API_PORT: '0',
      LAPI_PROBE_PORT: '0',
      LAPI_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'),
      LAPI_API_KEY: ADMIN,
      LAPI_WEBHOOKS: String(LIMIT),
      LAPI_WEBHOOK_ALLOW: '127.0.0.1',
      LAPI_WEBHOOK_ALLOW_HTTP: 'true',
      LAPI_WEBHOOK_PORTS: `${receiver.port},8443`,
    }),
    createLog({ service: 'command', level: 'silent' }),
  );
  await service.lifecycle.start();
  reader = String((await ask('POST', '/v1/keys', { name: 'r', scopes: ['read'] })).body.key);
  caller = String((await ask('POST', '/v1/keys', { name: 'c', scopes: ['call'] })).body.key);
});

afterAll(async () => {
  await service.lifecycle.stop();
  await receiver.stop();
  await stream.stop();
  await closeConnection(state);
  await redis.stop();
});

beforeEach(async () => {
  receiver.received.length = 0;
  for (const { id } of (await ask('GET', '/v1/webhooks')).body.items as { id: string }[]) {
    expect((await ask('DELETE', `/v1/webhooks/${id}`)).status).toBe(204);
  }
});

interface Answer {
  readonly status: number;
  readonly headers: Headers;
  readonly text: string;
  readonly body: Record<string, unknown>;
}

async function ask(method: string, path: string, body?: unknown, key = ADMIN): Promise<Answer> {
  const response = await fetch(`http://127.0.0.1:${service.ports().api}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: JSON.stringify(body) }),
  });
  const text = await response.text();
  return { status: response.status, headers: response.headers, text, body: text === '' ? {} : JSON.parse(text) };
}

async function make(part: Record<string, unknown> = {}): Promise<string> {
  const answer = await ask('POST', '/v1/webhooks', { url: receiver.url, ...part });
  expect(answer, answer.text).toMatchObject({ status: 201 });
  receiver.secret = String(answer.body.secret);
  return String(answer.body.id);
}

test('a webhook is made with its secret, read, listed and deleted, and the secret is shown no more', async () => {
  const asked = { url: receiver.url, name: 'vms', filter: { kinds: ['alarm.*'], tags: [] }, concurrency: 4 };
  const made = await ask('POST', '/v1/webhooks', asked);
  expect(made.status).toBe(201);
  expect(made.headers.get('cache-control')).toBe('no-store');
  const { id, secret, ...view } = NewWebhook.parse(made.body);
  const path = `/v1/webhooks/${id}`;
  expect(made.headers.get('location')).toBe(path);
  expect(secret).toMatch(/^whsec_/);
  expect(view).toMatchObject({
    url: receiver.url,
    name: 'vms',
    filter: { kinds: ['alarm.*'] },
    ordered: true,
    concurrency: 4,
    batch: { max: 1 },
    timeoutSeconds: 10,
    maxAttempts: 20,
    state: 'active',
    failures: 0,
  });
  const read = await ask('GET', path, undefined, reader);
  expect(WebhookProgress.parse(read.body)).toMatchObject({ id, ...view, progress: { lag: 0, deadLetters: 0 } });
  const listed = await ask('GET', '/v1/webhooks', undefined, reader);
  expect(listed.body).toEqual({ items: [{ id, ...view }] });
  for (const { text } of [read, listed]) expect(text).not.toContain('whsec_');
  expect((await ask('DELETE', path)).status).toBe(204);
  for (const method of ['GET', 'DELETE']) expect((await ask(method, path)).body.code).toBe('not_found');
});

test('a secret of the caller is taken, and a weak one is not', async () => {
  const secret = newSigningSecret();
  expect((await ask('POST', '/v1/webhooks', { url: receiver.url, secret })).body.secret).toBe(secret);
  const weak = await ask('POST', '/v1/webhooks', { url: receiver.url, secret: 'whsec_c2hvcnQ=' });
  expect(weak.body).toMatchObject({ code: 'invalid_request', errors: [{ path: 'body.secret' }] });
});

describe('refused', () => {
  test.each([
    ['a private address', 'https://10.0.0.1/'],
    ['the metadata service', 'http://169.254.169.254/latest/meta-data'],
    ['loopback in another form', 'https://0x7f000002/'],
    ['loopback in IPv6', 'https://[::1]/'],
    ['a port that is not listed', 'https://vms.example.com:22/'],
    ['credentials', 'https://user:secret@vms.example.com/'],
    ['another scheme', 'ftp://vms.example.com/'],
    ['no URL', 'vms.example.com'],
  ])('%s as URL', async (_, url) => {
    const answer = await ask('POST', '/v1/webhooks', { url });
    expect(answer.body).toMatchObject({ code: 'invalid_request', errors: [{ path: 'body.url' }] });
    const id = await make();
    expect((await ask('PATCH', `/v1/webhooks/${id}`, { url })).body).toMatchObject({ errors: [{ path: 'body.url' }] });
  });

  test.each([
    ['concurrency', { concurrency: 17 }],
    ['batch.max', { batch: { max: 101 } }],
    ['batch', { batch: { max: 1, linger: 5 } }],
    ['timeoutSeconds', { timeoutSeconds: 31 }],
    ['maxAttempts', { maxAttempts: 101 }],
    ['from', { from: 'yesterday' }],
    ['filter', { filter: { devices: ['no spaces'] } }],
    ['name', { name: 'two\nlines' }],
  ])('%s out of its range', async (path, part) => {
    const answer = await ask('POST', '/v1/webhooks', { url: receiver.url, ...part });
    expect(answer.body).toMatchObject({ code: 'invalid_request', errors: [{ path: `body.${path}` }] });
  });

  test('an unknown member, and a change of what cannot change', async () => {
    expect((await ask('POST', '/v1/webhooks', { url: receiver.url, retries: 3 })).body.code).toBe('invalid_request');
    const id = await make();
    for (const part of [{ ordered: false }, { secret: newSigningSecret() }, { from: 'start' }]) {
      expect((await ask('PATCH', `/v1/webhooks/${id}`, part)).body.code).toBe('invalid_request');
    }
  });

  test('one more than there may be', async () => {
    for (let i = 0; i < LIMIT; i++) await make();
    expect((await ask('POST', '/v1/webhooks', { url: receiver.url })).body).toMatchObject({ code: 'rate_limited' });
  });

  test('whoever is no admin, for all that changes something; and for looking who may not read', async () => {
    const id = await make();
    const path = `/v1/webhooks/${id}`;
    const changes = [
      ['POST', '/v1/webhooks'],
      ['PATCH', path],
      ['DELETE', path],
      ...['enable', 'disable', 'rotate-secret', 'test', 'dead-letters/replay', 'dead-letters/discard'].map(
        (verb) => ['POST', `${path}/${verb}`] as const,
      ),
    ] as const;
    for (const [method, at] of changes) {
      for (const key of [reader, caller]) {
        const body = method === 'DELETE' ? undefined : { url: receiver.url };
        expect([at, (await ask(method, at, body, key)).body.code]).toEqual([at, 'forbidden']);
      }
    }
    for (const at of ['/v1/webhooks', path, `${path}/deliveries`, `${path}/dead-letters`]) {
      expect((await ask('GET', at, undefined, reader)).status).toBe(200);
      expect((await ask('GET', at, undefined, caller)).status).toBe(403);
    }
  });

  test('every route of a webhook that is not there', async () => {
    const path = `/v1/webhooks/${NOWHERE}`;
    for (const at of [path, `${path}/deliveries`, `${path}/dead-letters`])
      expect((await ask('GET', at)).status).toBe(404);
    expect((await ask('PATCH', path, { name: 'x' })).status).toBe(404);
    for (const verb of ['enable', 'disable', 'rotate-secret', 'test', 'dead-letters/replay', 'dead-letters/discard']) {
      expect([verb, (await ask('POST', `${path}/${verb}`)).status]).toEqual([verb, 404]);
    }
    expect((await ask('GET', '/v1/webhooks/UP')).body.code).toBe('invalid_request');
  });
});

test('a change keeps what it does not name, also when two come at once', async () => {
  const id = await make({ filter: { kinds: ['alarm.*'] }, maxAttempts: 7 });
  const path = `/v1/webhooks/${id}`;
  const changes = [{ name: 'a' }, { concurrency: 3 }, { batch: { max: 9 } }, { timeoutSeconds: 5 }];
  for (const { status } of await Promise.all(changes.map((change) => ask('PATCH', path, change)))) {
    expect(status).toBe(200);
  }
  expect((await ask('GET', path)).body).toMatchObject({
    name: 'a',
    concurrency: 3,
    batch: { max: 9 },
    timeoutSeconds: 5,
    filter: { kinds: ['alarm.*'] },
    maxAttempts: 7,
  });
});

test('a test is sent now, whatever the state, and what came of it is answered and logged', async () => {
  const id = await make({ filter: { kinds: ['nothing'] } });
  const path = `/v1/webhooks/${id}`;
  expect((await ask('POST', `${path}/disable`)).body).toMatchObject({
    state: 'disabled',
    disabled: { reason: 'asked' },
  });
  expect((await ask('POST', `${path}/test`)).body).toMatchObject({ status: 204, durationMs: expect.any(Number) });
  expect(receiver.received.map(({ type }) => type)).toEqual(['webhook.test']);
  expect(receiver.unverified).toEqual([]);
  receiver.answer = (_, response) => {
    response.writeHead(500).end('a secret of the receiver');
    return undefined;
  };
  const failed = await ask('POST', `${path}/test`);
  expect(failed.body).toMatchObject({ status: 500 });
  expect(failed.text).not.toContain('secret');
  receiver.answer = (_, response) => {
    response.destroy();
    return undefined;
  };
  expect((await ask('POST', `${path}/test`)).body).toMatchObject({ error: 'closed' });
  receiver.answer = () => 204;
  const { items } = WebhookDeliveries.parse((await ask('GET', `${path}/deliveries`)).body);
  expect(items.map(({ type, status, error }) => [type, status ?? error])).toEqual([
    ['webhook.test', 'closed'],
    ['webhook.test', 500],
    ['webhook.test', 204],
  ]);
  // It counts for nothing.
  expect((await ask('GET', path)).body).toMatchObject({ failures: 0, state: 'disabled' });
  expect((await ask('POST', `${path}/enable`)).body).toMatchObject({ state: 'active' });
});

test('an event that is stored reaches the receiver, and the log says so', async () => {
  const id = await make();
  const event = await stream.append(record({ data: Buffer.from('{"n":9007199254740993}') }));
  expect(event).toBeDefined();
  const alarm = await waitFor(() => receiver.received.find(({ text }) => text.includes('9007199254740993')), {
    deadlineMs: 15_000,
    what: 'the event',
  });
  expect(alarm.events[0]).toMatchObject({ code: 'cam-1', kind: 'alarm.MotionAlarmOn' });
  const [line] = await waitFor(
    async () => {
      const { items } = WebhookDeliveries.parse((await ask('GET', `/v1/webhooks/${id}/deliveries`)).body);
      return items.length > 0 ? items : undefined;
    },
    { deadlineMs: 15_000, what: 'a line of the log' },
  );
  expect(line).toMatchObject({
    status: 204,
    message: alarm.message,
    events: [alarm.events[0]?.id],
    count: 1,
    attempt: 1,
  });
  expect(receiver.unverified).toEqual([]);
});

test('a rotated secret is new, or the one that was given', async () => {
  const id = await make();
  const path = `/v1/webhooks/${id}/rotate-secret`;
  const rotated = await ask('POST', path);
  expect(rotated.body.secret).toMatch(/^whsec_/);
  expect(rotated.body.secret).not.toBe(receiver.secret);
  expect(rotated.headers.get('cache-control')).toBe('no-store');
  const hours = (Date.parse(String(rotated.body.previousSignsUntil)) - Date.now()) / 3_600_000;
  expect(hours).toBeGreaterThan(23.9);
  expect(hours).toBeLessThan(24.1);
  const secret = newSigningSecret();
  expect((await ask('POST', path, { secret, overlapSeconds: 0 })).body.secret).toBe(secret);
});
