/** The platform API as a platform meets it, over two command services: provisioning, listing, keys and scopes, guarded paths, problem
 *  documents, secrets that never come back, the document of the API itself. */

import { randomBytes } from 'node:crypto';
import { type ApiAnswer, type ApiRequest, type Broker, redisCommand, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEVICE_INFO, Device, newCode } from './device.ts';
import { EventReader } from './event-reader.ts';
import { PlatformSocket } from './platform-socket.ts';
import { type Setting, startSetting, staysTrue } from './setting.ts';
import { nonceOf, REGISTER, registerQuery, Wire } from './wire.ts';

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({ commands: 2 });
  broker = setting.broker;
});
afterAll(() => setting.stop());

const newSecret = (): string => randomBytes(24).toString('base64url');
const pathOf = (code: string): string => `/v1/devices/${code}`;

async function newKey(...scopes: string[]): Promise<{ id: string; key: string }> {
  const answer = await broker.api('/v1/keys', { method: 'POST', body: { name: `e2e ${scopes.join('+')}`, scopes } });
  expect(answer.status).toBe(201);
  return answer.json() as { id: string; key: string };
}

/** Reads from the oldest event, so that there is something to pull. */
async function newSubscription(): Promise<string> {
  const name = `e2e-${randomBytes(6).toString('hex')}`;
  const answer = await broker.api('/v1/subscriptions', { method: 'POST', body: { name, from: 'start' } });
  expect(answer.status).toBe(201);
  return name;
}

/** To a name that nobody has. */
async function newWebhook(): Promise<{ id: string }> {
  const answer = await broker.api('/v1/webhooks', { method: 'POST', body: { url: 'https://receiver.invalid/events' } });
  expect(answer.status).toBe(201);
  return answer.json() as { id: string };
}

const as = (key: string, request: ApiRequest = {}): ApiRequest => ({
  ...request,
  headers: { authorization: `Bearer ${key}`, ...request.headers },
});

/** RFC 9457, with the members of protocol 13.3. */
function expectProblem(answer: ApiAnswer, status: number, code: string): Record<string, unknown> {
  expect(answer.headers.get('content-type')).toBe('application/problem+json');
  const problem = answer.json();
  expect({ answered: answer.status, ...problem }).toMatchObject({
    answered: status,
    type: `urn:lapi-broker:error:${code}`,
    title: expect.stringMatching(/\S/),
    status,
    detail: expect.stringMatching(/\S/),
    code,
    error: code,
    source: 'broker',
    retryable: expect.any(Boolean),
    written: false,
    cause: expect.stringMatching(/\S/),
    remedy: expect.stringMatching(/\S/),
    requestId: answer.headers.get('x-request-id'),
  });
  return problem;
}

/** Does this device get its 101 with this secret? */
async function registers(code: string, secret: string, edge = 0): Promise<boolean> {
  const wire = await Wire.connect(broker.edgeUrl(edge));
  try {
    const nonce = nonceOf(await wire.get(REGISTER));
    return (await wire.get(`${REGISTER}?${registerQuery({ code, secret }, nonce)}`)).status === 101;
  } finally {
    wire.destroy();
  }
}

