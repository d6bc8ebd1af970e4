/** A device made of bytes: a TCP socket that speaks HTTP and WebSocket frames by hand, so that tests can do what no client library would.
 *  Written against the protocol from the device's side; shares no code with the broker. */

import { createHmac, randomBytes } from 'node:crypto';
import { createConnection, type Socket } from 'node:net';
import { waitFor } from '@lapi-broker/fixture';

export const REGISTER = '/LAPI/V1.0/System/UpServer/Register';

export interface HttpAnswer {
  readonly status: number;
  /** Lower-case names. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: string;
}

export interface Frame {
  readonly opcode: number;
  readonly payload: Buffer;
}

export interface Identity {
  readonly code: string;
  readonly secret: string;
  readonly vendor?: string;
  readonly deviceType?: string;
  /** Undefined: the parameter is left out. */
  readonly algorithm?: string | undefined;
  readonly cnonce?: string;
}

/** Protocol 3.1. */
export function signOf(identity: Identity, nonce: string): string {
  const { code, secret, vendor = 'Uniview', deviceType = 'NVR', algorithm = 'HMAC-SHA256' } = identity;
  return createHmac('sha256', secret).update(`${vendor}/${deviceType}/${code}/${algorithm}/${nonce}`).digest('base64');
}

export function registerQuery(
  identity: Identity,
  nonce: string,
  changes: Readonly<Record<string, string>> = {},
): string {
  const {
    code,
    vendor = 'Uniview',
    deviceType = 'NVR',
    algorithm = 'HMAC-SHA256',
    cnonce = 'zY9xW8vU7tS6rQ5p',
  } = identity;
  const parameters: Record<string, string> = {
    Vendor: vendor,
    DeviceType: deviceType,
    DeviceCode: code,
    Algorithm: algorithm,
    Nonce: nonce,
    Cnonce: cnonce,
    Sign: encodeURIComponent(signOf(identity, nonce)),
    ...changes,
  };
  return Object.entries(parameters)
    .map(([name, value]) => `${name}=${value}`)
    .join('&');
}

export class Wire {
  readonly frames: Frame[] = [];
  closed = false;
  /** All that came, HTTP and WebSocket. */
  receivedBytes = 0;
  /** Payload of the close frame from the broker: code, or undefined. */
  closeCode: number | undefined;
  /** Sees each frame as it comes; true = taken, it is not kept in `frames`. */
  onFrame: ((frame: Frame) => boolean) | undefined;
  private readonly socket: Socket;
  private buffer: Buffer = Buffer.alloc(0);
  private upgraded = false;

  private constructor(socket: Socket) {
    this.socket = socket;
    socket.on('data', (bytes) => {
      this.receivedBytes += bytes.length;
      this.buffer = Buffer.concat([this.buffer, bytes]);
      if (this.upgraded) this.parseFrames();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
    });
  }

  /** `url`: ws://host:port of an edge. `from`: loopback source address, to be another "site". */
  static async connect(url: string, from?: string): Promise<Wire> {
    const { hostname, port } = new URL(url);
    const socket = createConnection({
      host: hostname,
      port: Number(port),
      ...(from === undefined ? {} : { localAddress: from }),
    });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    socket.setNoDelay(true);
    return new Wire(socket);
  }

  /** Both steps of the registration on one connection; resolves after the 101. */
  static async register(url: string, identity: Identity, from?: string): Promise<Wire> {
    const wire = await Wire.connect(url, from);
    const challenge = await wire.get(REGISTER);
    const answer = await wire.get(`${REGISTER}?${registerQuery(identity, nonceOf(challenge))}`);
    if (answer.status !== 101) throw new Error(`register: ${answer.status} ${answer.body}`);
    return wire;
  }

  write(bytes: string | Buffer): void {
    this.socket.write(bytes);
  }

  /** A GET with the headers of a WebSocket handshake; `null` leaves a header out. Resolves with the answer. */
  async get(target: string, headers: Readonly<Record<string, string | null>> = {}): Promise<HttpAnswer> {
    return await this.request('GET', target, {
      Connection: 'Upgrade',
      Upgrade: 'websocket',
      'Sec-WebSocket-Key': randomBytes(16).toString('base64'),
      'Sec-WebSocket-Version': '13',
      ...headers,
    });
  }

  async request(
    method: string,
    target: string,
    headers: Readonly<Record<string, string | null>> = {},
  ): Promise<HttpAnswer> {
    const lines = Object.entries({ Host: 'broker.example', ...headers }).flatMap(([name, value]) =>
      value === null ? [] : [`${name}: ${value}`],
    );
    this.write(`${[`${method} ${target} HTTP/1.1`, ...lines].join('\r\n')}\r\n\r\n`);
    return await this.answer(method === 'HEAD');
  }

  /** The next HTTP answer on this connection. */
  async answer(withoutBody = false): Promise<HttpAnswer> {
    return await waitFor(() => this.takeAnswer(withoutBody), { deadlineMs: 10_000, what: 'an HTTP answer' });
  }

  /** As `answer`, for a connection that may be closed instead. */
  async answerOrEnd(): Promise<HttpAnswer | 'closed'> {
    return await waitFor(() => (this.closed && !this.buffer.includes('\r\n\r\n') ? 'closed' : this.takeAnswer(false)), {
      deadlineMs: 10_000,
      what: 'an HTTP answer, or the end',
    });
  }

