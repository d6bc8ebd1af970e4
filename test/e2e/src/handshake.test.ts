/** Registration as devices and strangers see it on the wire (protocol §2–§5, §14): L1–L8, L10, L12–L14, L33, L34 and the rows of 2.6.
 *  Stories run side by side where they only look at their own connection; those that count metrics or load the node run alone. */

import { randomBytes } from 'node:crypto';
import { type Broker, type EdgeProcess, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { DEVICE_INFO, KEEPALIVE, newCode } from './device.ts';
import { EventReader, epochsOf } from './event-reader.ts';
import {
  type Applicant,
  ask,
  CNONCE,
  canaryCount,
  challenge,
  closeWires,
  connect,
  leaks,
  newAddress,
  newSecret,
  nonceAt,
  nonceIn,
  nonceOfAge,
  nonceTime,
  type Parameters,
  parametersOf,
  provisioned,
  randomDigits,
  registered,
  remember,
  shapeOf,
  signOver,
  stepTwo,
  targetOf,
} from './registration.ts';
import { type Setting, startSetting, timed } from './setting.ts';
import { type HttpAnswer, REGISTER, Wire } from './wire.ts';

const NONCE_TTL_S = 30;
const FIRST_GET = `GET ${REGISTER} HTTP/1.1\r\nHost: broker.example\r\n\r\n`;
const REJECTED = 'lapi_register_rejected_total';
const PREVIOUS_KEY = randomBytes(32).toString('base64');
const FOREIGN_KEY = randomBytes(32).toString('base64');

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({
    edgeEnv: {
      LAPI_NONCE_TTL_SECONDS: String(NONCE_TTL_S),
      LAPI_NONCE_KEY_PREVIOUS: PREVIOUS_KEY,
      LAPI_LOG_LEVEL: 'debug',
    },
    commandEnv: { LAPI_LOG_LEVEL: 'debug' },
  });
  broker = setting.broker;
  remember(broker.nonceKey, broker.secretKey, broker.apiKey, PREVIOUS_KEY);
});
afterAll(async () => {
  closeWires();
  await setting.stop();
});

function edge(index = 0): EdgeProcess {
  return broker.edges[index] as EdgeProcess;
}

/** The body of 2.2. */
function unionBody(nonce: string): string {
  return `{"Nonce":"${nonce}","Response":{"ResponseURL":"${REGISTER}","ResponseString":"Not Authorized","StatusCode":"401","Data":{"Nonce":"${nonce}"}}}`;
}

/** An edge that is draining and holds on to its last device, which has a call to answer. */
async function drainingEdge(index: number): Promise<Wire> {
  const applicant = await provisioned(broker);
  const wire = await registered(broker, applicant, index, newAddress());
  void broker.api(`/v1/devices/${applicant.code}${DEVICE_INFO}`).catch(() => undefined);
  await wire.call(DEVICE_INFO);
  edge(index).signal('SIGTERM');
  return wire;
}

async function firstText(wire: Wire): Promise<string> {
  const frame = await waitFor(() => wire.frames.shift(), { deadlineMs: 5_000, what: 'the first frame' });
  expect(frame.opcode).toBe(1);
  return frame.payload.toString();
}

/** A nonce of this age for which the Sign holds what needs escaping: `+`, `/` and `=`. */
function awkwardNonce({ secret, code }: Applicant): { readonly nonce: string; readonly sign: string } {
  for (;;) {
    const nonce = nonceAt(broker.nonceKey, Math.floor(Date.now() / 1_000), randomDigits(4));
    const sign = signOver(secret, 'Uniview', 'NVR', code, 'HMAC-SHA256', nonce);
    if (sign.includes('+') && sign.includes('/')) return { nonce, sign };
  }
}

const ENCODINGS: readonly (readonly [string, (sign: string) => string])[] = [
  ['raw', (sign) => sign],
  ['percent-encoded once', (sign) => encodeURIComponent(sign)],
  ['percent-encoded twice', (sign) => encodeURIComponent(encodeURIComponent(sign))],
  ['with blanks for +', (sign) => sign.replaceAll('+', '%20')],
  ['base64url without padding', (sign) => sign.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', '')],
];

function oneBitOff(sign: string): string {
  const bytes = Buffer.from(sign, 'base64');
  bytes[17] = (bytes[17] as number) ^ 0x04;
  return bytes.toString('base64');
}

describe.concurrent('first GET', () => {
  test('L1: 401 with the union body, its exact length, no Connection: close; the connection stays usable', async () => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    const nonces = new Set<string>();
    for (let i = 0; i < 20; i++) {
      const answer = await ask(wire);
      const nonce = nonceIn(answer);
      nonces.add(nonce);
      expect(answer.status).toBe(401);
      expect(answer.body).toBe(unionBody(nonce));
      expect(answer.headers.get('content-length')).toBe('182');
      expect(answer.headers.get('content-type')).toBe('application/json; charset=utf-8');
      expect(answer.headers.has('connection')).toBe(false);
      expect(answer.headers.has('www-authenticate')).toBe(false);
    }
    expect(nonces.size).toBe(20);
    const answer = await ask(wire, stepTwo(applicant, [...nonces][7] ?? ''));
    expect(answer.status).toBe(101);
    expect(answer.body).toBe('');
  });

  test('L3: nonces are as 4.1 says: time, random digits, and the MAC of the current key, on every edge', async () => {
    for (const index of [0, 1]) {
      const wire = await connect(broker, index, newAddress());
      const before = Math.floor(Date.now() / 1_000);
      const nonce = await challenge(wire);
      const after = Math.floor(Date.now() / 1_000);
      const made = nonceTime(nonce);
      expect(made).toBeGreaterThanOrEqual(before);
      expect(made).toBeLessThanOrEqual(after);
      expect(nonce).toBe(nonceAt(broker.nonceKey, made, nonce.slice(5, 9)));
    }
  });

  test.each(['?X=1', '?', '', '?Vendor=Uniview&DeviceType=NVR&DeviceCode=A&Nonce=&Sign=x', '?SessionID=4'])(
    'L8: Register%s is step 1, also as a plain GET',
    async (query) => {
      const wire = await connect(broker, 0, newAddress());
      for (const headers of [{}, { Connection: null, Upgrade: null, 'Sec-WebSocket-Key': null }]) {
        const answer = await ask(wire, REGISTER + query, headers);
        expect(answer.status).toBe(401);
        expect(answer.body).toBe(unionBody(nonceIn(answer)));
      }
    },
  );

  test.each(['POST', 'HEAD', 'PUT', 'DELETE', 'OPTIONS', 'PATCH'])(
    'L8: %s on Register is 405 with Allow: GET and without a nonce (F2)',
    async (method) => {
      const applicant = await provisioned(broker);
      const wire = await connect(broker, 0, newAddress());
      const target = stepTwo(applicant, await challenge(wire));
      const answer = await wire.request(method, target, {
        Connection: 'Upgrade',
        Upgrade: 'websocket',
        'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
        ...(method === 'HEAD' || method === 'OPTIONS' ? {} : { 'Content-Length': '0' }),
      });
      expect(answer.status).toBe(405);
      expect(answer.headers.get('allow')).toBe('GET');
      expect(answer.body).not.toContain('Nonce');
      if (method === 'HEAD') expect(answer.body).toBe('');
      expect((await ask(wire, target)).status).toBe(101);
    },
  );
});

