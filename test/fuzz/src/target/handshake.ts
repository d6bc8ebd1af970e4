/** Fuzzes registration: requests that are sound in unusual forms, signatures that are almost right, HTTP that is damaged, other ways in.
 *  A 101 must be authentic by the protocol (authentic.ts), a pair of nonce and device is taken once, and a sound request is not refused. */

import { createHmac } from 'node:crypto';
import type { Arena } from '../arena.ts';
import { authenticIn, type Known } from '../authentic.ts';
import type { Chance } from '../chance.ts';
import {
  type Claim,
  claimOf,
  HANDSHAKE_HEADERS,
  type Identity,
  nonceIn,
  queryOf,
  REGISTER,
  signOf,
  someAddress,
  targetOf,
} from '../device.ts';
import { mutateBytes, mutateText } from '../mutate.ts';
import type { Target, TargetRun, Verdict } from '../target.ts';
import { type Reply, requestBytes, Wire } from '../wire.ts';

const ANSWER_MS = 15_000;
/** Damaged requests may be incomplete: silence is an answer then. */
const SILENCE_MS = 250;
const FRESH_NONCE_MS = 60_000;
const DEVICES = { least: 48, most: 2_000, inputsEach: 25 };
/** Answers that are designed (protocol 2.6, F17). */
const STATUSES: ReadonlySet<number> = new Set([101, 400, 401, 404, 405, 413, 429, 431, 503, 505]);

type Query = [name: string, value: string][];

/** An input before it is sent. */
interface Attempt {
  readonly bytes: Buffer;
  /** `open`: sound, must be taken. `complete`: must be answered. `any`: may stay without an answer. */
  readonly expect: 'open' | 'complete' | 'any';
  readonly kind: string;
  /** Sent in pieces that end here. */
  readonly cuts?: readonly number[];
}

class HandshakeRun implements TargetRun {
  readonly #port: number;
  readonly #devices: readonly Identity[];
  readonly #known: Known;
  readonly #secrets: ReadonlyMap<string, string>;
  /** All that were given out. */
  readonly #nonces = new Set<string>();
  #latest = { nonce: '', givenMs: Number.NEGATIVE_INFINITY };
  readonly #used = new Set<string>();
  #turn = 0;

