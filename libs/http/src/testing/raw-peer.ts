/** A peer made of a bare TCP socket: sends exactly the bytes a test says and keeps what comes back, so that tests can do what no HTTP
 *  client would. Waits for states, with a deadline, never for a time. For tests of this package only. */
import { connect, type Socket } from 'node:net';

const DEADLINE_MS = 5000;

export const WEBSOCKET_KEY = '9Xk0d2VqZ3Jhbm9kZTEyMw==';

export interface RawPeer {
  readonly socket: Socket;
  /** All bytes received so far, as latin1. */
  text(): string;
  receivedBytes(): number;
  readonly closed: boolean;
  send(bytes: string | Uint8Array): void;
  /** Waits until the text received contains the pattern. */
  until(pattern: string | RegExp): Promise<string>;
  untilClosed(): Promise<void>;
  destroy(): void;
}

export async function rawPeer(port: number, host = '127.0.0.1', localAddress?: string): Promise<RawPeer> {
  const socket = connect({ port, host, ...(localAddress === undefined ? {} : { localAddress }) });
  const chunks: Buffer[] = [];
  let received = 0;
  let closed = false;
  const changed = new Set<() => void>();
  const notify = (): void => {
    for (const check of [...changed]) check();
  };
  socket.on('data', (chunk) => {
    chunks.push(chunk);
    received += chunk.length;
    notify();
  });
  // A reset is one of the ways in which a server says no; tests look at `closed`.
  socket.on('error', () => undefined);
  socket.on('close', () => {
    closed = true;
    notify();
  });
  await new Promise<void>((resolve, reject) => {
    socket.once('connect', resolve);
    socket.once('error', reject);
  });
  const text = (): string => Buffer.concat(chunks).toString('latin1');
  const wait = (what: string, holds: () => boolean): Promise<void> =>
    new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        changed.delete(check);
        reject(new Error(`no ${what} within ${DEADLINE_MS} ms; received: ${text().slice(0, 500)}`));
      }, DEADLINE_MS);
      const check = (): void => {
        if (!holds()) return;
        clearTimeout(timer);
        changed.delete(check);
        resolve();
      };
      changed.add(check);
      check();
    });
  return {
    socket,
    text,
    receivedBytes: () => received,
    get closed() {
      return closed;
    },
    send: (bytes) => void socket.write(bytes),
    until: async (pattern) => {
      await wait(String(pattern), () =>
        typeof pattern === 'string' ? text().includes(pattern) : pattern.test(text()),
      );
      return text();
    },
    untilClosed: () => wait('close', () => closed),
    destroy: () => void socket.destroy(),
  };
}

/** Waits for a state of the server, with a deadline. */
export async function eventually(holds: () => boolean, what: string): Promise<void> {
  const endMs = performance.now() + DEADLINE_MS;
  while (!holds()) {
    if (performance.now() > endMs) throw new Error(`not within ${DEADLINE_MS} ms: ${what}`);
    await new Promise((resolve) => setImmediate(resolve));
  }
}

export function get(target: string, headers: Readonly<Record<string, string>> = {}): string {
  return request('GET', target, headers);
}

export function request(
  method: string,
  target: string,
  headers: Readonly<Record<string, string>> = {},
  body = '',
): string {
  const lines = Object.entries({ Host: 'broker.test', ...headers }).map(([name, value]) => `${name}: ${value}\r\n`);
  return `${method} ${target} HTTP/1.1\r\n${lines.join('')}\r\n${body}`;
}

export function upgrade(target: string, headers: Readonly<Record<string, string>> = {}): string {
  return get(target, {
    Connection: 'Upgrade',
    Upgrade: 'websocket',
    'Sec-WebSocket-Key': WEBSOCKET_KEY,
    'Sec-WebSocket-Version': '13',
    ...headers,
  });
}

export interface FrameOptions {
  readonly fin?: boolean;
  /** The three reserved bits as a number, RSV1 = 4. */
  readonly rsv?: number;
}

/** A masked client frame of up to 64 KiB. */
export function frame(
  opcode: number,
  payload: string | Uint8Array,
  { fin = true, rsv = 0 }: FrameOptions = {},
): Buffer {
  const body = Buffer.from(payload);
  const head = body.length < 126 ? [0x80 | body.length] : [0x80 | 126, body.length >> 8, body.length & 0xff];
  const mask = [0x11, 0x22, 0x33, 0x44];
  const masked = body.map((byte, index) => byte ^ (mask[index % 4] ?? 0));
  return Buffer.concat([Buffer.from([(fin ? 0x80 : 0) | (rsv << 4) | opcode, ...head, ...mask]), masked]);
}

export const TEXT = 1;
export const BINARY = 2;
export const CLOSE = 8;
export const PING = 9;
export const PONG = 10;
