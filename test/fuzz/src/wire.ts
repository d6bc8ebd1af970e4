/** A TCP connection that sends any bytes and tells what comes back, driven by events because thousands are made per second. Reads HTTP answers
 *  with a length or in chunks, and after a 101 the frames of the broker, which it holds to protocol E1: final, unmasked, no RSV bits, text,
 *  close, ping or pong only. Written from the protocol; shares no code with the broker. */

import { createConnection, type Socket } from 'node:net';

export interface Answer {
  readonly status: number;
  /** Lower-case names. */
  readonly headers: ReadonlyMap<string, string>;
  readonly body: Buffer;
}

/** `closed`, `silent`: no (further) answer. */
export type Reply = Answer | 'closed' | 'silent' | 'garbled';

export interface Frame {
  readonly opcode: number;
  readonly payload: Buffer;
}

const CONNECT_MS = 10_000;
const HEAD_END = Buffer.from('\r\n\r\n');
const NO_BODY: ReadonlySet<number> = new Set([101, 204, 304]);

export class Wire {
  closed = false;
  /** Code of the close frame from the broker. */
  closeCode: number | undefined;
  /** What the broker sent against E1; undefined while it keeps to it. */
  broken: string | undefined;
  readonly #socket: Socket;
  #chunks: Buffer[] = [];
  #upgraded = false;
  #onFrame: ((frame: Frame) => void) | undefined;
  readonly #early: Frame[] = [];
  readonly #wakers = new Set<() => void>();

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.setNoDelay(true);
    socket.on('data', (bytes) => {
      this.#chunks.push(bytes);
      if (this.#upgraded) this.#readFrames();
      this.#wake();
    });
    socket.on('error', () => undefined);
    socket.on('close', () => {
      this.closed = true;
      this.#wake();
    });
  }

  /** `from`: loopback source address. */
  static async connect(port: number, from?: string): Promise<Wire> {
    const socket = createConnection({
      host: '127.0.0.1',
      port,
      ...(from === undefined ? {} : { localAddress: from }),
      timeout: CONNECT_MS,
    });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
      socket.once('timeout', () => {
        socket.destroy();
        reject(new Error('no connection in time'));
      });
    });
    socket.setTimeout(0);
    socket.removeAllListeners('timeout');
    socket.removeAllListeners('error');
    return new Wire(socket);
  }

  write(bytes: string | Buffer): void {
    if (!this.closed) this.#socket.write(bytes);
  }

  destroy(): void {
    this.#socket.destroy();
  }

  /** Sends a request and takes the first answer that is no interim one. */
  async ask(bytes: string | Buffer, waitMs: number, withoutBody = false): Promise<Reply> {
    this.write(bytes);
    return await this.answer(waitMs, withoutBody);
  }

  async answer(waitMs: number, withoutBody = false): Promise<Reply> {
    let reply: Reply | undefined;
    const done = await this.until(() => {
      reply = this.#takeAnswer(withoutBody);
      return reply !== undefined;
    }, waitMs);
    if (reply !== undefined) return reply;
    return done === 'closed' ? 'closed' : 'silent';
  }

  /** From the 101 on. Frames that came before anybody listened are told first. */
  onFrame(listener: (frame: Frame) => void): void {
    this.#onFrame = listener;
    for (const frame of this.#early.splice(0)) listener(frame);
  }

  /** Looks after everything that arrives. */
  async until(condition: () => boolean, waitMs: number): Promise<'yes' | 'closed' | 'late'> {
    if (condition()) return 'yes';
    if (this.closed) return 'closed';
    return await new Promise((resolve) => {
      const end = (how: 'yes' | 'closed' | 'late'): void => {
        clearTimeout(timer);
        this.#wakers.delete(waker);
        resolve(how);
      };
      const timer = setTimeout(() => end('late'), waitMs);
      const waker = (): void => {
        if (condition()) end('yes');
        else if (this.closed) end('closed');
      };
      this.#wakers.add(waker);
    });
  }

  async untilClosed(waitMs: number): Promise<boolean> {
    return (await this.until(() => this.closed, waitMs)) !== 'late';
  }

  #wake(): void {
    for (const waker of [...this.#wakers]) waker();
  }

  #buffered(): Buffer {
    const all = this.#chunks.length === 1 ? (this.#chunks[0] as Buffer) : Buffer.concat(this.#chunks);
    this.#chunks = [all];
    return all;
  }

  #takeAnswer(withoutBody: boolean): Reply | undefined {
    const bytes = this.#buffered();
    const headEnd = bytes.indexOf(HEAD_END);
    if (headEnd < 0) return undefined;
    const [statusLine = '', ...lines] = bytes.toString('latin1', 0, headEnd).split('\r\n');
    const status = Number(/^HTTP\/1\.1 (\d{3})/.exec(statusLine)?.[1]);
    if (Number.isNaN(status)) return 'garbled';
    if (status < 200 && status !== 101) {
      this.#chunks = [bytes.subarray(headEnd + HEAD_END.length)];
      return this.#takeAnswer(withoutBody);
    }
    const headers = new Map<string, string>();
    for (const line of lines) {
      const colon = line.indexOf(':');
      headers.set(line.slice(0, colon).toLowerCase(), line.slice(colon + 1).trim());
    }
    const start = headEnd + HEAD_END.length;
    const chunked = headers.get('transfer-encoding') === 'chunked';
    const end = headers.get('content-type')?.startsWith('text/event-stream')
      ? { at: bytes.length, body: bytes.subarray(start) }
      : withoutBody || NO_BODY.has(status)
        ? { at: start, body: Buffer.alloc(0) }
        : chunked
          ? dechunked(bytes, start)
          : sized(bytes, start, Number(headers.get('content-length') ?? 0));
    if (end === undefined) return undefined;
    this.#chunks = [bytes.subarray(end.at)];
    if (status === 101) {
      this.#upgraded = true;
      this.#readFrames();
    }
    return { status, headers, body: end.body };
  }

  #readFrames(): void {
    let bytes = this.#buffered();
    while (bytes.length >= 2 && this.broken === undefined) {
      const [first, second] = [bytes[0] as number, bytes[1] as number];
      const opcode = first & 0x0f;
      if ((first & 0xf0) !== 0x80) this.broken = `first byte of a frame ${first.toString(16)}`;
      else if ((second & 0x80) !== 0) this.broken = 'a masked frame';
      else if (![1, 8, 9, 10].includes(opcode)) this.broken = `opcode ${opcode}`;
      let length = second & 0x7f;
      let at = 2;
      if (length === 126) {
        if (bytes.length < 4) break;
        length = bytes.readUInt16BE(2);
        at = 4;
      } else if (length === 127) {
        if (bytes.length < 10) break;
        length = Number(bytes.readBigUInt64BE(2));
        at = 10;
      }
      if (bytes.length < at + length) break;
      const payload = bytes.subarray(at, at + length);
      bytes = bytes.subarray(at + length);
      if (opcode === 8) this.closeCode = payload.length >= 2 ? payload.readUInt16BE(0) : 1005;
      if (this.#onFrame === undefined) this.#early.push({ opcode, payload });
      else this.#onFrame({ opcode, payload });
    }
    this.#chunks = [bytes];
  }
}

