/** Fuzzes the WebSocket of platforms: who may open it, and every message of its protocol, sound, odd and damaged, on sockets that live on. Each message
 *  is answered, each answer is JSON of a known type, a ping is always answered with a pong; a socket ends only with a reason that is documented. */

import type { Arena } from '../arena.ts';
import type { Chance } from '../chance.ts';
import { HANDSHAKE_HEADERS } from '../device.ts';
import { anyJson, type Json, mutateBytes, mutateJson, mutateText } from '../mutate.ts';
import type { Target, TargetRun, Verdict } from '../target.ts';
import { frameBytes, requestBytes, Wire } from '../wire.ts';

const ANSWER_MS = 20_000;
const AT_ONCE = 24;
const MAX_MESSAGE_BYTES = 256 * 1024;
/** A socket is left after so many messages, subscriptions and all. */
const MESSAGES = 60;
const TYPES: ReadonlySet<unknown> = new Set([
  'subscribed',
  'event',
  'gap',
  'heartbeat',
  'unsubscribed',
  'consuming',
  'delivery',
  'settled',
  'reply',
  'pong',
  'error',
  'closing',
]);
const CLOSE_REASONS: ReadonlySet<unknown> = new Set(['too_many_messages']);

interface Socket {
  readonly wire: Wire;
  sent: number;
  pongs: number;
  /** What came and is no event, no delivery, no heartbeat, no pong. */
  answers: number;
  fault: string | undefined;
  reason: unknown;
}

class StreamRun implements TargetRun {
  readonly #arena: Arena;
  readonly #keys: Readonly<Record<'read' | 'call' | 'revoked', string>>;
  readonly #devices: readonly string[];
  readonly #group: string;
  readonly #idle: Socket[] = [];
  readonly #open = new Set<Socket>();

  constructor(
    arena: Arena,
    keys: Readonly<Record<'read' | 'call' | 'revoked', string>>,
    devices: readonly string[],
    group: string,
  ) {
    this.#arena = arena;
    this.#keys = keys;
    this.#devices = devices;
    this.#group = group;
  }

  async send(chance: Chance): Promise<Verdict> {
    const kind = chance.weighted({ sound: 4, odd: 8, damaged: 4, binary: 0.3, long: 0.1, upgrade: 1 });
    if (kind === 'upgrade') return await this.#upgrade(chance);
    const socket = this.#idle.shift() ?? (await this.#connect());
    const bytes = this.#message(chance, kind);
    const { pongs } = socket;
    socket.wire.write(frameBytes(bytes, kind === 'binary' ? { opcode: 2 } : {}));
    socket.wire.write(frameBytes('{"type":"ping"}'));
    socket.sent += 1;
    // A message that is no JSON is refused before the ping is read; what the store is asked for may be answered behind it.
    const how = await socket.wire.until(() => socket.pongs > pongs || socket.reason !== undefined, ANSWER_MS);
    const fault = socket.fault ?? socket.wire.broken ?? this.#endFault(socket, how, bytes.length);
    const outcome = `${kind} ${how === 'yes' && socket.reason === undefined ? 'answered' : `ended ${String(socket.reason ?? how)}`}`;
    if (fault === undefined && how === 'yes' && socket.reason === undefined && socket.sent < MESSAGES)
      this.#idle.push(socket);
    else {
      const late =
        fault === undefined && how === 'yes' && socket.reason === undefined
          ? await this.#unanswered(socket)
          : undefined;
      this.#drop(socket);
      if (late !== undefined) return { outcome, fault: late, input: bytes };
    }
    return { outcome, input: bytes, ...(fault === undefined ? {} : { fault }) };
  }

