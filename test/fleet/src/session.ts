/** One WebSocket of a device from the 101 to its end: Cseq, answers, keepalives (protocol 6 and 7).
 *  Every request of the device ends in exactly one outcome: answered, unanswered (deadline), lost (socket gone) or unsent.
 *  Bounds: 1024 requests waiting for an answer, 64 MiB not yet taken by the kernel; past them a request is `unsent`.
 *  `closed` is reported exactly once. Registering and reconnecting are not done here. */

import type { Socket } from 'node:net';
import { type RawData, WebSocket } from 'ws';
import {
  type BrokerAnswer,
  type DeviceRequest,
  type Json,
  numberOf,
  type RegisterAck,
  readMessage,
  requestText,
} from './envelope.ts';
import { frameBytes, type RawFrame } from './raw-frame.ts';
import type { Timer, TimerWheel } from './timer-wheel.ts';

export type SendOutcome =
  | { readonly status: 'answered'; readonly answer: BrokerAnswer; readonly tookMs: number }
  | { readonly status: 'unanswered' | 'lost' | 'unsent' };

export interface SessionHandlers {
  onAck(ack: RegisterAck): void;
  onRequest(request: DeviceRequest): void;
  onKeepalive(outcome: SendOutcome): void;
  /** Keepalives stayed without an answer, one after the other: the line is dead. */
  onSilence(): void;
  /** A message that is no LAPI message, or an answer nobody waits for. */
  onStray(text: string): void;
  onClosed(code: number, reason: string): void;
}

export interface SessionLimits {
  readonly answerDeadlineMs: number;
  /** Until the server has told its Timeout. */
  readonly keepaliveMs: number;
  /** Unanswered keepalives in a row that make the line dead. */
  readonly keepaliveMisses: number;
}

interface Pending {
  readonly done: (outcome: SendOutcome) => void;
  readonly timer: Timer;
  readonly sentAtMs: number;
}

const KEEPALIVE_URL = '/LAPI/V1.0/System/UpServer/Keepalive';
const PENDING_LIMIT = 1024;
const UNWRITTEN_LIMIT_BYTES = 64 * 1024 * 1024;

export class DeviceSession {
  readonly #socket: WebSocket;
  readonly #tcp: Socket;
  readonly #timers: TimerWheel;
  readonly #limits: SessionLimits;
  readonly #handlers: SessionHandlers;
  readonly #pending = new Map<number, Pending>();
  #nextCseq = 1;
  #keepaliveMs: number;
  #missedKeepalives = 0;
  #keepaliveTimer: Timer | undefined;
  #closeTimer: Timer | undefined;
  #keepsAlive: boolean = false;
  #frozen: boolean = false;
  #closed: boolean = false;

  constructor(
    sockets: { readonly socket: WebSocket; readonly tcp: Socket },
    timers: TimerWheel,
    limits: SessionLimits,
    handlers: SessionHandlers,
  ) {
    this.#socket = sockets.socket;
    this.#tcp = sockets.tcp;
    this.#timers = timers;
    this.#limits = limits;
    this.#handlers = handlers;
    this.#keepaliveMs = limits.keepaliveMs;
    this.#socket.removeAllListeners('error');
    // Every error of ws is followed by close, which says all a device can know.
    this.#socket.on('error', () => undefined);
    this.#socket.on('message', (data, isBinary) => this.#receive(data, isBinary));
    this.#socket.on('close', (code, reason) => this.#end(code, reason.toString()));
  }

  /** Requests that wait for an answer. */
  get waiting(): number {
    return this.#pending.size;
  }

  get frozen(): boolean {
    return this.#frozen;
  }

  /** The interval told by the server, in ms. */
  get keepaliveMs(): number {
    return this.#keepaliveMs;
  }

  request(url: string, method: string, data: Json, done: (outcome: SendOutcome) => void): void {
    const writable = this.#socket.readyState === WebSocket.OPEN && this.#socket.bufferedAmount < UNWRITTEN_LIMIT_BYTES;
    if (!writable || this.#pending.size >= PENDING_LIMIT) {
      done({ status: 'unsent' });
      return;
    }
    const cseq = this.#nextCseq;
    this.#nextCseq += 1;
    const timer = this.#timers.after(this.#limits.answerDeadlineMs, () => this.#settle(cseq, { status: 'unanswered' }));
    this.#pending.set(cseq, { done, timer, sentAtMs: performance.now() });
    this.sendText(requestText(url, method, cseq, data));
  }