describe.concurrent('provisioning', () => {
  test('a device is created, changed member by member, read on any service, and removed', async () => {
    const code = newCode();
    const path = pathOf(code);
    expectProblem(await broker.api(path), 404, 'device_unknown');
    const created = await broker.api(path, { method: 'PUT', body: { secret: newSecret() } });
    expect(created.status).toBe(201);
    const { revision } = created.json();
    expect(created.json()).toEqual({ code, status: 'created', revision: expect.any(Number) });
    expect((await broker.api(path, { service: 1 })).json()).toEqual({
      code,
      online: false,
      vendor: '',
      deviceType: '',
      address: '',
      type: '',
      profile: 'default',
      tags: [],
      firmware: '',
      enabled: true,
      hasNextSecret: false,
      revision,
      createdAt: expect.stringMatching(/Z$/),
      updatedAt: expect.stringMatching(/Z$/),
    });

    const body = {
      profile: 'nvr',
      type: 'nvr',
      tags: ['site-7', 'hall b', 'site-7b'],
      firmware: 'B3',
      nextSecret: newSecret(),
    };
    const changed = await broker.api(path, { method: 'PUT', body, service: 1 });
    expect(changed.status).toBe(200);
    expect(changed.json()).toMatchObject({ status: 'updated' });
    expect(changed.json().revision).toBeGreaterThan(revision as number);
    await broker.api(path, { method: 'PUT', body: { enabled: false } });
    expect((await broker.api(path)).json()).toMatchObject({
      profile: 'nvr',
      type: 'nvr',
      tags: ['hall b', 'site-7', 'site-7b'],
      firmware: 'B3',
      enabled: false,
      hasNextSecret: true,
    });
    await broker.api(path, { method: 'PUT', body: { nextSecret: null, tags: [] } });
    expect((await broker.api(path)).json()).toMatchObject({ tags: [], hasNextSecret: false });

    const removed = await broker.api(path, { method: 'DELETE' });
    expect(removed.status).toBe(204);
    expect(removed.text).toBe('');
    expectProblem(await broker.api(path, { service: 1 }), 404, 'device_unknown');
    expectProblem(await broker.api(path, { method: 'DELETE' }), 404, 'device_unknown');
    expectProblem(await broker.api(path, { method: 'PUT', body: { tags: ['x'] } }), 400, 'invalid_request');
  });

  test.each<[string, unknown, string]>([
    ['no secret for a new device', {}, 'body.secret'],
    ['an empty secret', { secret: '' }, 'body.secret'],
    ['a short secret', { secret: 'k9!Zr7_pQ2w' }, 'body.secret'],
    ['a secret that everybody tries', { secret: '123456789012' }, 'body.secret'],
    ['a weak next secret', { secret: newSecret(), nextSecret: 'aaaaaaaaaaaaaaaa' }, 'body.nextSecret'],
    ['an unknown profile', { secret: newSecret(), profile: 'nobody' }, 'body.profile'],
    ['an unknown member', { secret: newSecret(), owner: 'me' }, 'body'],
    ['a wrong type', { secret: newSecret(), enabled: 'yes' }, 'body.enabled'],
    ['a tag with a comma', { secret: newSecret(), tags: ['a,b'] }, 'body.tags.0'],
    ['a tag twice', { secret: newSecret(), tags: ['a', 'a'] }, 'body.tags'],
    ['too many tags', { secret: newSecret(), tags: Array.from({ length: 33 }, (_, i) => `t${i}`) }, 'body.tags'],
    ['no object', [1], 'body'],
  ])('PUT with %s is refused with the place of the fault, and provisions nothing', async (_what, body, place) => {
    const code = newCode();
    const problem = expectProblem(await broker.api(pathOf(code), { method: 'PUT', body }), 400, 'invalid_request');
    expect((problem.errors as { path: string }[]).map(({ path }) => path)).toContain(place);
    expectProblem(await broker.api(pathOf(code)), 404, 'device_unknown');
  });

  test('a DeviceCode outside its alphabet is refused, and one with all of it works', async () => {
    for (const code of ['a b', 'a%2Fb', 'ü', 'x'.repeat(65)]) {
      const answer = await broker.api(pathOf(encodeURI(code)), { method: 'PUT', body: { secret: newSecret() } });
      expectProblem(answer, 400, 'invalid_request');
    }
    const code = `A.z_9:-${randomBytes(4).toString('hex')}`;
    const device = await Device.online(broker, { code, settings: { profile: 'quiet' } });
    device.answering();
    expect((await broker.api(`${pathOf(code)}${DEVICE_INFO}`)).status).toBe(200);
    expect((await broker.api(pathOf(code))).json()).toMatchObject({ code, online: true });
  });

  test('no answer of any kind ever holds a secret, and the store holds it sealed (S3)', async () => {
    const [secret, next, changed] = [newSecret(), newSecret(), newSecret()];
    const code = newCode();
    const path = pathOf(code);
    const answers: ApiAnswer[] = [];
    const ask = async (at: string, request?: ApiRequest): Promise<void> => {
      answers.push(await broker.api(at, request));
    };
    await ask(path, { method: 'PUT', body: { secret, nextSecret: next } });
    await ask(path);
    await ask('/v1/devices?limit=1000');
    const reader = await EventReader.open(broker, `device=${code}`);
    expect(await registers(code, next)).toBe(true);
    await broker.untilOnline(code, false);
    await ask(`${path}/secret/promote`, { method: 'POST' });
    await ask(path, { method: 'PUT', body: { secret: changed } });
    await ask(path, { method: 'PUT', body: { secret, surplus: next } });
    await ask(path, { method: 'PUT', body: { secret: [secret] } });
    await ask(path, { method: 'PUT', rawBody: `{"secret":"${secret}",` });
    await ask(path, { method: 'PUT', body: { secret: `${secret}${'x'.repeat(300)}` } });
    await ask(`${path}/disconnect`, { method: 'POST' });
    await ask('/v1/nodes');
    await ask('/v1/keys');
    expect(answers.map(({ status }) => status)).toEqual([201, 200, 200, 200, 200, 400, 400, 400, 400, 409, 200, 200]);
    const told = [...answers.map(({ text }) => text), ...reader.events.map(({ text }) => text)].join('\n');
    expect(reader.events.length).toBeGreaterThan(0);
    for (const plain of [secret, next, changed, broker.apiKey]) expect(told).not.toContain(plain);

    const port = Number(new URL(broker.redisUrl).port);
    const keys = (await redisCommand(port, 'KEYS', `${broker.keyPrefix}:*${code}*`)) as string[];
    expect(keys.some((key) => key.includes(':secret:'))).toBe(true);
    for (const key of keys) {
      if ((await redisCommand(port, 'TYPE', key)) !== 'hash') continue;
      const stored = JSON.stringify(await redisCommand(port, 'HGETALL', key));
      for (const plain of [secret, next, changed]) expect(stored).not.toContain(plain);
    }
  });

  test('dropping the secret of a session closes it with 1008; a session on the other secret stays (G7)', async () => {
    const [first, second, third] = [newSecret(), newSecret(), newSecret()];
    const device = await Device.online(broker, { settings: { profile: 'quiet', secret: first } });
    const path = pathOf(device.code);
    const { epoch } = await broker.untilOnline(device.code);
    await broker.api(path, { method: 'PUT', body: { nextSecret: second } });
    await broker.api(path, { method: 'PUT', body: { tags: ['moved'] } });
    await staysTrue(() => !device.wire.closed, 500, 'a session whose secret is active');
    expect(await broker.untilOnline(device.code)).toMatchObject({ epoch, tags: ['moved'] });
    // Rotation: the session signed with the secret that goes.
    expect((await broker.api(`${path}/secret/promote`, { method: 'POST', service: 1 })).status).toBe(200);
    await device.wire.untilClosed(3_000);
    expect(device.wire.closeCode).toBe(1008);
    expect((await broker.untilOnline(device.code, false)).lastOffline).toMatchObject({ reason: 'revoked' });
    expect(await registers(device.code, first)).toBe(false);
    expect(await registers(device.code, second, 1)).toBe(true);
    expectProblem(await broker.api(`${path}/secret/promote`, { method: 'POST' }), 409, 'conflict');
    await broker.api(path, { method: 'PUT', body: { secret: third } });
    expect(await registers(device.code, second, 1)).toBe(false);
    expect(await registers(device.code, third)).toBe(true);
  });

  test.each<[string, (path: string) => Promise<ApiAnswer>]>([
    ['disabling', (path) => broker.api(path, { method: 'PUT', body: { enabled: false } })],
    ['removing', (path) => broker.api(path, { method: 'DELETE', service: 1 })],
  ])('%s a device closes its session with 1008 and keeps it out', async (_how, end) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    await broker.untilOnline(device.code);
    const reader = await EventReader.open(broker, `device=${device.code}`);
    expect((await end(pathOf(device.code))).status).toBeLessThan(300);
    await device.wire.untilClosed(3_000);
    expect(device.wire.closeCode).toBe(1008);
    expect((await reader.presence(device.code, 'offline')).data).toMatchObject({ reason: 'revoked' });
    expect(await registers(device.code, device.identity.secret)).toBe(false);
  });

  test('disconnect ends the session once; the device may come back', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: 1 });
    await broker.untilOnline(device.code);
    const path = `${pathOf(device.code)}/disconnect`;
    expect((await broker.api(path, { method: 'POST' })).status).toBe(202);
    await device.wire.untilClosed(3_000);
    expect(device.wire.closeCode).toBe(1000);
    expect((await broker.untilOnline(device.code, false)).lastOffline).toMatchObject({ reason: 'disconnected' });
    expectProblem(await broker.api(path, { method: 'POST' }), 409, 'conflict');
    expectProblem(await broker.api(`${pathOf(newCode())}/disconnect`, { method: 'POST' }), 404, 'device_unknown');
    await device.register(0);
    await broker.untilOnline(device.code);
  });
});