  constructor(port: number, devices: readonly Identity[]) {
    this.#port = port;
    this.#devices = devices;
    this.#secrets = new Map(devices.map(({ code, secret }) => [code, secret]));
    this.#known = {
      secretOf: (code) => this.#secrets.get(code),
      wasGivenOut: (nonce) => this.#nonces.has(nonce),
    };
  }

  async send(chance: Chance): Promise<Verdict> {
    const wire = await Wire.connect(this.#port, someAddress());
    try {
      const kind = chance.weighted({ sound: 2, forged: 9, damaged: 6, elsewhere: 3 });
      const nonce =
        (kind !== 'sound' && chance.is(0.5) ? this.#givenNonce() : undefined) ?? (await this.#freshNonce(wire));
      if (nonce === undefined) return { outcome: 'no nonce', fault: 'a first GET got no nonce' };
      const attempt = this.#attempt(chance, kind, nonce);
      const reply = await this.#give(wire, attempt);
      const fault = await this.#judge(attempt, reply, wire);
      const answer = typeof reply === 'string' ? reply : String(reply.status);
      return { outcome: `${attempt.kind} ${answer}`, input: attempt.bytes, ...(fault === undefined ? {} : { fault }) };
    } finally {
      wire.destroy();
    }
  }

  stop(): Promise<void> {
    return Promise.resolve();
  }

  /** One that came with an answer lately; somebody may have used it. */
  #givenNonce(): string | undefined {
    const { nonce, givenMs } = this.#latest;
    return performance.now() - givenMs < FRESH_NONCE_MS ? nonce : undefined;
  }

  async #freshNonce(wire: Wire): Promise<string | undefined> {
    return this.#remember(await wire.ask(requestBytes('GET', REGISTER, HANDSHAKE_HEADERS), ANSWER_MS));
  }

  #remember(reply: Reply): string | undefined {
    const nonce = typeof reply === 'string' ? undefined : nonceIn(reply.body);
    if (nonce === undefined) return undefined;
    this.#nonces.add(nonce);
    this.#latest = { nonce, givenMs: performance.now() };
    return nonce;
  }

  #attempt(chance: Chance, kind: 'sound' | 'forged' | 'damaged' | 'elsewhere', nonce: string): Attempt {
    // In turn, so that no device is taken over so often that the broker holds it down.
    const identity = this.#devices[this.#turn++ % this.#devices.length] as Identity;
    switch (kind) {
      case 'sound':
        return sound(chance, identity, nonce);
      case 'forged':
        return this.#forged(chance, identity, nonce);
      case 'damaged':
        return damaged(chance, identity, nonce);
      case 'elsewhere':
        return elsewhere(chance, identity, nonce);
    }
  }

  #forged(chance: Chance, identity: Identity, nonce: string): Attempt {
    const other = chance.pick(this.#devices);
    const claim = claimOf(identity.code, nonce);
    const sign = signOf(identity.secret, claim);
    const forgery = chance.weighted({
      bit: 3,
      secret: 3,
      fields: 3,
      nonce: 3,
      code: 2,
      repeat: 2,
      value: 6,
      cnonce: 1,
    });
    const query = ((): Query => {
      switch (forgery) {
        case 'bit':
          return queryOf(claim, withBitFlipped(chance, sign));
        case 'secret': {
          const guesses = [
            '',
            '\0',
            'undefined',
            'null',
            '123456',
            'admin',
            other.secret,
            identity.code,
            nonce,
            identity.secret.slice(1),
            `${identity.secret} `,
          ];
          const guess = chance.pick(guesses.filter((each) => each !== identity.secret));
          return queryOf(claim, signOf(guess, claim));
        }
        case 'fields':
          return shiftedFields(chance, identity, nonce);
        case 'nonce': {
          const foreign: Claim = { ...claim, nonce: foreignNonce(chance, nonce) };
          return queryOf(foreign, signOf(identity.secret, foreign));
        }
        case 'code': {
          const strange = chance.pick([
            other.code,
            identity.code.toLowerCase(),
            `${identity.code} `,
            `${identity.code}%00`,
            '__proto__',
            'constructor',
            '*',
            '..',
            'FUZZ',
            mutateText(chance, identity.code),
          ]);
          return queryOf(
            { ...claim, code: encodeURIComponent(strange.toWellFormed()) },
            signOf(identity.secret, { ...claim, code: strange }),
          );
        }
        case 'repeat': {
          const query = queryOf(claim, sign);
          const [name, value] = chance.pick(query);
          const extra: [string, string] = [
            chance.is(0.5) ? name : name.toLowerCase(),
            chance.is(0.3) ? value : mutateText(chance, value),
          ];
          query.splice(chance.between(0, query.length), 0, extra);
          return query;
        }
        case 'value': {
          const query = queryOf(claim, sign);
          for (let i = chance.between(1, 2); i > 0; i--) {
            const member = chance.pick(query);
            if (chance.is(0.8)) member[1] = mutateText(chance, member[1]);
            else member[0] = mutateText(chance, member[0]);
          }
          return query;
        }
        case 'cnonce':
          return queryOf(claim, createHmac('sha256', identity.secret).update(nonce).digest('base64'));
      }
    })();
    // What would end the request line is a damage of another kind.
    const target = targetOf(query).replace(/[\s\0]/g, '');
    return { bytes: requestBytes('GET', target, HANDSHAKE_HEADERS), expect: 'any', kind: `forged ${forgery}` };
  }

  async #give(wire: Wire, { bytes, expect, cuts = [] }: Attempt): Promise<Reply> {
    let from = 0;
    for (const cut of cuts) {
      wire.write(bytes.subarray(from, cut));
      from = cut;
      await new Promise((resolve) => setImmediate(resolve));
    }
    return await wire.ask(
      bytes.subarray(from),
      expect === 'any' ? SILENCE_MS : ANSWER_MS,
      bytes.toString('latin1', 0, 5) === 'HEAD ',
    );
  }

  async #judge({ bytes, expect, kind }: Attempt, reply: Reply, wire: Wire): Promise<string | undefined> {
    this.#remember(reply);
    if (reply === 'garbled') return 'an answer that is no HTTP';
    if (typeof reply === 'string') {
      return expect === 'any' || (expect === 'complete' && reply === 'closed')
        ? undefined
        : `${reply} instead of an answer`;
    }
    if (!STATUSES.has(reply.status)) return `status ${reply.status}: ${reply.body.toString().slice(0, 300)}`;
    if (reply.status !== 101) {
      if (reply.status === 401 && !isChallenge(reply.body))
        return `a 401 that is no challenge: ${reply.body.toString().slice(0, 300)}`;
      return expect === 'open' && reply.status !== 429 ? `${reply.status} for a sound registration` : undefined;
    }
    const authentic = authenticIn(bytes, this.#known);
    if (authentic === undefined) return '101 without a valid Sign';
    const pair = `${authentic.nonce} ${authentic.code}`;
    if (this.#used.has(pair)) return '101 for a nonce that was used';
    this.#used.add(pair);
    if (kind === 'elsewhere') return '101 on another way in';
    let acknowledged = false;
    wire.onFrame(() => {
      acknowledged = true;
    });
    if ((await wire.until(() => acknowledged, ANSWER_MS)) !== 'yes' && expect === 'open') return 'no acknowledgement';
    return wire.broken;
  }
}