  async stop(): Promise<void> {
    for (const socket of [...this.#open]) this.#drop(socket);
    await this.#arena.broker.api(`/v1/subscriptions/${this.#group}`, { method: 'DELETE' });
  }

  #drop(socket: Socket): void {
    socket.wire.destroy();
    this.#open.delete(socket);
  }

  async #connect(): Promise<Socket> {
    const wire = await Wire.connect(this.#arena.apiPort);
    const reply = await wire.ask(
      requestBytes('GET', '/v1/stream', { ...HANDSHAKE_HEADERS, Authorization: `Bearer ${this.#keys.call}` }),
      ANSWER_MS,
    );
    if (typeof reply === 'string' || reply.status !== 101) {
      throw new Error(`a sound upgrade got ${typeof reply === 'string' ? reply : reply.status}`);
    }
    const socket: Socket = { wire, sent: 0, pongs: 0, answers: 0, fault: undefined, reason: undefined };
    wire.onFrame(({ opcode, payload }) => {
      if (opcode === 1) hear(socket, payload.toString());
    });
    this.#open.add(socket);
    return socket;
  }

  /** Who may open a stream: keys with `read` or `call`, in the header, nobody else. */
  async #upgrade(chance: Chance): Promise<Verdict> {
    const { read, call, revoked } = this.#keys;
    const credential = chance.weighted({ read: 2, none: 1, revoked: 1, odd: 4, elsewhere: 2 });
    const headers: Record<string, string | null> = { ...HANDSHAKE_HEADERS };
    let target = '/v1/stream';
    switch (credential) {
      case 'read':
        headers.Authorization = `Bearer ${read}`;
        break;
      case 'none':
        break;
      case 'revoked':
        headers.Authorization = `Bearer ${revoked}`;
        break;
      case 'odd': {
        const odd = mutateText(chance, `Bearer ${call}`).replace(/[^\x20-\x7e]/g, '');
        headers.Authorization =
          odd.trim() === `Bearer ${call}` || odd.toLowerCase().trim() === `bearer ${call}`.toLowerCase()
            ? 'Bearer x'
            : odd;
        break;
      }
      case 'elsewhere':
        target = chance.pick([
          `/v1/stream?key=${call}`,
          `/v1/stream?access_token=${call}`,
          '/v1/stream?authorization=Bearer%20x',
        ]);
        headers['Sec-WebSocket-Protocol'] = call;
        headers.Cookie = `authorization=${call}`;
        break;
    }
    const sound = credential === 'read' && chance.is(0.5);
    if (!sound && chance.is(0.5)) {
      Object.assign(
        headers,
        chance.pick<Record<string, string | null>>([
          { Upgrade: null },
          { Upgrade: 'h2c' },
          { 'Sec-WebSocket-Version': '8' },
          { 'Sec-WebSocket-Version': null },
          { 'Sec-WebSocket-Key': 'x' },
          { Origin: 'https://evil.invalid' },
          { Origin: 'null' },
          { 'X-Request-Id': 'a\tb' },
        ]),
      );
    }
    const bytes = requestBytes('GET', target, headers);
    const wire = await Wire.connect(this.#arena.apiPort);
    const reply = await wire.ask(bytes, ANSWER_MS);
    wire.destroy();
    const status = typeof reply === 'string' ? reply : reply.status;
    const fault =
      status === 101 && credential !== 'read'
        ? '101 without a key'
        : sound && status !== 101 && status !== 429
          ? `${status} for a sound upgrade`
          : typeof status === 'string' || (status >= 500 && status !== 503)
            ? `an upgrade gets ${status}`
            : undefined;
    return { outcome: `upgrade ${credential} ${status}`, input: bytes, ...(fault === undefined ? {} : { fault }) };
  }

  #message(chance: Chance, kind: 'sound' | 'odd' | 'damaged' | 'binary' | 'long'): Buffer {
    const id = chance.pick(['a', 'b', 'c', '', '__proto__', 'ü', chance.letters(8), 'x'.repeat(64), 'x'.repeat(65)]);
    const ackIds = Array.from({ length: chance.pick([1, 1, 2, 20]) }, () => chance.letters(chance.pick([1, 30, 200])));
    const sound = chance.pick<{ readonly [name: string]: Json }>([
      {
        type: 'subscribe',
        id,
        filter: { devices: ['FUZZ*'], kinds: ['alarm.*'] },
        from: chance.pick(['now', 'start', '2025-01-01T00:00:00Z']),
      },
      { type: 'subscribe', id },
      {
        type: 'consume',
        id,
        subscription: chance.pick([this.#group, 'nothing']),
        maxInFlight: chance.pick([1, 10, 1_000]),
      },
      { type: 'ack', id, ackIds },
      { type: 'nack', id, ackIds, delaySeconds: chance.pick([0, 1]) },
      { type: 'extend', id, ackIds, seconds: chance.pick([10, 600]) },
      { type: 'unsubscribe', id },
      {
        type: 'command',
        id,
        code: chance.pick(this.#devices),
        method: chance.pick(['GET', 'PUT', 'POST', 'DELETE']),
        url: chance.pick(['/LAPI/V1.0/System/DeviceInfo', '/LAPI/V1.0/System/Reboot', '/LAPI/../x']),
        data: anyJson(chance),
        timeoutMs: 1_000,
      },
      { type: 'ping' },
    ]);
    switch (kind) {
      case 'long':
        return Buffer.from(`{"type":"ping","x":"${'x'.repeat(MAX_MESSAGE_BYTES + 1)}"}`);
      case 'odd': {
        let value: Json = sound;
        for (let i = chance.between(1, 3); i > 0; i--) value = mutateJson(chance, value);
        return Buffer.from((JSON.stringify(value) ?? 'null').slice(0, MAX_MESSAGE_BYTES).toWellFormed());
      }
      case 'damaged': {
        const text = Buffer.from(JSON.stringify(sound));
        const nested = `${'['.repeat(chance.pick([64, 65, 5_000]))}`;
        return chance.is(0.1) ? Buffer.from(nested) : Buffer.from(mutateBytes(chance, text).toString().toWellFormed());
      }
      default:
        return Buffer.from(JSON.stringify(sound));
    }
  }

  #endFault({ wire, reason }: Socket, how: 'yes' | 'closed' | 'late', bytes: number): string | undefined {
    if (reason !== undefined) return CLOSE_REASONS.has(reason) ? undefined : `the socket is ended as ${String(reason)}`;
    if (how === 'late') return 'no pong';
    if (how === 'closed' && bytes <= MAX_MESSAGE_BYTES) return `the socket is closed, code ${wire.closeCode}`;
    return undefined;
  }

  /** Everything that was said must have been answered in the end. */
  async #unanswered(socket: Socket): Promise<string | undefined> {
    const how = await socket.wire.until(() => socket.answers + socket.pongs >= 2 * socket.sent, ANSWER_MS);
    if (how === 'yes') return undefined;
    return `${how}: ${socket.sent} messages and as many pings had ${socket.answers} answers and ${socket.pongs} pongs`;
  }
}

function hear(socket: Socket, text: string): void {
  let message: { readonly type?: unknown; readonly reason?: unknown };
  try {
    message = JSON.parse(text) as typeof message;
  } catch {
    socket.fault = `no JSON: ${text.slice(0, 300)}`;
    return;
  }
  const { type } = message;
  if (!TYPES.has(type)) socket.fault = `a type that is not documented: ${text.slice(0, 300)}`;
  if (text.includes('"internal"')) socket.fault = `an internal error: ${text.slice(0, 300)}`;
  if (type === 'closing') socket.reason = message.reason ?? 'nothing';
  if (type === 'pong') socket.pongs += 1;
  else if (type !== 'event' && type !== 'delivery' && type !== 'heartbeat' && type !== 'gap') socket.answers += 1;
}

export const stream: Target = {
  name: 'stream',
  about: 'the WebSocket of platforms: upgrades, subscriptions, consumers, commands',
  inputs: 40_000,
  atOnce: AT_ONCE,
  async begin(arena: Arena): Promise<TargetRun> {
    const devices = await arena.provision(4);
    const [read, call, revoked] = await Promise.all(
      [['read'], ['call', 'read'], ['read']].map((scopes) => arena.key(scopes)),
    );
    if (read === undefined || call === undefined || revoked === undefined) throw new Error('no keys');
    await arena.broker.api(`/v1/keys/${revoked.id}`, { method: 'DELETE' });
    const group = 'fuzz-stream';
    const made = await arena.broker.api('/v1/subscriptions', { method: 'POST', body: { name: group } });
    if (made.status !== 201 && made.status !== 200)
      throw new Error(`POST /v1/subscriptions: ${made.status} ${made.text}`);
    const keys = { read: read.key, call: call.key, revoked: revoked.key };
    return new StreamRun(
      arena,
      keys,
      devices.map(({ code }) => code),
      group,
    );
  },
};