function inByteOrder(codes: readonly string[]): string[] {
  return [...codes].sort((a, b) => Buffer.compare(Buffer.from(a), Buffer.from(b)));
}

test('a listing walks 50 devices page by page in byte order, each once, under every filter', async () => {
  const tag = `fleet-${randomBytes(4).toString('hex')}`;
  const codes = inByteOrder(Array.from({ length: 50 }, newCode));
  const devices = await Promise.all(
    codes.map((code, i) =>
      Device.provisioned(broker, {
        code,
        settings: { tags: i % 2 === 0 ? [tag, `${tag}-even`] : [tag], type: i < 20 ? tag : 'other', profile: 'quiet' },
      }),
    ),
  );
  const online = devices.filter((_device, i) => i % 5 === 0);
  await Promise.all(online.map((device, i) => device.register(i % 2)));

  const walk = async (query: string): Promise<{ codes: string[]; pages: number[] }> => {
    const found: string[] = [];
    const pages: number[] = [];
    for (let cursor = ''; pages.length < 100; ) {
      const answer = await broker.api(`/v1/devices?${query}${cursor}`, { service: pages.length % 2 });
      expect(answer.status).toBe(200);
      const page = answer.json() as { items: { code: string }[]; cursor?: string };
      found.push(...page.items.map(({ code }) => code));
      pages.push(page.items.length);
      if (page.cursor === undefined) return { codes: found, pages };
      cursor = `&cursor=${page.cursor}`;
    }
    throw new Error('the listing has no end');
  };
  const all = await walk(`tag=${tag}&limit=7`);
  expect(all.codes).toEqual(codes);
  expect(all.pages.slice(0, 7)).toEqual([7, 7, 7, 7, 7, 7, 7]);
  expect((await walk(`tag=${tag}&limit=1`)).codes).toEqual(codes);
  expect((await walk(`tag=${tag}`)).codes).toEqual(codes);
  expect((await walk(`type=${tag}&limit=6`)).codes).toEqual(codes.slice(0, 20));
  expect((await walk(`tag=${tag}-even&type=${tag}&limit=3`)).codes).toEqual(
    codes.slice(0, 20).filter((_c, i) => i % 2 === 0),
  );
  const onlineCodes = online.map(({ code }) => code);
  expect((await walk(`tag=${tag}&online=true&limit=4`)).codes).toEqual(onlineCodes);
  expect((await walk(`tag=${tag}&online=false&limit=9`)).codes).toEqual(
    codes.filter((code) => !onlineCodes.includes(code)),
  );
  expect((await walk(`tag=${tag}&node=edge-1&limit=2`)).codes).toEqual(onlineCodes.filter((_c, i) => i % 2 === 0));
  const { node } = (await broker.api(pathOf(onlineCodes[1] as string))).json();
  expect((await walk(`tag=${tag}&node=${node}&limit=2`)).codes).toEqual(onlineCodes.filter((_c, i) => i % 2 === 1));
  const everyone = (await walk('limit=13')).codes;
  expect(everyone).toEqual(inByteOrder(everyone));
  expect(everyone.filter((code) => codes.includes(code))).toEqual(codes);

  for (const bad of [
    'limit=0',
    'limit=1001',
    'limit=x',
    'cursor=nonsense',
    'online=maybe',
    'colour=red',
    'limit=1&limit=2',
  ]) {
    expectProblem(await broker.api(`/v1/devices?${bad}`), 400, 'invalid_request');
  }

  // What the rows say agrees with what the nodes say.
  const nodes = await waitFor(
    async () => {
      const items = (await broker.api('/v1/nodes')).json().items as Record<string, unknown>[];
      const sessions = items.reduce((sum, { sessions: count }) => sum + Number(count), 0);
      return sessions >= online.length ? items : undefined;
    },
    { deadlineMs: 5_000, what: 'the load of the nodes' },
  );
  expect(nodes).toHaveLength(2);
  for (const item of nodes) {
    expect(item).toMatchObject({
      node: expect.stringMatching(/^edge-[12]\.[a-z0-9]+$/),
      name: expect.stringMatching(/^edge-[12]$/),
      phase: 'serving',
      version: expect.any(String),
      startedAt: expect.stringMatching(/Z$/),
      lastBeatAt: expect.stringMatching(/Z$/),
    });
    expect(Date.now() - Date.parse(item.lastBeatAt as string)).toBeLessThan(6_000);
  }
});