describe.concurrent('second GET', () => {
  test('L4: it succeeds on the connection of the first, on a new one, and on another edge', async () => {
    const [same, fresh, elsewhere] = await Promise.all([provisioned(broker), provisioned(broker), provisioned(broker)]);
    const address = newAddress();
    const wire = await connect(broker, 0, address);
    const nonces = [await challenge(wire), await challenge(wire), await challenge(wire)] as const;
    expect((await ask(wire, stepTwo(same, nonces[0]))).status).toBe(101);
    expect((await ask(await connect(broker, 0, address), stepTwo(fresh, nonces[1]))).status).toBe(101);
    expect((await ask(await connect(broker, 1, address), stepTwo(elsewhere, nonces[2]))).status).toBe(101);
    for (const [applicant, index] of [
      [same, 0],
      [fresh, 0],
      [elsewhere, 1],
    ] as const) {
      const row = await broker.untilOnline(applicant.code);
      expect(String(row.node)).toContain(`${edge(index).nodeName}.`);
      expect(row).toMatchObject({ address, vendor: 'Uniview', deviceType: 'NVR' });
    }
  });

  test('L4: one nonce serves two devices, but each of them once (4.4)', async () => {
    const [one, other] = await Promise.all([provisioned(broker), provisioned(broker)]);
    const address = newAddress();
    const nonce = await challenge(await connect(broker, 0, address));
    expect((await ask(await connect(broker, 0, address), stepTwo(one, nonce))).status).toBe(101);
    expect((await ask(await connect(broker, 1, address), stepTwo(other, nonce))).status).toBe(101);
    expect((await ask(await connect(broker, 1, address), stepTwo(one, nonce))).status).toBe(401);
    expect((await ask(await connect(broker, 0, address), stepTwo(other, nonce))).status).toBe(401);
  });

  test.each<[string, Record<string, string | null>]>([
    ['Upgrade: WebSocket', { Upgrade: 'WebSocket' }],
    ['Upgrade: h2c, WEBSOCKET', { Upgrade: 'h2c, WEBSOCKET' }],
    ['Connection: keep-alive, Upgrade', { Connection: 'keep-alive, Upgrade' }],
    ['no Connection', { Connection: null }],
    ['no Sec-WebSocket-Version', { 'Sec-WebSocket-Version': null }],
    ['Sec-WebSocket-Version: 8', { 'Sec-WebSocket-Version': '8' }],
  ])('L6: %s becomes 101', async (_what, headers) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    const key = 'bHBrZjA5ODc2NTQzMjEwMQ==';
    const answer = await ask(wire, stepTwo(applicant, await challenge(wire)), {
      ...headers,
      'Sec-WebSocket-Key': key,
      'Sec-WebSocket-Protocol': 'lapi',
      'Sec-WebSocket-Extensions': 'permessage-deflate',
    });
    expect(answer.status).toBe(101);
    expect(answer.headers.get('sec-websocket-accept')).toBe('5bxQED1SmHxEeCvN77r4w1Vvl4Y=');
    expect(answer.headers.has('sec-websocket-protocol')).toBe(false);
    expect(answer.headers.has('sec-websocket-extensions')).toBe(false);
  });

  test.each<[string, Record<string, string | null>]>([
    ['a key of 23 characters', { 'Sec-WebSocket-Key': 'x'.repeat(23) }],
    ['a key of 25 characters', { 'Sec-WebSocket-Key': 'x'.repeat(25) }],
    ['no key', { 'Sec-WebSocket-Key': null }],
    ['no Upgrade', { Upgrade: null }],
    ['Upgrade: h2c', { Upgrade: 'h2c' }],
    ['Upgrade: websocket2', { Upgrade: 'websocket2' }],
  ])(
    'L6: %s gets 401 and a nonce although the Sign is right, never 101, and uses up no nonce (F4)',
    async (_what, headers) => {
      const applicant = await provisioned(broker);
      const wire = await connect(broker, 0, newAddress());
      const reference = await ask(wire);
      const nonce = nonceIn(reference);
      const answer = await ask(wire, stepTwo(applicant, nonce), headers);
      expect(shapeOf(answer)).toEqual(shapeOf(reference));
      expect(nonceIn(answer)).not.toBe(nonce);
      expect((await ask(wire, stepTwo(applicant, nonce))).status).toBe(101);
    },
  );

  test.each([
    '/',
    '/ws',
    `${REGISTER}2`,
    `${REGISTER}//`,
    `/${REGISTER}`,
    REGISTER.replace('Register', '%52egister'),
    `/x${REGISTER}`,
  ])('L7: %s with Upgrade and valid parameters is 404 and never 101 (F1, S1)', async (path) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    const parameters = parametersOf(applicant, await challenge(wire));
    for (const headers of [{}, { Upgrade: null, 'Sec-WebSocket-Key': null }]) {
      const answer = await ask(wire, targetOf(parameters, path), headers);
      expect(answer.status).toBe(404);
      expect(answer.body).toBe('{"error":"not_found"}');
    }
    expect((await broker.api(`/v1/devices/${applicant.code}`)).json()).toMatchObject({ online: false });
    expect((await ask(wire, targetOf(parameters))).status).toBe(101);
  });

  test.each([
    REGISTER.replace('Register', 'register'),
    `${REGISTER}/`,
    REGISTER.toUpperCase(),
    `${REGISTER.toLowerCase()}/`,
  ])('L7: %s becomes 101 (H1)', async (path) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    expect((await ask(wire, targetOf(parametersOf(applicant, await challenge(wire)), path))).status).toBe(101);
  });

  test.each(ENCODINGS)('L2: a Sign %s registers; with one bit changed it does not', async (_how, encode) => {
    const applicant = await provisioned(broker);
    const { nonce, sign } = awkwardNonce(applicant);
    const wire = await connect(broker, 0, newAddress());
    const refused = await ask(wire, stepTwo(applicant, nonce, { Sign: encode(oneBitOff(sign)) }));
    expect(refused.status).toBe(401);
    expect((await ask(wire, stepTwo(applicant, nonce, { Sign: encode(sign) }))).status).toBe(101);
    // The recomputed signature comes back, not the bytes that were sent (A4).
    expect(JSON.parse(await firstText(wire))).toEqual({ Cnonce: CNONCE, Resign: sign });
  });

  const GBK = Buffer.from([0xd3, 0xee, 0xca, 0xd3]);
  test.each<[string, (code: string, nonce: string) => { parameters: Parameters; segments: (string | Buffer)[] }]>([
    [
      'names in UTF-8',
      (code, nonce) => ({
        parameters: { Vendor: encodeURIComponent('宇视'), DeviceType: encodeURIComponent('雷视一体机') },
        segments: ['宇视', '雷视一体机', code, 'HMAC-SHA256', nonce],
      }),
    ],
    [
      'a name in GBK (G1)',
      (code, nonce) => ({
        parameters: { Vendor: '%D3%EE%CA%D3' },
        segments: [GBK, 'NVR', code, 'HMAC-SHA256', nonce],
      }),
    ],
    [
      'the undecoded values (G2 a)',
      (code, nonce) => ({
        parameters: { Vendor: 'Uni%20view' },
        segments: ['Uni%20view', 'NVR', code, 'HMAC-SHA256', nonce],
      }),
    ],
    [
      'a blank for + (G2 b)',
      (code, nonce) => ({
        parameters: { Vendor: 'Uni+view' },
        segments: ['Uni view', 'NVR', code, 'HMAC-SHA256', nonce],
      }),
    ],
    [
      'another name of the algorithm (G3)',
      (code, nonce) => ({ parameters: { Algorithm: 'MD5' }, segments: ['Uniview', 'NVR', code, 'MD5', nonce] }),
    ],
    [
      'an empty segment for a missing Algorithm (G3)',
      (code, nonce) => ({ parameters: { Algorithm: undefined }, segments: ['Uniview', 'NVR', code, '', nonce] }),
    ],
    [
      'no segment for a missing Algorithm (G3)',
      (code, nonce) => ({ parameters: { Algorithm: undefined }, segments: ['Uniview', 'NVR', code, nonce] }),
    ],
    [
      'parameters in another order and letter case, with unknown ones (2.5)',
      (code, nonce) => ({
        parameters: { Vendor: undefined, Extra: '%zz', SessionID: '7', vendor: 'Uniview' },
        segments: ['Uniview', 'NVR', code, 'HMAC-SHA256', nonce],
      }),
    ],
  ])('L2: a Sign over %s registers', async (_what, of) => {
    const applicant = await provisioned(broker, { secret: `s3cr3t-密钥-ü-${randomDigits(12)}` });
    const wire = await connect(broker, 0, newAddress());
    const nonce = await challenge(wire);
    const { parameters, segments } = of(applicant.code, nonce);
    const Sign = encodeURIComponent(signOver(applicant.secret, ...segments));
    expect((await ask(wire, stepTwo(applicant, nonce, { ...parameters, Sign }))).status).toBe(101);
  });

  test.each([
    ['just made', () => nonceOfAge(broker.nonceKey, 0)],
    ['28 s old', () => nonceOfAge(broker.nonceKey, NONCE_TTL_S - 2)],
    ['4 s in the future', () => nonceOfAge(broker.nonceKey, -4)],
    ['of the previous key', () => nonceOfAge(PREVIOUS_KEY, 3)],
    ['of the previous key, 28 s old', () => nonceOfAge(PREVIOUS_KEY, NONCE_TTL_S - 2)],
  ])('L3: a nonce %s registers', async (_what, nonce) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 1, newAddress());
    expect((await ask(wire, stepTwo(applicant, nonce()))).status).toBe(101);
  });

  test.each([
    ['32 s old', () => nonceOfAge(broker.nonceKey, NONCE_TTL_S + 2)],
    ['8 s in the future', () => nonceOfAge(broker.nonceKey, -8)],
    ['of the previous key, 32 s old', () => nonceOfAge(PREVIOUS_KEY, NONCE_TTL_S + 2)],
    ['of a foreign key', () => nonceOfAge(FOREIGN_KEY, 0)],
    [
      'with one digit changed',
      () => nonceOfAge(broker.nonceKey, 0).replace(/.$/, (digit) => (digit === '0' ? '1' : '0')),
    ],
  ])('L3: a nonce %s does not', async (_what, nonce) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 1, newAddress());
    expect((await ask(wire, stepTwo(applicant, nonce()))).status).toBe(401);
  });
});