  /** Sends one frame. Defaults: final, masked, text. */
  frame(
    payload: string | Buffer,
    options: { opcode?: number; final?: boolean; masked?: boolean; rsv?: number; maskKey?: Buffer } = {},
  ): void {
    this.write(encodeFrame(payload, options));
  }

  json(message: unknown): void {
    this.frame(JSON.stringify(message));
  }

  /** Takes the first text frame that matches, as parsed JSON. */
  async message(
    matches: (message: Record<string, unknown>) => boolean = () => true,
    deadlineMs = 10_000,
  ): Promise<Record<string, unknown>> {
    return await waitFor(
      () => {
        for (const [i, frame] of this.frames.entries()) {
          if (frame.opcode !== 1) continue;
          const message = JSON.parse(frame.payload.toString()) as Record<string, unknown>;
          if (!matches(message)) continue;
          this.frames.splice(i, 1);
          return message;
        }
        return undefined;
      },
      { deadlineMs, what: 'a message from the broker' },
    );
  }

  /** Waits for a request of the broker to this URL. */
  async call(url: string | RegExp, deadlineMs = 10_000): Promise<Record<string, unknown>> {
    return await this.message((message) => {
      const target = message.RequestURL;
      return typeof target === 'string' && (typeof url === 'string' ? target === url : url.test(target));
    }, deadlineMs);
  }

  /** Waits for the response to our own request. */
  async response(cseq: number | string, deadlineMs = 10_000): Promise<Record<string, unknown>> {
    return await this.message((message) => 'ResponseURL' in message && message.Cseq === cseq, deadlineMs);
  }

  /** Texts that came and were not taken. */
  texts(): string[] {
    return this.frames.filter((frame) => frame.opcode === 1).map((frame) => frame.payload.toString());
  }

  async untilClosed(deadlineMs = 10_000): Promise<void> {
    await waitFor(() => this.closed, { deadlineMs, what: 'the connection to be closed' });
  }

  /** Drops the connection at once, without a close frame. */
  destroy(): void {
    this.socket.destroy();
  }

  /** Sends FIN. */
  end(): void {
    this.socket.end();
  }

  pause(): void {
    this.socket.pause();
  }

  private takeAnswer(withoutBody: boolean): HttpAnswer | undefined {
    const headEnd = this.buffer.indexOf('\r\n\r\n');
    if (headEnd < 0) {
      if (this.closed) throw new Error('the connection was closed without an answer');
      return undefined;
    }
    const [statusLine = '', ...lines] = this.buffer.subarray(0, headEnd).toString('latin1').split('\r\n');
    const status = Number(statusLine.split(' ')[1]);
    const headers = new Map(
      lines.map((line) => {
        const colon = line.indexOf(':');
        return [line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim()] as const;
      }),
    );
    const length = withoutBody || status === 101 ? 0 : Number(headers.get('content-length') ?? 0);
    const bodyStart = headEnd + 4;
    if (this.buffer.length < bodyStart + length) return undefined;
    const body = this.buffer.subarray(bodyStart, bodyStart + length).toString();
    this.buffer = this.buffer.subarray(bodyStart + length);
    if (status === 101) {
      this.upgraded = true;
      this.parseFrames();
    }
    return { status, headers, body };
  }

  private parseFrames(): void {
    for (;;) {
      if (this.buffer.length < 2) return;
      const opcode = (this.buffer[0] as number) & 0x0f;
      let length = (this.buffer[1] as number) & 0x7f;
      let at = 2;
      if (length === 126) {
        if (this.buffer.length < 4) return;
        length = this.buffer.readUInt16BE(2);
        at = 4;
      } else if (length === 127) {
        if (this.buffer.length < 10) return;
        length = Number(this.buffer.readBigUInt64BE(2));
        at = 10;
      }
      if (this.buffer.length < at + length) return;
      const payload = Buffer.from(this.buffer.subarray(at, at + length));
      this.buffer = this.buffer.subarray(at + length);
      const frame = { opcode, payload };
      if (this.onFrame?.(frame) !== true) this.frames.push(frame);
      if (opcode === 8) this.closeCode = payload.length >= 2 ? payload.readUInt16BE(0) : undefined;
    }
  }
}

export function nonceOf(challenge: HttpAnswer): string {
  const { Nonce } = JSON.parse(challenge.body) as { Nonce?: string };
  if (Nonce === undefined) throw new Error(`no nonce in: ${challenge.status} ${challenge.body}`);
  return Nonce;
}

export function encodeFrame(
  payload: string | Buffer,
  options: { opcode?: number; final?: boolean; masked?: boolean; rsv?: number; maskKey?: Buffer } = {},
): Buffer {
  const { opcode = 1, final = true, masked = true, rsv = 0, maskKey = randomBytes(4) } = options;
  const body = Buffer.from(payload);
  const head = [(final ? 0x80 : 0) | (rsv << 4) | opcode];
  const mask = masked ? 0x80 : 0;
  if (body.length < 126) head.push(mask | body.length);
  else if (body.length < 65_536) head.push(mask | 126, body.length >> 8, body.length & 0xff);
  else {
    const length = Buffer.alloc(8);
    length.writeBigUInt64BE(BigInt(body.length));
    head.push(mask | 127, ...length);
  }
  if (!masked) return Buffer.concat([Buffer.from(head), body]);
  for (let i = 0; i < body.length; i++) body[i] = (body[i] as number) ^ (maskKey[i & 3] as number);
  return Buffer.concat([Buffer.from(head), maskKey, body]);
}
