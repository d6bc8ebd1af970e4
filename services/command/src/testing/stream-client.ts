/** For tests: a platform on `WS /v1/stream` that keeps everything it was told, answers pings, and can stop reading.
 *  Written on a plain socket, because a browser-like client cannot stop. Frames of the broker are never fragmented. */

import { randomBytes } from 'node:crypto';
import { connect, type Socket } from 'node:net';
import { checkStreamMessage } from './message-check.ts';

export interface StreamMessage {
  readonly type: string;
  readonly id?: string;
  readonly subscription?: string;
  readonly cursor?: string;
  readonly event?: { readonly id: string; readonly code: string; readonly kind: string; readonly data: unknown };
  readonly gap?: unknown;
  readonly problem?: { readonly code: string; readonly detail: string };
  readonly reason?: string;
  readonly cursors?: Readonly<Record<string, string>>;
  readonly status?: number;
  readonly executed?: string;
  readonly response?: unknown;
  readonly store?: string;
  readonly consumer?: string;
  readonly ackId?: string;
  readonly attempt?: number;
  readonly maxInFlight?: number;
  readonly results?: readonly string[];
}

const TEXT = 1;
const BINARY = 2;
const CLOSE = 8;
const PING = 9;
const PONG = 10;

export class StreamClient {
  readonly messages: StreamMessage[] = [];
  readonly texts: string[] = [];
  /** Code 1006: the connection ended without a close frame. */
  closed: { readonly code: number; readonly reason: string } | undefined;
  pings = 0;
  readonly #socket: Socket;
  #bytes: Buffer;

  constructor(socket: Socket, rest: Buffer) {
    this.#socket = socket;
    this.#bytes = rest;
    socket.on('data', (chunk) => {
      this.#bytes = Buffer.concat([this.#bytes, chunk]);
      this.#read();
    });
    socket.on('error', () => undefined); // `close` follows.
    socket.on('close', () => {
      this.closed ??= { code: 1006, reason: '' };
    });
    this.#read();
  }

  named(type: string): StreamMessage[] {
    return this.messages.filter((message) => message.type === type);
  }

  eventIds(subscription?: string): string[] {
    return this.named('event')
      .filter((message) => subscription === undefined || message.subscription === subscription)
      .map(({ event }) => event?.id ?? '');
  }

  send(message: object | string): void {
    this.#frame(TEXT, Buffer.from(typeof message === 'string' ? message : JSON.stringify(message)));
  }

  sendBinary(bytes: Uint8Array): void {
    this.#frame(BINARY, bytes);
  }

  stopReading(): void {
    this.#socket.pause();
  }

  readOn(): void {
    this.#socket.resume();
  }

  close(): void {
    this.#socket.destroy();
  }

  #frame(opcode: number, payload: Uint8Array): void {
    const mask = randomBytes(4);
    const head =
      payload.length < 126
        ? Buffer.from([0x80 | opcode, 0x80 | payload.length])
        : Buffer.from([0x80 | opcode, 0x80 | 126, payload.length >> 8, payload.length & 0xff]);
    const masked = payload.map((byte, i) => byte ^ (mask[i % 4] as number));
    this.#socket.write(Buffer.concat([head, mask, masked]));
  }

  #read(): void {
    for (;;) {
      const bytes = this.#bytes;
      if (bytes.length < 2) return;
      let at = 2;
      let length = (bytes[1] as number) & 0x7f;
      if (length === 126) {
        if (bytes.length < 4) return;
        length = bytes.readUInt16BE(2);
        at = 4;
      } else if (length === 127) {
        if (bytes.length < 10) return;
        length = Number(bytes.readBigUInt64BE(2));
        at = 10;
      }
      if (bytes.length < at + length) return;
      const payload = bytes.subarray(at, at + length);
      this.#bytes = bytes.subarray(at + length);
      this.#take((bytes[0] as number) & 0x0f, payload);
    }
  }

  #take(opcode: number, payload: Buffer): void {
    if (opcode === TEXT) {
      this.texts.push(payload.toString());
      const message = JSON.parse(payload.toString()) as StreamMessage;
      checkStreamMessage(message);
      this.messages.push(message);
    } else if (opcode === PING) {
      this.pings += 1;
      this.#frame(PONG, payload);
    } else if (opcode === CLOSE) {
      this.closed = { code: payload.readUInt16BE(0), reason: payload.subarray(2).toString() };
      this.#socket.end();
    }
  }
}

/** Rejects with the status line when the answer is not 101. */
export function openStream(port: number, headers: Record<string, string>): Promise<StreamClient> {
  return new Promise((resolve, reject) => {
    const socket = connect(port, '127.0.0.1');
    const lines = [
      'GET /v1/stream HTTP/1.1',
      `Host: 127.0.0.1:${port}`,
      'Upgrade: websocket',
      'Connection: Upgrade',
      'Sec-WebSocket-Version: 13',
      `Sec-WebSocket-Key: ${randomBytes(16).toString('base64')}`,
      ...Object.entries(headers).map(([name, value]) => `${name}: ${value}`),
    ];
    socket.write(`${lines.join('\r\n')}\r\n\r\n`);
    socket.on('error', reject);
    let bytes: Buffer = Buffer.alloc(0);
    const onData = (chunk: Buffer): void => {
      bytes = Buffer.concat([bytes, chunk]);
      const end = bytes.indexOf('\r\n\r\n');
      if (end < 0) return;
      socket.off('data', onData);
      const status = bytes.toString('latin1', 0, bytes.indexOf('\r\n'));
      if (status.startsWith('HTTP/1.1 101')) {
        resolve(new StreamClient(socket, bytes.subarray(end + 4)));
      } else {
        socket.destroy();
        reject(new Error(status));
      }
    };
    socket.on('data', onData);
  });
}
