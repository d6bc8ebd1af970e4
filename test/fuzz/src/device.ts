/** A device of bytes: registers as protocol §2 says, answers the calls of the broker, and hands over every text it gets. Written from the
 *  protocol; shares no code with the broker. */

import { createHmac, randomInt } from 'node:crypto';
import { type Frame, frameBytes, requestBytes, Wire } from './wire.ts';

export const REGISTER = '/LAPI/V1.0/System/UpServer/Register';
export const KEEPALIVE = '/LAPI/V1.0/System/UpServer/Keepalive';

export interface Identity {
  readonly code: string;
  readonly secret: string;
}

/** What may be said in a second GET, before it is written into a query. */
export interface Claim {
  readonly vendor: string;
  readonly deviceType: string;
  readonly code: string;
  /** Undefined: the parameter is left out. */
  readonly algorithm: string | undefined;
  readonly nonce: string;
}

export const HANDSHAKE_HEADERS = {
  Connection: 'Upgrade',
  Upgrade: 'websocket',
  'Sec-WebSocket-Key': '9Xk0d2VqZ3Jhbm9kZTEyMw==',
  'Sec-WebSocket-Version': '13',
} as const;

const ANSWER_MS = 15_000;

export function claimOf(code: string, nonce: string): Claim {
  return { vendor: 'Uniview', deviceType: 'NVR', code, algorithm: 'HMAC-SHA256', nonce };
}

/** Protocol 3.1. */
export function signOf(secret: string | Buffer, { vendor, deviceType, code, algorithm = '', nonce }: Claim): string {
  return createHmac('sha256', secret).update(`${vendor}/${deviceType}/${code}/${algorithm}/${nonce}`).digest('base64');
}

export function queryOf(claim: Claim, sign: string): [name: string, value: string][] {
  const { vendor, deviceType, code, algorithm, nonce } = claim;
  return [
    ['Vendor', encodeURIComponent(vendor)],
    ['DeviceType', encodeURIComponent(deviceType)],
    ['DeviceCode', code],
    ...(algorithm === undefined ? [] : [['Algorithm', algorithm] as [string, string]]),
    ['Nonce', nonce],
    ['Cnonce', 'zY9xW8vU7tS6rQ5p'],
    ['Sign', encodeURIComponent(sign)],
  ];
}

export function targetOf(query: readonly (readonly [string, string])[], path: string = REGISTER): string {
  return `${path}?${query.map(([name, value]) => `${name}=${value}`).join('&')}`;
}

/** The nonce of a 401 (protocol 2.2); undefined if there is none. */
export function nonceIn(body: Buffer): string | undefined {
  return /"Nonce":"([0-9A-Za-z]{16})"/.exec(body.toString('latin1'))?.[1];
}

/** A loopback address among many, so that no address is known for its failures (protocol F13, F14). */
export function someAddress(): string {
  return `127.${randomInt(1, 250)}.${randomInt(256)}.${randomInt(1, 255)}`;
}

export type Opened =
  | { readonly status: 'open'; readonly session: DeviceSession }
  | { readonly status: 'refused'; readonly answer: number | string };

export class DeviceSession {
  readonly identity: Identity;
  readonly wire: Wire;
  /** Monotonic, of the 101. */
  readonly openedMs = performance.now();
  /** Sees every text; true = a call of the broker that is not to be answered as usual. */
  onText: ((text: string, message: Readonly<Record<string, unknown>>) => boolean) | undefined;
  /** Sees pongs. */
  onPong: ((payload: Buffer) => void) | undefined;
  /** Something that the broker said and must not say: no JSON, or nothing of protocol 6.2. */
  broken: string | undefined;

  private constructor(identity: Identity, wire: Wire) {
    this.identity = identity;
    this.wire = wire;
    wire.onFrame((frame) => this.#received(frame));
  }

  static async open(port: number, identity: Identity): Promise<Opened> {
    const wire = await Wire.connect(port, someAddress());
    const first = await wire.ask(requestBytes('GET', REGISTER, HANDSHAKE_HEADERS), ANSWER_MS);
    const nonce = typeof first === 'string' ? undefined : nonceIn(first.body);
    if (nonce === undefined) {
      wire.destroy();
      return { status: 'refused', answer: typeof first === 'string' ? first : first.status };
    }
    const claim = claimOf(identity.code, nonce);
    const target = targetOf(queryOf(claim, signOf(identity.secret, claim)));
    const second = await wire.ask(requestBytes('GET', target, HANDSHAKE_HEADERS), ANSWER_MS);
    if (typeof second !== 'string' && second.status === 101) {
      return { status: 'open', session: new DeviceSession(identity, wire) };
    }
    wire.destroy();
    return { status: 'refused', answer: typeof second === 'string' ? second : second.status };
  }

  get usable(): boolean {
    return !this.wire.closed && this.wire.closeCode === undefined && this.fault === undefined;
  }

  get fault(): string | undefined {
    return this.broken ?? this.wire.broken;
  }

  send(text: string | Buffer): void {
    this.wire.write(frameBytes(text));
  }

  close(): void {
    this.wire.destroy();
  }

  #received({ opcode, payload }: Frame): void {
    if (opcode === 10) this.onPong?.(payload);
    if (opcode !== 1) return;
    const text = payload.toString();
    let message: unknown;
    try {
      message = JSON.parse(text);
    } catch {
      this.broken = `no JSON from the broker: ${text.slice(0, 200)}`;
      return;
    }
    if (!isBrokerMessage(message)) {
      this.broken = `not of protocol 6.2: ${text.slice(0, 200)}`;
      return;
    }
    if (this.onText?.(text, message) === true) return;
    const { RequestURL: url, Cseq: cseq } = message;
    if (url === undefined) return;
    this.send(JSON.stringify({ ResponseURL: url, ResponseCode: 0, ResponseString: 'Succeed', Cseq: cseq, Data: {} }));
  }
}

/** A request with a number, a response, or the acknowledgement of A1. */
function isBrokerMessage(message: unknown): message is Record<string, unknown> {
  if (typeof message !== 'object' || message === null) return false;
  if ('RequestURL' in message) return 'Cseq' in message && typeof message.Cseq === 'number' && 'Method' in message;
  if ('ResponseURL' in message) return 'ResponseCode' in message && typeof message.ResponseCode === 'number';
  return 'Cnonce' in message;
}