describe.concurrent('keys and scopes', () => {
  test('read reads, call calls, admin does everything, and each lacks the rest', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    const path = pathOf(device.code);
    const [read, call, admin] = await Promise.all([newKey('read'), newKey('call'), newKey('admin')]);
    const spare = newCode();
    const rows: readonly (readonly [string, ApiRequest, string])[] = [
      ['/v1/devices', {}, 'read'],
      [path, {}, 'read'],
      ['/v1/nodes', {}, 'read'],
      [`${path}${DEVICE_INFO}`, {}, 'call'],
      [`${path}/LAPI/V1.0/Channels/1/PTZ/PTZCtrl`, { method: 'PUT', body: {} }, 'call'],
      [`${path}/commands`, { method: 'POST', body: { method: 'GET', url: DEVICE_INFO } }, 'call'],
      [pathOf(spare), { method: 'PUT', body: { secret: newSecret() } }, 'admin'],
      [pathOf(spare), { method: 'DELETE' }, 'admin'],
      [`${path}/secret/promote`, { method: 'POST' }, 'admin'],
      ['/v1/keys', {}, 'admin'],
      ['/v1/keys', { method: 'POST', body: { name: 'x', scopes: ['read'] } }, 'admin'],
      ['/v1/keys/nobody', { method: 'DELETE' }, 'admin'],
      [`${path}/disconnect`, { method: 'POST' }, 'admin'],
    ];
    for (const [at, request, scope] of rows) {
      for (const [name, { key }] of Object.entries({ read, call, admin })) {
        const answer = await broker.api(at, as(key, { ...request, service: 1 }));
        if (name === scope || name === 'admin') expect([401, 403]).not.toContain(answer.status);
        else expect(expectProblem(answer, 403, 'forbidden').detail).toContain(`"${scope}"`);
      }
    }
  });

  test('without a key, with a wrong one, or with one in the URL there is nothing but 401', async () => {
    const { key } = await newKey('admin');
    for (const headers of [
      { authorization: '' },
      { authorization: `Bearer ${key}x` },
      { authorization: `Basic ${key}` },
    ]) {
      for (const at of ['/v1/devices', '/v1/events', `/v1/devices?key=${key}`, `${pathOf(newCode())}${DEVICE_INFO}`]) {
        const answer = await broker.api(at, { headers });
        expectProblem(answer, 401, 'unauthenticated');
        expect(answer.headers.get('www-authenticate')).toContain('Bearer');
      }
    }
    await expect(PlatformSocket.open(broker, 0, 'nobody')).rejects.toThrow('401');
  });

  test('a key is shown once, listed without itself, and revoked on all services within 5 s', async () => {
    const { id, key } = await newKey('read', 'call');
    expect(key.length).toBeGreaterThan(32);
    const listed = await broker.api('/v1/keys', { service: 1 });
    expect(listed.text).not.toContain(key);
    expect((listed.json().items as { id: string }[]).find((item) => item.id === id)).toEqual({
      id,
      name: 'e2e read+call',
      scopes: ['read', 'call'],
      createdAt: expect.stringMatching(/Z$/),
    });
    for (const service of [0, 1]) expect((await broker.api('/v1/devices', as(key, { service }))).status).toBe(200);
    expect((await broker.api(`/v1/keys/${id}`, { method: 'DELETE' })).status).toBe(204);
    expectProblem(await broker.api('/v1/devices', as(key)), 401, 'unauthenticated');
    await waitFor(async () => (await broker.api('/v1/devices', as(key, { service: 1 }))).status === 401, {
      deadlineMs: 6_000,
      what: 'the other service to forget the key',
    });
    expectProblem(await broker.api(`/v1/keys/${id}`, { method: 'DELETE' }), 404, 'not_found');
  });

  test.each([
    [{ name: '', scopes: ['read'] }],
    [{ name: 'x', scopes: [] }],
    [{ name: 'x', scopes: ['root'] }],
    [{ name: 'x', scopes: ['read'], key: 'mine' }],
    [{ scopes: ['read'] }],
  ])('a key like %j is refused', async (body) => {
    expectProblem(await broker.api('/v1/keys', { method: 'POST', body }), 400, 'invalid_request');
  });

  test.each([
    '/LAPI/V1.0/System/Users',
    '/LAPI/V1.0/System/Users/1',
    '/LAPI/V1.0/System/Security/RSA',
    '/LAPI/V1.0/System/Upgrade',
    '/LAPI/V1.0/System/Reboot',
    '/LAPI/V1.0/system/reboot',
    '/LAPI/V1.0/System/Reb%6Fot',
    '/LAPI/V1.0/System/UpServer/Configure',
    '/LAPI/V1.0/PACS/Controller/RemoteOpened',
    '/LAPI/V1.0/Channels/1/System/Reboot',
  ])('S13: %s needs the scope admin in all three forms of a call', async (url) => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    device.answering();
    const { key } = await newKey('read', 'call');
    const passed = as(key, { method: 'PUT', body: {} });
    expectProblem(await broker.api(`${pathOf(device.code)}${url}`, passed), 403, 'forbidden_by_policy');
    const enveloped = as(key, { method: 'POST', body: { method: 'PUT', url, data: {} } });
    expectProblem(await broker.api(`${pathOf(device.code)}/commands`, enveloped), 403, 'forbidden_by_policy');
    const socket = await PlatformSocket.open(broker, 1, key);
    socket.send({ type: 'command', id: 'c', code: device.code, method: 'PUT', url });
    const reply = await socket.until(({ type }) => type === 'reply', 'the reply');
    expect(reply).toMatchObject({
      status: 403,
      source: 'broker',
      executed: 'no',
      problem: { code: 'forbidden_by_policy' },
    });
    expect(device.calls).toEqual([]);
    const granted = await broker.api(`${pathOf(device.code)}${url}`, { method: 'PUT', body: {} });
    expect(granted.status).toBe(200);
    expect(device.calls).toHaveLength(1);
  });
});