  /** One text message as it is. A frozen or closed session swallows it. */
  sendText(text: string): void {
    if (!this.#frozen && this.#socket.readyState === WebSocket.OPEN) this.#socket.send(text);
  }

  /** One frame that need not follow the rules. */
  sendFrame(frame: RawFrame): void {
    this.sendBytes(frameBytes(frame));
  }

  /** Bytes straight into the TCP connection. */
  sendBytes(bytes: Uint8Array): void {
    if (!this.#frozen && this.#socket.readyState === WebSocket.OPEN) this.#tcp.write(bytes);
  }

  /** From here on one keepalive each time the interval told by the server has passed (K2). */
  startKeepalive(firstMs: number): void {
    this.#keepsAlive = true;
    this.#scheduleKeepalive(firstMs);
  }

  /** One keepalive out of turn. The next regular one counts from its answer. */
  keepalive(done: (outcome: SendOutcome) => void = () => undefined): void {
    this.#timers.cancel(this.#keepaliveTimer);
    this.request(KEEPALIVE_URL, 'PUT', {}, (outcome) => {
      this.#judgeKeepalive(outcome);
      this.#handlers.onKeepalive(outcome);
      done(outcome);
    });
  }

  /** Reads and writes nothing more while TCP stays open: the other side sees a device that is there and says nothing. */
  freeze(): void {
    this.#frozen = true;
    this.#keepsAlive = false;
    this.#timers.cancel(this.#keepaliveTimer);
    this.#socket.pause();
  }

  /** Close frame first. The socket goes away within `closeMs` whatever the server does. */
  close(closeMs: number): void {
    if (this.#closed) return;
    if (this.#frozen) {
      this.terminate();
      return;
    }
    this.#closeTimer ??= this.#timers.after(closeMs, () => this.terminate());
    this.#socket.close(1000);
  }

  /** Ends TCP at once, without a close frame. `closed` is reported before this returns. */
  terminate(): void {
    if (this.#closed) return;
    this.#socket.terminate();
    this.#tcp.destroy();
    this.#end(1006, '');
  }

  #receive(data: RawData, isBinary: boolean): void {
    if (this.#closed || this.#frozen) return;
    const text = Buffer.isBuffer(data) ? data.toString() : '';
    const message = isBinary ? ({ kind: 'unreadable' } as const) : readMessage(text);
    switch (message.kind) {
      case 'request':
        this.#handlers.onRequest(message.request);
        break;
      case 'answer':
        if (!this.#answered(message.cseq, message.answer)) this.#handlers.onStray(text);
        break;
      case 'ack':
        this.#handlers.onAck(message.ack);
        break;
      case 'unreadable':
        this.#handlers.onStray(text);
        break;
    }
  }

  #answered(cseq: number, answer: BrokerAnswer): boolean {
    const pending = this.#pending.get(cseq);
    if (pending === undefined) return false;
    this.#settle(cseq, { status: 'answered', answer, tookMs: performance.now() - pending.sentAtMs });
    return true;
  }

  #settle(cseq: number, outcome: SendOutcome): void {
    const pending = this.#pending.get(cseq);
    if (pending === undefined) return;
    this.#pending.delete(cseq);
    this.#timers.cancel(pending.timer);
    pending.done(outcome);
  }

  #judgeKeepalive(outcome: SendOutcome): void {
    if (outcome.status === 'answered') {
      this.#missedKeepalives = 0;
      const timeoutS = numberOf(outcome.answer.data.Timeout);
      if (timeoutS !== undefined && timeoutS > 0) this.#keepaliveMs = timeoutS * 1000;
      this.#scheduleKeepalive(this.#keepaliveMs);
    } else if (outcome.status === 'unanswered' && !this.#frozen) {
      this.#missedKeepalives += 1;
      if (this.#missedKeepalives >= this.#limits.keepaliveMisses) this.#handlers.onSilence();
      else this.#scheduleKeepalive(0);
    } else if (outcome.status === 'unsent') {
      this.#scheduleKeepalive(this.#limits.answerDeadlineMs);
    }
  }

  #scheduleKeepalive(delayMs: number): void {
    this.#timers.cancel(this.#keepaliveTimer);
    if (this.#keepsAlive && !this.#closed) this.#keepaliveTimer = this.#timers.after(delayMs, () => this.keepalive());
  }

  #end(code: number, reason: string): void {
    if (this.#closed) return;
    this.#closed = true;
    this.#keepsAlive = false;
    this.#timers.cancel(this.#keepaliveTimer);
    this.#timers.cancel(this.#closeTimer);
    for (const cseq of [...this.#pending.keys()]) this.#settle(cseq, { status: 'lost' });
    this.#handlers.onClosed(code, reason);
  }
}
