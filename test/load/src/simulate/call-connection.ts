/** One keep-alive HTTP connection of a platform that calls devices: one call at a time, its answer read to the last byte and no further.
 *  Written on the bare socket, because a client library would cost more than the broker that is to be measured. Reads only answers with
 *  Content-Length, as all systems here send them. */

import { createConnection, type Socket } from 'node:net';

const READ_BYTES = 128 * 1024;
const HEAD_END = '\r\n\r\n';
const LENGTH = /\r\ncontent-length: *(\d+)/i;

export interface CallAnswer {
  readonly status: number;
  readonly bodyBytes: number;
  /** Does the first part of the answer name the device that was called? */
  readonly named: boolean;
  /** First part of an answer that is not 200. */
  readonly problem: string;
}

export class CallConnection {
  private readonly socket: Socket;
  private readonly host: string;
  private readonly onEnd: (error: Error) => void;
  private done: ((answer: CallAnswer) => void) | undefined;
  private code = '';
  private status = 0;
  private bodyBytes = 0;
  private named = false;
  private problem = '';
  private missing = -1;
  /** Head that has come in part. */
  private rest = '';

  private constructor(host: string, socket: Socket, onEnd: (error: Error) => void) {
    this.host = host;
    this.socket = socket;
    this.onEnd = onEnd;
  }

  static connect(port: number, headers: string, onEnd: (error: Error) => void): Promise<CallConnection> {
    return new Promise((resolve, reject) => {
      const buffer = Buffer.allocUnsafe(READ_BYTES);
      const socket = createConnection({
        port,
        host: '127.0.0.1',
        noDelay: true,
        onread: {
          buffer,
          callback: (bytes) => {
            connection.read(buffer, bytes);
            return true;
          },
        },
      });
      const connection = new CallConnection(`Host: 127.0.0.1\r\n${headers}`, socket, onEnd);
      socket.once('connect', () => resolve(connection));
      socket.once('error', (error) => {
        reject(error);
        onEnd(error);
      });
      socket.once('close', () => onEnd(new Error('the connection was closed')));
    });
  }

  get busy(): boolean {
    return this.done !== undefined;
  }

  /** `path` is what follows the code. With a body it is a POST of JSON, else a GET. */
  call(code: string, path: string, body: string | undefined, done: (answer: CallAnswer) => void): void {
    this.done = done;
    this.code = code;
    this.missing = -1;
    this.socket.write(
      body === undefined
        ? `GET /v1/devices/${code}${path} HTTP/1.1\r\n${this.host}\r\n`
        : `POST /v1/devices/${code}${path} HTTP/1.1\r\n${this.host}Content-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n${body}`,
      'latin1',
    );
  }

  close(): void {
    this.socket.removeAllListeners('close');
    this.socket.destroy();
  }

  private read(buffer: Buffer, bytes: number): void {
    let inBody = bytes;
    if (this.missing < 0) {
      const text = this.rest + buffer.toString('latin1', 0, Math.min(bytes, 1_024));
      const end = text.indexOf(HEAD_END);
      if (end < 0) {
        this.rest = text;
        return;
      }
      const head = text.slice(0, end);
      this.status = Number(head.slice(9, 12));
      this.bodyBytes = Number(LENGTH.exec(head)?.[1] ?? Number.NaN);
      if (Number.isNaN(this.bodyBytes)) {
        this.socket.destroy(new Error(`an answer without Content-Length: ${head}`));
        return;
      }
      this.missing = this.bodyBytes;
      inBody = this.rest.length + bytes - end - HEAD_END.length;
      this.named = text.indexOf(this.code, end) >= 0;
      this.problem = this.status < 300 ? '' : text.slice(end + HEAD_END.length);
      this.rest = '';
    }
    this.missing -= inBody;
    if (this.missing > 0) return;
    const { done, status, bodyBytes, named, problem } = this;
    this.done = undefined;
    if (this.missing < 0 || done === undefined) this.onEnd(new Error('more bytes came than were asked for'));
    else done({ status, bodyBytes, named, problem });
  }
}