describe.concurrent('acknowledgement', () => {
  test('L13: frame: the first message is Cnonce and the echoed signature, also when the device speaks first', async () => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    const { nonce, sign } = awkwardNonce(applicant);
    expect((await ask(wire, stepTwo(applicant, nonce, { Sign: encodeURIComponent(sign) }))).status).toBe(101);
    wire.json({ RequestURL: KEEPALIVE, Method: 'PUT', Cseq: 1, Data: {} });
    expect(await firstText(wire)).toBe(JSON.stringify({ Cnonce: CNONCE, Resign: sign }));
    expect(JSON.parse(await firstText(wire))).toMatchObject({ ResponseURL: KEEPALIVE, Cseq: 1 });
  });

  test.each([
    ['left out', undefined, ''],
    ['empty', '', ''],
    ['percent-encoded', 'a%20%7E%22b%5C', 'a ~"b\\'],
  ])('L13: frame: a Cnonce %s comes back decoded', async (_what, sent, told) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    expect((await ask(wire, stepTwo(applicant, await challenge(wire), { Cnonce: sent }))).status).toBe(101);
    expect(JSON.parse(await firstText(wire))).toMatchObject({ Cnonce: told, Resign: expect.any(String) });
  });

  test.each([
    ['the text of the vector', CNONCE],
    ['no Cnonce', undefined],
  ])('L13: resign cnonce signs %s (A5)', async (_what, cnonce) => {
    const applicant = await provisioned(broker, { profile: 'resignCnonce' });
    const wire = await connect(broker, 0, newAddress());
    expect((await ask(wire, stepTwo(applicant, await challenge(wire), { Cnonce: cnonce }))).status).toBe(101);
    const Resign = signOver(applicant.secret, 'Uniview', 'NVR', applicant.code, 'HMAC-SHA256', cnonce ?? '');
    expect(JSON.parse(await firstText(wire))).toEqual({ Cnonce: cnonce ?? '', Resign });
  });

  test('L13: resign cnonce: the vector of F', async () => {
    const applicant = await provisioned(
      broker,
      { profile: 'resignCnonce', secret: 'k9!Zr7_pQ2wX4vLm' },
      '210235TEST0000000001',
    );
    const wire = await registered(broker, applicant, 0, newAddress());
    const Resign = '4A0a25BWHLPxA6RkjGJ2YrNK7vlbFdDxhsptDwrTeiY=';
    remember(Resign);
    expect(JSON.parse(await firstText(wire))).toEqual({ Cnonce: CNONCE, Resign });
  });

  test('L13: resign cnonce never signs a nonce of the broker, which would hand out a valid Sign', async () => {
    const applicant = await provisioned(broker, { profile: 'resignCnonce' });
    const wire = await connect(broker, 0, newAddress());
    const [nonce, wanted] = [await challenge(wire), await challenge(wire)];
    expect((await ask(wire, stepTwo(applicant, nonce, { Cnonce: wanted }))).status).toBe(401);
    expect((await ask(wire, stepTwo(applicant, nonce))).status).toBe(101);
  });

  test('L13: resign none leaves the member out; ack none sends nothing', async () => {
    const [resignless, ackless] = await Promise.all([
      provisioned(broker, { profile: 'resignless' }),
      provisioned(broker, { profile: 'ackless' }),
    ]);
    expect(await firstText(await registered(broker, resignless, 0, newAddress()))).toBe(`{"Cnonce":"${CNONCE}"}`);
    const wire = await registered(broker, ackless, 0, newAddress());
    // What comes first is the answer to the first request.
    wire.json({ RequestURL: KEEPALIVE, Method: 'PUT', Cseq: 1, Data: {} });
    expect(JSON.parse(await firstText(wire))).toMatchObject({ ResponseURL: KEEPALIVE });
  });
});

