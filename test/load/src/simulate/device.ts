/** One simulated device: a TCP socket that gets in by its dialect and then answers every call at once. Much lighter than the fleet of
 *  test/fleet, and able to do nothing else; the bytes are written by hand, all sockets share one read buffer, there is no timer each. */

import { createConnection, type Socket } from 'node:net';
import {
  type AnswerTemplate,
  type DeviceIdentity,
  type Dialect,
  firstRequest,
  KEEPALIVE,
  lapiAnswer,
  nonceIn,
  signedRequest,
  socketIoAnswer,
} from './dialect.ts';
import { verdictOf } from './notification.ts';
import { FrameReader } from './raw-frame.ts';

export type Entry =
  | { readonly status: 'in' }
  | { readonly status: 'refused'; readonly httpStatus: number; readonly retryAfterMs: number | undefined }
  | { readonly status: 'failed'; readonly cause: string };

export interface DeviceOptions {
  readonly dialect: Dialect;
  readonly port: number;
  /** Loopback source address, where one address has not enough ports. */
  readonly localAddress: string | undefined;
  readonly template: AnswerTemplate;
  /** A device that was in has lost its connection, unasked. */
  readonly onLost: (device: Device) => void;
  readonly onKeepaliveAnswered: () => void;
  /** A call has come, and is answered. */
  readonly onCalled: () => void;
  /** A notification was answered. */
  readonly onNotified: (device: Device, verdict: 'accepted' | 'refused') => void;
}

const READ_BYTES = 256 * 1024;
/** The runtime reads into it and calls back before it reads for the next socket. */
const shared = Buffer.allocUnsafe(READ_BYTES);
const HEAD_END = '\r\n\r\n';

export class Device {
  readonly identity: DeviceIdentity;
  private readonly options: DeviceOptions;
  private socket: Socket | undefined;
  private settle: ((entry: Entry) => void) | undefined;
  private reader: FrameReader | undefined;
  private text = '';
  private signed = false;

  constructor(identity: DeviceIdentity, options: DeviceOptions) {
    this.identity = identity;
    this.options = options;
  }

  get isIn(): boolean {
    return this.reader !== undefined && this.settle === undefined;
  }

  /** One attempt to get in. */
  enter(): Promise<Entry> {
    const { dialect, port, localAddress } = this.options;
    return new Promise((settle) => {
      this.settle = settle;
      this.text = '';
      this.signed = false;
      this.reader = undefined;
      const socket = createConnection({
        port,
        host: '127.0.0.1',
        noDelay: true,
        ...(localAddress === undefined ? {} : { localAddress }),
        onread: {
          buffer: shared,
          callback: (bytes) => {
            if (this.socket === socket) this.read(shared.subarray(0, bytes));
            return true;
          },
        },
      });
      this.socket = socket;
      socket.once('connect', () => socket.write(firstRequest(dialect, this.identity), 'latin1'));
      socket.on('error', (error) => this.gone(socket, error.message));
      socket.once('close', () => this.gone(socket, 'closed'));
    });
  }

  keepalive(): void {
    this.socket?.write(KEEPALIVE);
  }

  /** False while it is not in. */
  notify([head, tail]: readonly [Buffer, Buffer]): boolean {
    if (this.socket === undefined || !this.isIn) return false;
    this.socket.cork();
    this.socket.write(head);
    this.socket.write(tail);
    this.socket.uncork();
    return true;
  }

  /** Ends the connection with a reset: nothing of it lingers on either side. */
  cut(): void {
    const socket = this.socket;
    this.socket = undefined;
    this.reader = undefined;
    socket?.resetAndDestroy();
  }

  private read(bytes: Buffer): void {
    if (this.reader === undefined) {
      this.readHttp(bytes);
      return;
    }
    if (!this.reader.read(bytes)) this.socket?.destroy();
  }

  private readHttp(bytes: Buffer): void {
    this.text += bytes.toString('latin1');
    const end = this.text.indexOf(HEAD_END);
    if (end < 0) return;
    const status = Number(this.text.slice(9, 12));
    if (status === 101) {
      const rest = Buffer.from(this.text.slice(end + HEAD_END.length), 'latin1');
      this.text = '';
      this.reader = new FrameReader((message) => this.receive(message));
      if (this.options.dialect !== 'socketio') this.settled({ status: 'in' });
      if (rest.length > 0) this.read(rest);
      return;
    }
    const length = Number(/\r\ncontent-length: *(\d+)/i.exec(this.text)?.[1] ?? 0);
    if (this.text.length < end + HEAD_END.length + length) return;
    const nonce = status === 401 && !this.signed ? nonceIn(this.text) : undefined;
    if (nonce !== undefined) {
      this.text = '';
      this.signed = true;
      this.socket?.write(signedRequest(this.identity, nonce), 'latin1');
      return;
    }
    const retryAfter = /\r\nretry-after: *(\d+)/i.exec(this.text)?.[1];
    const socket = this.socket;
    this.socket = undefined;
    socket?.destroy();
    this.settled({
      status: 'refused',
      httpStatus: status,
      retryAfterMs: retryAfter === undefined ? undefined : Number(retryAfter) * 1_000,
    });
  }

  private receive(message: Buffer): void {
    const { dialect, template, onKeepaliveAnswered, onCalled, onNotified } = this.options;
    if (dialect === 'socketio') {
      const answer = socketIoAnswer(message, this.identity.code, template);
      if (answer === 'joined') this.settled({ status: 'in' });
      else if (answer !== undefined) this.socket?.write(answer);
      return;
    }
    const answer = lapiAnswer(message, this.identity.code, template);
    if (answer === undefined) {
      const verdict = verdictOf(message);
      if (verdict !== undefined) onNotified(this, verdict);
      else if (message.indexOf('Keepalive') >= 0) onKeepaliveAnswered();
      return;
    }
    onCalled();
    const [head, tail] = answer;
    if (tail === undefined) {
      this.socket?.write(head);
      return;
    }
    this.socket?.cork();
    this.socket?.write(head);
    this.socket?.write(tail);
    this.socket?.uncork();
  }

  private gone(socket: Socket, cause: string): void {
    if (this.socket !== socket) return;
    this.socket = undefined;
    const wasIn = this.isIn;
    this.reader = undefined;
    if (wasIn) this.options.onLost(this);
    else this.settled({ status: 'failed', cause });
  }

  private settled(entry: Entry): void {
    const settle = this.settle;
    this.settle = undefined;
    settle?.(entry);
  }
}