/** Everything that protocol 2.5, H9 and G1–G4 let a device do. */
function sound(chance: Chance, identity: Identity, nonce: string): Attempt {
  const claim: Claim = {
    ...claimOf(identity.code, nonce),
    vendor: chance.pick(['Uniview', '宇视', 'a b', 'A+B', 'x'.repeat(64), '%', '"<&>"', 'ü~!@$^*()']),
    deviceType: chance.pick(['NVR', 'IPC', '雷视一体机', '0', 'null']),
    algorithm: chance.pick(['HMAC-SHA256', 'HmacSHA256', 'SHA256', '', undefined]),
  };
  const sign = signOf(identity.secret, claim);
  const leftOut = { ...claim, vendor: claim.vendor };
  const signed =
    claim.algorithm === undefined && chance.is(0.5)
      ? createHmac('sha256', identity.secret)
          .update([leftOut.vendor, leftOut.deviceType, leftOut.code, nonce].join('/'))
          .digest('base64')
      : sign;
  const spelled = chance.pick<(text: string) => string>([
    encodeURIComponent,
    (text) => text,
    (text) => encodeURIComponent(encodeURIComponent(text)),
    (text) => text.replaceAll('+', '%20'),
    (text) => text.replaceAll('+', '-').replaceAll('/', '_').replaceAll('=', ''),
  ])(signed);
  let query: Query = queryOf(claim, '').map(([name, value]) => [name, name === 'Sign' ? spelled : value]);
  if (chance.is(0.3)) query = chance.shuffled(query);
  if (chance.is(0.2))
    query = query.map(([name, value]) => [chance.is(0.5) ? name.toLowerCase() : name.toUpperCase(), value]);
  if (chance.is(0.3))
    query.push(
      [
        'Extra',
        mutateText(chance, 'value')
          .replace(/[^!-~]|[&#]/g, '')
          .slice(0, 200),
      ],
      ['SessionID', '7'],
    );
  if (chance.is(0.1)) query.push(chance.pick(query));
  const path = chance.pick([REGISTER, `${REGISTER}/`, REGISTER.toLowerCase(), REGISTER.toUpperCase()]);
  const headers: Record<string, string | null> = { ...HANDSHAKE_HEADERS };
  if (chance.is(0.2)) headers.Upgrade = chance.pick(['WebSocket', 'h2c, websocket', 'WEBSOCKET']);
  if (chance.is(0.2)) headers.Connection = chance.pick(['keep-alive, Upgrade', null, 'Upgrade, keep-alive']);
  if (chance.is(0.2)) headers['Sec-WebSocket-Version'] = chance.pick(['8', null, '13, 8', 'x']);
  if (chance.is(0.2)) headers['Sec-WebSocket-Protocol'] = 'lapi, other';
  if (chance.is(0.2)) headers['Sec-WebSocket-Extensions'] = 'permessage-deflate; client_max_window_bits';
  if (chance.is(0.1)) headers['Content-Length'] = '0';
  const bytes = requestBytes('GET', targetOf(query, path), headers);
  // The transport answers 505 when a segment ends inside ` HTTP/1.1`, so pieces end behind the request line.
  const line = bytes.indexOf('\r\n') + 2;
  const cuts = Array.from({ length: chance.between(0, 3) }, () => chance.between(line, bytes.length - 1)).sort(
    (a, b) => a - b,
  );
  return { bytes, expect: 'open', kind: 'sound', cuts };
}

/** The texts `A/B` + `C` and `A` + `B/C` are the same once joined (G6). */
function shiftedFields(chance: Chance, { code, secret }: Identity, nonce: string): Query {
  const sign = signOf(secret, claimOf(code, nonce));
  const [vendor, deviceType] = chance.pick([
    ['Uniview/NVR', ''],
    ['Uniview', `NVR/${code}`],
    ['', `Uniview/NVR`],
    ['Uniview/', 'NVR'],
    ['Univie', 'w/NVR'],
    ['Uniview%2FNVR', 'x'],
  ] as const);
  const query = queryOf({ ...claimOf(code, nonce), vendor, deviceType }, sign);
  return chance.is(0.3) ? query.filter(([name]) => name !== 'Algorithm') : query;
}

function foreignNonce(chance: Chance, nonce: string): string {
  const at = chance.between(0, nonce.length - 1);
  return chance.pick([
    chance.letters(16),
    '0'.repeat(16),
    nonce.slice(0, at) + (nonce[at] === 'a' ? 'b' : 'a') + nonce.slice(at + 1),
    `zzzzz${nonce.slice(5)}`,
    nonce.slice(0, 15),
    `${nonce}0`,
    `${nonce}%20`,
    [...nonce].reverse().join(''),
  ]);
}

function withBitFlipped(chance: Chance, sign: string): string {
  const mac = Buffer.from(sign, 'base64');
  const at = chance.between(0, mac.length - 1);
  mac[at] = (mac[at] as number) ^ (1 << chance.between(0, 7));
  return mac.toString('base64');
}

const LINES = [
  'Content-Length: 5',
  'Content-Length: -1',
  'Content-Length: 0\r\nContent-Length: 5',
  'Transfer-Encoding: chunked',
  'Transfer-Encoding: chunked\r\nContent-Length: 4',
  'Host: other',
  'Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAAA=',
  'Sec-WebSocket-Key: x',
  'Upgrade: h2c',
  'Expect: 100-continue',
  'Connection: close',
  ' folded: line',
  'No-Colon',
  ': empty',
  `Long: ${'x'.repeat(5_000)}`,
  ...[60, 150].map((count) => Array.from({ length: count }, (_, i) => `X-${i}: ${i}`).join('\r\n')),
];

/** A sound request with its HTTP broken. */
function damaged(chance: Chance, identity: Identity, nonce: string): Attempt {
  const { bytes } = sound(chance, identity, nonce);
  const text = bytes.toString('latin1');
  const damage = chance.weighted({ bytes: 5, line: 3, ends: 1, version: 1, cut: 1, twice: 1, query: 1 });
  const broken = ((): Buffer => {
    switch (damage) {
      case 'bytes':
        return mutateBytes(chance, bytes);
      case 'line':
        return Buffer.from(text.replace('\r\n', `\r\n${chance.pick(LINES)}\r\n`), 'latin1');
      case 'ends':
        return Buffer.from(text.replaceAll('\r\n', chance.pick(['\n', '\r', '\r\r\n', '\0\r\n'])), 'latin1');
      case 'version':
        return Buffer.from(
          text.replace('HTTP/1.1', chance.pick(['HTTP/1.0', 'HTTP/2.0', 'http/1.1', 'HTTP/1.1 ', 'HTTP/9'])),
          'latin1',
        );
      case 'cut':
        return bytes.subarray(0, chance.between(0, bytes.length - 1));
      case 'twice':
        return Buffer.concat([bytes, chance.is(0.5) ? bytes : chance.bytes(64)]);
      case 'query':
        return Buffer.from(
          text.replace('?', `?x=${'y'.repeat(chance.pick([1_500, 2_049, 4_096, 70_000]))}&`),
          'latin1',
        );
    }
  })();
  return { bytes: broken, expect: 'any', kind: `damaged ${damage}` };
}

/** Everything in order but the place, or the verb. */
function elsewhere(chance: Chance, identity: Identity, nonce: string): Attempt {
  const claim = claimOf(identity.code, nonce);
  const query = queryOf(claim, signOf(identity.secret, claim));
  if (chance.is(0.3)) {
    const method = chance.pick(['POST', 'PUT', 'HEAD', 'DELETE', 'OPTIONS', 'PATCH', 'TRACE', 'CONNECT', 'FOO']);
    return { bytes: requestBytes(method, targetOf(query), HANDSHAKE_HEADERS), expect: 'any', kind: 'elsewhere' };
  }
  const path = chance.pick([
    '/',
    '//',
    '/ws',
    '/v1/stream',
    `/${REGISTER}`,
    `${REGISTER}//`,
    `${REGISTER}2`,
    `${REGISTER};x=1`,
    REGISTER.replace('Register', '%52egister'),
    REGISTER.replace('/System', '/./System'),
    REGISTER.replace('/System', '/x/../System'),
    REGISTER.replace('Register', 'Keepalive'),
    REGISTER.replace('/LAPI', '\\LAPI'),
    `http://broker.example${REGISTER}`,
    mutateText(chance, REGISTER).replace(/[\s?#]/g, ''),
  ]);
  const isRegister = /^\/LAPI\/V1\.0\/System\/UpServer\/Register\/?$/i.test(path);
  return {
    bytes: requestBytes('GET', targetOf(query, path), HANDSHAKE_HEADERS),
    expect: 'any',
    kind: isRegister ? 'forged path' : 'elsewhere',
  };
}

function isChallenge(body: Buffer): boolean {
  const nonce = nonceIn(body);
  try {
    const { Nonce } = JSON.parse(body.toString()) as { readonly Nonce?: unknown };
    return nonce !== undefined && Nonce === nonce;
  } catch {
    return false;
  }
}

export const handshake: Target = {
  name: 'handshake',
  about: 'registration: HTTP, query, nonce, signature',
  inputs: 60_000,
  atOnce: 24,
  async begin(arena: Arena, inputs: number): Promise<TargetRun> {
    const { least, most, inputsEach } = DEVICES;
    const count = Math.min(most, Math.max(least, Math.ceil(inputs / inputsEach)));
    return new HandshakeRun(arena.edgePort, await arena.provision(count));
  },
};