describe.concurrent('secrets', () => {
  test('L12: both secrets register on both edges; after the promotion the old one is refused everywhere', async () => {
    const applicant = await provisioned(broker);
    const renewed = { ...applicant, secret: newSecret() };
    await broker.provision(applicant.code, { secret: applicant.secret, nextSecret: renewed.secret });
    for (const index of [0, 1]) {
      await registered(broker, applicant, index, newAddress());
      await registered(broker, renewed, index, newAddress());
    }
    // The log of an edge says which of them it was, so that somebody knows when to promote.
    const opened = (): string[] =>
      broker.edges[0]?.lines().filter((line) => line.includes('session.opened') && line.includes(applicant.code)) ?? [];
    await waitFor(() => opened().length === 2, { deadlineMs: 5_000, what: 'the lines of both sessions' });
    expect(opened().map((line) => (JSON.parse(line) as Record<string, unknown>).verifiedBy)).toEqual([
      'current',
      'next',
    ]);
    const old = await registered(broker, applicant, 0, newAddress());
    const promoted = await broker.api(`/v1/devices/${applicant.code}/secret/promote`, { method: 'POST' });
    expect(promoted.status).toBe(200);
    // The session that used the old secret ends (G7).
    await old.untilClosed();
    expect(old.closeCode).toBe(1008);
    expect(await broker.untilOnline(applicant.code, false)).toMatchObject({
      lastOffline: { reason: 'revoked' },
      hasNextSecret: false,
    });
    for (const index of [1, 0]) {
      const wire = await connect(broker, index, newAddress());
      const nonce = await challenge(wire);
      const refused = await ask(wire, stepTwo(applicant, nonce));
      expect(refused.status).toBe(401);
      // A refused registration uses up no nonce.
      expect((await ask(wire, stepTwo(renewed, nonce))).status).toBe(101);
    }
  });

  test('L12: a session that used the next secret lives through the promotion', async () => {
    const applicant = await provisioned(broker);
    const renewed = { ...applicant, secret: newSecret() };
    await broker.provision(applicant.code, { secret: applicant.secret, nextSecret: renewed.secret });
    const wire = await registered(broker, renewed, 1, newAddress());
    const { epoch } = await broker.untilOnline(applicant.code);
    expect((await broker.api(`/v1/devices/${applicant.code}/secret/promote`, { method: 'POST' })).status).toBe(200);
    // Messages to a node arrive in order: once the disconnect ends the session, it has lived through the change before it.
    expect((await broker.api(`/v1/devices/${applicant.code}/disconnect`, { method: 'POST' })).status).toBe(202);
    await wire.untilClosed();
    expect(wire.closeCode).toBe(1000);
    expect(await broker.untilOnline(applicant.code, false)).toMatchObject({ lastOffline: { reason: 'disconnected' } });
    const reader = await EventReader.replay(broker, `device=${applicant.code}`);
    await reader.presence(applicant.code, 'offline');
    expect(epochsOf(reader.events, applicant.code)).toEqual({ online: [epoch], offline: [epoch] });
  });

  test.each<[string, (applicant: Applicant) => Promise<unknown>]>([
    ['its secret is replaced', ({ code }) => broker.provision(code, { secret: newSecret() })],
    ['it is disabled', ({ code, secret }) => broker.provision(code, { secret, enabled: false })],
    ['it is removed', ({ code }) => broker.api(`/v1/devices/${code}`, { method: 'DELETE' })],
  ])('L12: the session of a device is closed with 1008 when %s', async (_what, change) => {
    const applicant = await provisioned(broker);
    const wire = await registered(broker, applicant, 1, newAddress());
    await broker.untilOnline(applicant.code);
    await change(applicant);
    await wire.untilClosed();
    expect(wire.closeCode).toBe(1008);
    const again = await connect(broker, 1, newAddress());
    expect((await ask(again, stepTwo(applicant, await challenge(again)))).status).toBe(401);
  });
});