describe.concurrent('problems', () => {
  test('each has the one shape, and the request id of the caller where it gave one', async () => {
    const mine = { headers: { 'x-request-id': 'my-request.1' } };
    const problem = expectProblem(await broker.api('/v1/devices?limit=0', mine), 400, 'invalid_request');
    expect(problem.requestId).toBe('my-request.1');
    expectProblem(await broker.api('/v1/nothing'), 404, 'not_found');
    expectProblem(await broker.api('/'), 404, 'not_found');
    // S9: device paths do not exist here.
    expectProblem(await broker.api(REGISTER), 404, 'not_found');
    for (const [path, method, allowed] of [
      ['/v1/devices', 'DELETE', 'GET'],
      ['/v1/nodes', 'POST', 'GET'],
      ['/v1/events', 'POST', 'GET'],
      [`${pathOf(newCode())}/commands`, 'PUT', 'POST'],
      ['/v1/jobs', 'PUT', 'POST'],
    ] as const) {
      const answer = await broker.api(path, { method });
      expectProblem(answer, 405, 'method_not_allowed');
      expect(answer.headers.get('allow')).toContain(allowed);
    }
    const large = { method: 'PUT', body: { secret: newSecret(), tags: ['x'.repeat(300_000)] } };
    expectProblem(await broker.api(pathOf(newCode()), large), 413, 'request_too_large');
    const deep = { method: 'PUT', rawBody: `${'['.repeat(100)}${']'.repeat(100)}` };
    expectProblem(await broker.api(pathOf(newCode()), deep), 400, 'invalid_request');
  });

  test('the events endpoint refuses what it does not understand', async () => {
    for (const query of [
      'from=yesterday',
      'from=2099-01-01T00:00:00Z',
      'device=a%20b',
      'kind=a*b*c*d*e*f',
      'colour=red',
      'from=now&from=now',
    ]) {
      expectProblem(await broker.api(`/v1/events?${query}`), 400, 'invalid_request');
    }
    expectProblem(await broker.api('/v1/events', { headers: { 'last-event-id': 'x' } }), 400, 'invalid_request');
    expectProblem(await broker.api('/v1/stream'), 400, 'invalid_request');
  });
});