function sized(bytes: Buffer, start: number, length: number): { at: number; body: Buffer } | undefined {
  const at = start + length;
  return bytes.length < at ? undefined : { at, body: bytes.subarray(start, at) };
}

function dechunked(bytes: Buffer, start: number): { at: number; body: Buffer } | undefined {
  const parts: Buffer[] = [];
  for (let at = start; ; ) {
    const lineEnd = bytes.indexOf('\r\n', at);
    if (lineEnd < 0) return undefined;
    const length = Number.parseInt(bytes.toString('latin1', at, lineEnd), 16);
    const partStart = lineEnd + 2;
    if (bytes.length < partStart + length + 2) return undefined;
    parts.push(bytes.subarray(partStart, partStart + length));
    at = partStart + length + 2;
    if (length === 0 || Number.isNaN(length)) return { at, body: Buffer.concat(parts) };
  }
}

/** A request as bytes; `null` leaves a header out. */
export function requestBytes(
  method: string,
  target: string,
  headers: Readonly<Record<string, string | null>> = {},
  body?: Buffer,
): Buffer {
  const all = {
    Host: 'broker.example',
    ...(body === undefined ? {} : { 'Content-Length': String(body.length) }),
    ...headers,
  };
  const lines = Object.entries(all).flatMap(([name, value]) => (value === null ? [] : [`${name}: ${value}`]));
  const head = Buffer.from(`${[`${method} ${target} HTTP/1.1`, ...lines].join('\r\n')}\r\n\r\n`, 'latin1');
  return body === undefined ? head : Buffer.concat([head, body]);
}

export interface FrameForm {
  readonly opcode?: number;
  readonly final?: boolean;
  readonly masked?: boolean;
  readonly rsv?: number;
  readonly mask?: Buffer;
  /** Length as told, if another than the real one. */
  readonly told?: number;
}

export function frameBytes(payload: string | Buffer, form: FrameForm = {}): Buffer {
  const { opcode = 1, final = true, masked = true, rsv = 0, mask = Buffer.from([0x37, 0xfa, 0x21, 0x3d]) } = form;
  const body = Buffer.from(payload);
  const length = form.told ?? body.length;
  const head = [(final ? 0x80 : 0) | (rsv << 4) | opcode];
  const maskBit = masked ? 0x80 : 0;
  if (length < 126) head.push(maskBit | length);
  else if (length < 65_536) head.push(maskBit | 126, length >> 8, length & 0xff);
  else {
    const long = Buffer.alloc(8);
    long.writeBigUInt64BE(BigInt(length));
    head.push(maskBit | 127, ...long);
  }
  if (!masked) return Buffer.concat([Buffer.from(head), body]);
  for (let i = 0; i < body.length; i++) body[i] = (body[i] as number) ^ (mask[i & 3] as number);
  return Buffer.concat([Buffer.from(head), mask, body]);
}