describe.concurrent('idle', () => {
  test.each<[string, (wire: Wire) => Promise<void> | void]>([
    ['without bytes', () => undefined],
    ['with half a head', (wire) => wire.write(`GET ${REGISTER} HTTP/1.1\r\nHost: broker.example\r\nUpgr`)],
    [
      'after a 401',
      async (wire) => {
        await challenge(wire);
      },
    ],
  ])('L14: a connection %s is closed within 15 s, without an answer (F18, H13)', async (_what, begin) => {
    const wire = await connect(broker, 1, newAddress());
    const openedMs = performance.now();
    await begin(wire);
    const { receivedBytes } = wire;
    await wire.untilClosed(16_000);
    const tookMs = performance.now() - openedMs;
    expect(tookMs).toBeLessThan(15_000);
    expect(tookMs).toBeGreaterThan(6_000);
    expect(wire.receivedBytes).toBe(receivedBytes);
  });
});

describe.concurrent('refused before anything is looked at', () => {
  test('F15: a query of 2048 bytes is read, one of 2049 gets 400 and the end of the connection', async () => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    const nonce = await challenge(wire);
    const filled = (bytes: number): string => {
      const target = stepTwo(applicant, nonce, { Extra: '' });
      return target + 'x'.repeat(bytes - (target.length - REGISTER.length - 1));
    };
    const refused = await ask(wire, filled(2_049));
    expect(refused.status).toBe(400);
    expect(refused.body).not.toContain('Nonce');
    await wire.untilClosed();
    expect((await ask(await connect(broker, 0, newAddress()), filled(2_048))).status).toBe(101);
  });

  test('F15: the query is counted in bytes', async () => {
    const wire = await connect(broker, 0, newAddress());
    const refused = await ask(wire, `${REGISTER}?X=${'é'.repeat(1_024)}`);
    expect(refused.status).toBe(400);
    await wire.untilClosed();
  });

  test.each([
    ['Content-Length: 2', { 'Content-Length': '2' }],
    ['Transfer-Encoding: chunked', { 'Transfer-Encoding': 'chunked' }],
  ])('F15: %s on Register gets 400 and the end of the connection', async (_what, headers) => {
    for (const key of ['Sec-WebSocket-Key', 'Unused']) {
      const wire = await connect(broker, 0, newAddress());
      const answer = await ask(wire, REGISTER, {
        ...headers,
        ...(key === 'Unused' ? { 'Sec-WebSocket-Key': null } : {}),
      });
      expect(answer.status).toBe(400);
      expect(answer.body).not.toContain('Nonce');
      await wire.untilClosed();
    }
  });

  const HEAD = 'Host: broker.example\r\nUpgrade: websocket\r\n';
  test.each([
    ['a head over 4 KiB', `GET ${REGISTER} HTTP/1.1\r\n${HEAD}X-Long: ${'x'.repeat(5_000)}\r\n\r\n`],
    ['no Host', `GET ${REGISTER} HTTP/1.1\r\nUpgrade: websocket\r\n\r\n`],
    ['HTTP/1.0', `GET ${REGISTER} HTTP/1.0\r\n${HEAD}\r\n`],
    ['bare line feeds', `GET ${REGISTER} HTTP/1.1\nHost: broker.example\n\n`],
    ['an absolute-form target', `GET http://broker.example${REGISTER} HTTP/1.1\r\n${HEAD}\r\n`],
  ])('F17: %s ends the connection, without a nonce', async (_what, head) => {
    const wire = await connect(broker, 0, newAddress());
    wire.write(head);
    const answer = await wire.answer();
    expect([400, 431, 505]).toContain(answer.status);
    expect(answer.body).not.toContain('Nonce');
    await wire.untilClosed();
  });
});