interface OpenApi {
  readonly openapi: string;
  readonly paths: Readonly<Record<string, Readonly<Record<string, OpenApiOperation>>>>;
  readonly components: Readonly<Record<string, Readonly<Record<string, unknown>>>>;
}

interface OpenApiOperation {
  readonly operationId: string;
  readonly responses: Readonly<Record<string, unknown>>;
  readonly requestBody?: { readonly content: Readonly<Record<string, { readonly example?: unknown }>> };
}

describe('the document', () => {
  test('is one and the same on both paths and services, and holds together', async () => {
    const answers = await Promise.all(
      ['/openapi.json', '/v1/openapi.json'].flatMap((path) =>
        [0, 1].map((service) => broker.api(path, { service, headers: { authorization: '' } })),
      ),
    );
    expect(new Set(answers.map(({ text }) => text)).size).toBe(1);
    const document = answers[0]?.json() as unknown as OpenApi;
    expect(document.openapi).toMatch(/^3\.1\./);
    const operations = Object.values(document.paths).flatMap((item) => Object.values(item));
    expect(new Set(operations.map(({ operationId }) => operationId)).size).toBe(operations.length);
    for (const { responses } of operations) expect(Object.keys(responses).length).toBeGreaterThan(0);
    const references = [...(answers[0]?.text ?? '').matchAll(/"\$ref":"#\/components\/([^/"]+)\/([^"]+)"/g)];
    expect(references.length).toBeGreaterThan(20);
    for (const [, family = '', name = ''] of references) expect(document.components[family]).toHaveProperty([name]);
    const page = await broker.api('/docs', { headers: { authorization: '' } });
    expect(page.headers.get('content-type')).toContain('text/html');
    for (const { operationId } of operations) expect(page.text.includes(`id="${operationId}"`), operationId).toBe(true);
  });

  test('documents only what exists: every path and method answers something other than 404 and 405, with a documented status', async () => {
    const document = (await broker.api('/openapi.json')).json() as unknown as OpenApi;
    const seen: string[] = [];
    for (const [path, item] of Object.entries(document.paths)) {
      for (const [method, { responses, requestBody }] of Object.entries(item)) {
        const device = await Device.provisioned(broker);
        const { id } = path.startsWith('/v1/webhooks/{id}') ? await newWebhook() : await newKey('read');
        const filled = path
          .replace('{code}', device.code)
          .replace('{node}', 'edge-2')
          .replace('{path}', 'V1.0/System/DeviceInfo')
          .replace('{id}', id)
          .replace('{name}', path.includes('{name}') ? await newSubscription() : '');
        expect(filled).not.toContain('{');
        const example = requestBody?.content['application/json']?.example;
        const leaving = new AbortController();
        const response = await fetch(`${broker.commands[0]?.url}${filled}`, {
          method: method.toUpperCase(),
          signal: leaving.signal,
          headers: {
            authorization: `Bearer ${broker.apiKey}`,
            ...(example === undefined ? {} : { 'content-type': 'application/json' }),
          },
          ...(example === undefined ? {} : { body: JSON.stringify(example) }),
        });
        seen.push(`${method} ${path}`);
        // There is no image of that id; a path that does not exist answers in other words.
        const isKnown = path === '/v1/images/{id}' && (await response.clone().text()).includes('no such image');
        expect(isKnown ? [405, 500] : [404, 405, 500], `${method} ${path}`).not.toContain(response.status);
        const family = `${String(response.status)[0]}XX`;
        expect(
          Object.keys(responses).some((status) => status === String(response.status) || status === family),
          `${method} ${path}: ${response.status}`,
        ).toBe(true);
        leaving.abort();
      }
    }
    expect(seen.length).toBeGreaterThan(20);
  });
});