describe.concurrent('failures', () => {
  test('F13: from the sixth failure of an address on its answers come 1 s … 5 s late; a valid one does not', async () => {
    const applicants = await Promise.all(Array.from({ length: 7 }, () => provisioned(broker)));
    const address = newAddress();
    const reference = shapeOf(await ask(await connect(broker, 0, address)));
    const attempt = async (applicant: Applicant): Promise<{ readonly result: HttpAnswer; readonly tookMs: number }> => {
      const wire = await connect(broker, 0, address);
      return await timed(ask(wire, stepTwo(applicant, await challenge(wire), { Sign: 'x'.repeat(43) })));
    };
    for (const applicant of applicants.slice(0, 5)) expect((await attempt(applicant)).tookMs).toBeLessThan(900);
    const late = attempt(applicants[5] as Applicant);
    const later = late.then(() => attempt(applicants[6] as Applicant));
    const valid = await timed(registered(broker, applicants[0] as Applicant, 0, address));
    expect(valid.tookMs).toBeLessThan(900);
    for (const [answer, delayMs] of [
      [await late, 1_000],
      [await later, 2_000],
    ] as const) {
      expect(answer.tookMs).toBeGreaterThan(delayMs - 20);
      expect(answer.tookMs).toBeLessThan(delayMs + 900);
      expect(shapeOf(answer.result)).toEqual(reference);
    }
  });

  test('F13: from the sixth failure of a DeviceCode on answers are late from any address, and never 429', async () => {
    const applicant = await provisioned(broker);
    const attempt = async (): Promise<{ readonly result: HttpAnswer; readonly tookMs: number }> => {
      const wire = await connect(broker, 0, newAddress());
      return await timed(ask(wire, stepTwo(applicant, await challenge(wire), { Sign: 'x'.repeat(43) })));
    };
    for (let i = 0; i < 5; i++) expect((await attempt()).tookMs).toBeLessThan(900);
    // Far more than the limit of an address.
    const many = await Promise.all(Array.from({ length: 70 }, attempt));
    expect(new Set(many.map(({ result }) => result.status))).toEqual(new Set([401]));
    expect(Math.min(...many.map(({ tookMs }) => tookMs))).toBeGreaterThan(980);
    expect(Math.max(...many.map(({ tookMs }) => tookMs))).toBeLessThan(5_900);
    const valid = await timed(registered(broker, applicant, 0, newAddress()));
    expect(valid.tookMs).toBeLessThan(900);
  });

  test('F14: the seventh registration in a minute gets 429 with Retry-After and no nonce; the session stays (D8)', async () => {
    const applicant = await provisioned(broker);
    for (let i = 0; i < 5; i++) await registered(broker, applicant, i % 2, newAddress());
    const kept = await registered(broker, applicant, 1, newAddress());
    const { epoch } = await broker.untilOnline(applicant.code);
    const wire = await connect(broker, 0, newAddress());
    const answer = await ask(wire, stepTwo(applicant, await challenge(wire)));
    expect(answer.status).toBe(429);
    expect(Number(answer.headers.get('retry-after'))).toBeGreaterThan(0);
    expect(answer.body).not.toContain('Nonce');
    await wire.untilClosed();
    kept.json({ RequestURL: KEEPALIVE, Method: 'PUT', Cseq: 1, Data: {} });
    await kept.response(1);
    expect(await broker.untilOnline(applicant.code)).toMatchObject({ epoch });
  });
});

describe('alone', () => {
  /** What a piece of work added to the refusals of an edge. */
  async function refusals(
    work: () => Promise<unknown>,
    reason: string,
    index = 0,
  ): Promise<{ all: number; these: number }> {
    const count = async (): Promise<{ all: number; these: number }> => ({
      all: await broker.metric(edge(index), REJECTED),
      these: await broker.metric(edge(index), REJECTED, { reason }),
    });
    const before = await count();
    await work();
    const after = await count();
    return { all: after.all - before.all, these: after.these - before.these };
  }

  test('L5: of two second GETs with one nonce and one code, at two edges at once, exactly one gets 101', async () => {
    const rounds = 30;
    const losersBefore = await Promise.all(
      [0, 1].map((i) => broker.metric(edge(i), REJECTED, { reason: 'nonce_reused' })),
    );
    const winners = await Promise.all(
      Array.from({ length: rounds }, async (_, round) => {
        const applicant = await provisioned(broker);
        const address = newAddress();
        const wires = await Promise.all([0, 1].map((index) => connect(broker, index, address)));
        const target = stepTwo(applicant, await challenge(wires[round % 2] as Wire));
        const answers = await Promise.all(wires.map((wire) => ask(wire, target)));
        expect(answers.map(({ status }) => status).sort()).toEqual([101, 401]);
        const winner = answers.findIndex(({ status }) => status === 101);
        const row = await broker.untilOnline(applicant.code);
        expect(String(row.node)).toContain(`${edge(winner).nodeName}.`);
        return winner;
      }),
    );
    const losers = await Promise.all([0, 1].map((i) => broker.metric(edge(i), REJECTED, { reason: 'nonce_reused' })));
    // Each edge loses what the other won, and for no other reason.
    for (const i of [0, 1]) {
      expect((losers[i] as number) - (losersBefore[i] as number)).toBe(winners.filter((winner) => winner !== i).length);
    }
  });

  test('L5: the same on one edge', async () => {
    await Promise.all(
      Array.from({ length: 10 }, async () => {
        const applicant = await provisioned(broker);
        const address = newAddress();
        const wires = await Promise.all(Array.from({ length: 4 }, () => connect(broker, 0, address)));
        const target = stepTwo(applicant, await challenge(wires[0] as Wire));
        const answers = await Promise.all(wires.map((wire) => ask(wire, target)));
        expect(answers.map(({ status }) => status).sort()).toEqual([101, 401, 401, 401]);
      }),
    );
  });

  /** The same answer for all: what a stranger learns is nothing (H5, S4). */
  const sound: Parameters = {};
  const signed = (applicant: Applicant, nonce: string): string =>
    signOver(applicant.secret, 'Uniview', 'NVR', applicant.code, 'HMAC-SHA256', nonce);
  type Row = readonly [
    row: string,
    reason: string,
    what: string,
    /** Changes to the parameters of a sound second GET, or its whole target. */
    change: (applicant: Applicant, nonce: string) => Parameters | string | Promise<Parameters | string>,
  ];
  const ROWS: readonly Row[] = [
    ['F5', 'bad_param', 'a Vendor of 65 bytes', () => ({ Vendor: 'A'.repeat(65) })],
    ['F5', 'bad_param', 'a / in DeviceType', () => ({ DeviceType: 'N%2FVR' })],
    ['F5', 'bad_param', 'a control character in Vendor', () => ({ Vendor: 'Uni%0Aview' })],
    ['F5', 'bad_param', 'a DeviceCode of 65 characters', () => ({ DeviceCode: 'A'.repeat(65) })],
    ['F5', 'bad_param', 'a DeviceCode with a blank', ({ code }) => ({ DeviceCode: `${code}%20` })],
    ['F5', 'bad_param', 'an Algorithm of 33 characters', () => ({ Algorithm: 'A'.repeat(33) })],
    ['F5', 'bad_param', 'a Cnonce that is not printable', () => ({ Cnonce: 'a%00' })],
    ['F5', 'bad_param', 'a Sign of 257 characters', () => ({ Sign: 'A'.repeat(257) })],
    ['F6', 'duplicate_param', 'two different Vendors', (a, nonce) => `${stepTwo(a, nonce)}&Vendor=Other`],
    ['F6', 'duplicate_param', 'two different Signs', (a, nonce) => `${stepTwo(a, nonce)}&Sign=AAAA`],
    ['F7', 'nonce_foreign', 'a nonce of another key', (a) => stepTwo(a, nonceOfAge(FOREIGN_KEY, 1))],
    ['F7', 'nonce_foreign', 'a nonce of 15 characters', (a) => stepTwo(a, nonceOfAge(broker.nonceKey, 1).slice(1))],
    ['F7', 'nonce_foreign', 'a nonce of 17 characters', (a) => stepTwo(a, `${nonceOfAge(broker.nonceKey, 1)}0`)],
    [
      'F7',
      'nonce_foreign',
      'a nonce of another alphabet',
      (a) => stepTwo(a, nonceOfAge(broker.nonceKey, 1).replace(/.$/, '-')),
    ],
    ['F7', 'nonce_foreign', 'a nonce 8 s in the future', (a) => stepTwo(a, nonceOfAge(broker.nonceKey, -8))],
    ['F8', 'nonce_expired', 'a nonce 32 s old', (a) => stepTwo(a, nonceOfAge(broker.nonceKey, NONCE_TTL_S + 2))],
    [
      'F9',
      'nonce_reused',
      'a nonce used before',
      async (applicant, nonce) => {
        const wire = await connect(broker, 1, newAddress());
        expect((await ask(wire, stepTwo(applicant, nonce))).status).toBe(101);
        return sound;
      },
    ],
    [
      'F10',
      'unknown_device',
      'an unknown DeviceCode',
      ({ secret }, nonce) => stepTwo({ code: newCode(), secret }, nonce),
    ],
    [
      'F10',
      'disabled',
      'a disabled DeviceCode',
      async ({ code, secret }) => {
        await broker.provision(code, { secret, enabled: false });
        return sound;
      },
    ],
    ['F11', 'bad_sign_format', 'a Sign of 31 bytes', () => ({ Sign: Buffer.alloc(31, 7).toString('base64url') })],
    ['F11', 'bad_sign_format', 'a Sign of 33 bytes', () => ({ Sign: Buffer.alloc(33, 7).toString('base64url') })],
    ['F11', 'bad_sign_format', 'a Sign that is hexadecimal', () => ({ Sign: randomBytes(32).toString('hex') })],
    [
      'F12',
      'bad_sign',
      'a Sign with one bit changed',
      (a, nonce) => ({ Sign: encodeURIComponent(oneBitOff(signed(a, nonce))) }),
    ],
    ['F12', 'bad_sign', 'a Sign of another secret', ({ code }, nonce) => stepTwo({ code, secret: newSecret() }, nonce)],
    [
      'F12',
      'bad_sign',
      'a Sign for another nonce',
      (a, nonce) => ({ Sign: encodeURIComponent(signed(a, nonceOfAge(broker.nonceKey, 0))), Nonce: nonce }),
    ],
    [
      'F12',
      'bad_sign',
      'a Sign over the Cnonce too',
      ({ secret, code }, nonce) => ({
        Sign: encodeURIComponent(signOver(secret, 'Uniview', 'NVR', code, 'HMAC-SHA256', nonce, CNONCE)),
      }),
    ],
    [
      'F12',
      'bad_sign',
      'a Sign for another DeviceCode',
      async (applicant, nonce) => {
        const other = await provisioned(broker);
        return { DeviceCode: other.code, Sign: encodeURIComponent(signed(applicant, nonce)) };
      },
    ],
  ];

  test.each(ROWS)(
    'L10: %s %s: %s is answered as a first GET is, and the connection stays',
    async (_row, reason, _what, change) => {
      const applicant = await provisioned(broker);
      const wire = await connect(broker, 0, newAddress());
      const reference = await ask(wire);
      const nonce = nonceIn(reference);
      const changed = await change(applicant, nonce);
      const target = typeof changed === 'string' ? changed : stepTwo(applicant, nonce, changed);
      let answer: HttpAnswer | undefined;
      const added = await refusals(async () => {
        answer = await ask(wire, target);
      }, reason);
      expect(shapeOf(answer as HttpAnswer)).toEqual(shapeOf(reference));
      expect(added).toEqual({ all: 1, these: 1 });
      const fresh = nonceIn(answer as HttpAnswer);
      expect(fresh).not.toBe(nonce);
      const next = await ask(wire, stepTwo(applicant, fresh));
      expect(next.status).toBe(reason === 'disabled' ? 401 : 101);
    },
  );

  test.each<[string, string, string, Record<string, string | null>]>([
    ['F1', 'bad_path', '/ws', {}],
    ['F4', 'no_upgrade', REGISTER, { Upgrade: 'h2c' }],
    ['F4', 'bad_ws_key', REGISTER, { 'Sec-WebSocket-Key': 'short' }],
    ['F15', 'query_too_long', `${REGISTER}?X=${'x'.repeat(2_050)}`, {}],
    ['F15', 'body_on_get', REGISTER, { 'Content-Length': '4' }],
  ])('L10: %s counts %s', async (_row, reason, path, headers) => {
    const applicant = await provisioned(broker);
    const wire = await connect(broker, 0, newAddress());
    const target = path.includes('?') ? path : targetOf(parametersOf(applicant, await challenge(wire)), path);
    expect(await refusals(() => ask(wire, target, headers), reason)).toEqual({ all: 1, these: 1 });
  });

  test('F3: a first GET is a challenge, no failure', async () => {
    const wire = await connect(broker, 0, newAddress());
    const before = await broker.metric(edge(), 'lapi_challenges_total');
    const added = await refusals(async () => {
      for (let i = 0; i < 100; i++) await ask(wire);
    }, 'bad_param');
    expect(added.all).toBe(0);
    expect((await broker.metric(edge(), 'lapi_challenges_total')) - before).toBe(100);
  });

  test('H3, F16: the shape of the challenge is one of the listener; a draining edge answers 503 and closes', async () => {
    const index = broker.edges.length;
    await broker.addEdge({ LAPI_CHALLENGE_SHAPE: 'bare', LAPI_DRAIN_SECONDS: '4' });
    const applicant = await provisioned(broker);
    const challenger = await connect(broker, index, newAddress());
    const answer = await ask(challenger);
    const nonce = nonceIn(answer);
    expect(answer.body).toBe(`{"Nonce":"${nonce}"}`);
    const last = await drainingEdge(index);
    const refused = await waitFor(
      async () => {
        const first = await ask(await connect(broker, index, newAddress()));
        return first.status === 401 ? undefined : first;
      },
      { deadlineMs: 3_000, what: 'the drain to begin' },
    );
    for (const [answered, wire] of [
      [refused, undefined],
      [await ask(challenger, stepTwo(applicant, nonce)), challenger],
    ] as const) {
      expect(answered.status).toBe(503);
      expect(answered.headers.get('retry-after')).toBe('5');
      expect(answered.body).not.toContain('Nonce');
      await wire?.untilClosed();
    }
    // The nonce was not used up; any other edge takes it.
    expect((await ask(await connect(broker, 1, newAddress()), stepTwo(applicant, nonce))).status).toBe(101);
    await last.untilClosed();
    expect(last.closeCode).toBe(1001);
    expect(await edge(index).exited).toMatchObject({ code: 0 });
  });

  describe('L34', () => {
    /** Registers devices from addresses of their own, one after the other, until `over`. */
    async function registerMeanwhile(over: () => boolean): Promise<number[]> {
      const tookMs: number[] = [];
      while (!over() || tookMs.length < 3) {
        const applicant = await provisioned(broker);
        const address = newAddress();
        tookMs.push((await timed(registered(broker, applicant, 0, address))).tookMs);
      }
      return tookMs;
    }

    test('L34: failing second GETs of one address are slowed, then refused; other addresses register within 1 s', async () => {
      const address = newAddress();
      const attempts = 120;
      let answered = 0;
      const attempt = async (): Promise<{
        readonly result: HttpAnswer;
        readonly tookMs: number;
        readonly wire: Wire;
      }> => {
        const wire = await connect(broker, 0, address);
        const target = stepTwo({ code: newCode(), secret: 'none' }, nonceOfAge(FOREIGN_KEY, 1));
        const outcome = await timed(ask(wire, target));
        answered++;
        return { ...outcome, wire };
      };
      const flood = Promise.all(Array.from({ length: attempts }, attempt));
      const others = await registerMeanwhile(() => answered === attempts);
      expect(Math.max(...others)).toBeLessThan(1_000);
      const answers = await flood;
      const challenged = answers.filter(({ result }) => result.status === 401);
      const refused = answers.filter(({ result }) => result.status === 429);
      expect([challenged.length, refused.length]).toEqual([60, 60]);
      // Five answers at once, then 1, 2, 3, 4 and 5 s late.
      expect(challenged.filter(({ tookMs }) => tookMs < 900)).toHaveLength(5);
      expect(challenged.filter(({ tookMs }) => tookMs > 4_900)).toHaveLength(51);
      for (const { result, tookMs, wire } of refused) {
        expect(tookMs).toBeLessThan(1_000);
        expect(result.headers.get('retry-after')).toBe('30');
        expect(result.body).not.toContain('Nonce');
        await wire.untilClosed();
      }
      expect((await ask(await connect(broker, 0, address))).status).toBe(429);
      expect((await ask(await connect(broker, 1, address))).status).toBe(401);
    });

    test('L34: first GETs of one address, as fast as it can, do not keep others out', async () => {
      const address = newAddress();
      let over = false;
      let asked = 0;
      /** Pipelines on one connection until it is refused. */
      const exhaust = async (wire: Wire): Promise<void> => {
        while (!over) {
          wire.write(FIRST_GET.repeat(50));
          for (let i = 0; i < 50; i++) {
            asked++;
            const answer = await wire.answerOrEnd();
            // Closed: the transport takes no request behind one whose answer is held back.
            if (answer === 'closed' || answer.status !== 401) return;
          }
        }
      };
      const flood = Array.from({ length: 8 }, async () => {
        while (!over) {
          const wire = await Wire.connect(broker.edgeUrl(), address);
          await exhaust(wire).finally(() => wire.destroy());
        }
      });
      const tookMs: number[] = [];
      try {
        await waitFor(() => asked > 2_000, { deadlineMs: 10_000, what: 'a flood larger than any burst' });
        for (let i = 0; i < 5; i++) {
          const applicant = await provisioned(broker);
          tookMs.push((await timed(registered(broker, applicant, 0, newAddress()))).tookMs);
        }
      } finally {
        over = true;
        await Promise.all(flood);
      }
      expect(Math.max(...tookMs)).toBeLessThan(1_000);
      expect(await broker.metric(edge(), REJECTED, { reason: 'admission' })).toBeGreaterThan(0);
      expect(await broker.metric(edge(), 'lapi_register_held_total', { reason: 'load' })).toBeGreaterThan(0);
    });

    test('L34: 256 unauthenticated connections of one address stay, the 257th is closed; others connect (S10)', async () => {
      const address = newAddress();
      const wires = await Promise.all(Array.from({ length: 256 }, () => connect(broker, 0, address)));
      const beyond = await connect(broker, 0, address);
      await beyond.untilClosed();
      expect(wires.filter((wire) => wire.closed)).toEqual([]);
      await registered(broker, await provisioned(broker), 0, newAddress());
      for (const wire of wires) wire.destroy();
    });
  });

  test('L33: no line of any process holds a secret, a Sign, a nonce or a key', () => {
    expect(canaryCount()).toBeGreaterThan(500);
    const processes = [...broker.edges, ...broker.commands];
    for (const process of processes) expect(process.lines().length).toBeGreaterThan(10);
    expect(leaks(processes)).toEqual([]);
  });
});
