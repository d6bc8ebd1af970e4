/** A device that writes down what it gets: every request with its marker and every answer, per socket, in the order in which they happen.
 *  It comes back after a loss, to the next edge in turn, as a device behind a balancer does; it can open a session elsewhere while the old
 *  socket is still open; it can stop reading; it can have a twin that registers under the same code. Sockets are numbered in the order of their
 *  101, those of a twin in the same row. What a request asks it to do stands in the request's Data.
 *  Edges away: it tries again until it is stopped. */

import {
  type Attempt,
  type Edge,
  parseEdge,
  type RegisterOutcome,
  register,
  type TimerWheel,
} from '@lapi-broker/fleet';
import { WebSocket } from 'ws';
import type { Reaction, Recorder } from '../history/history.ts';
import type { Chance } from '../random.ts';

const STEP_DEADLINE_MS = 4_000;
const KEEPALIVE_MS = 15_000;
const RECONNECT_MS = { from: 100, to: 600 };
const REFUSED_MS = { from: 500, to: 1_000 };
const KEEPALIVE = '/LAPI/V1.0/System/UpServer/Keepalive';

export interface WitnessOptions {
  readonly code: string;
  readonly secret: string;
  /** WebSocket URLs of the edges. */
  readonly urls: readonly string[];
  readonly recorder: Recorder;
  readonly timers: TimerWheel;
  readonly chance: Chance;
}

/** What stands in Data of a request of ours. */
export interface Order {
  readonly Marker: string;
  readonly Reaction: Reaction;
}

export class Witness {
  readonly code: string;
  readonly #options: WitnessOptions;
  readonly #secret: string;
  readonly #edges: readonly Edge[];
  readonly #recorder: Recorder;
  readonly #timers: TimerWheel;
  readonly #chance: Chance;
  /** Open sockets by number. */
  readonly #sockets = new Map<number, WebSocket>();
  readonly #row: { last: number };
  #lastSocket = 0;
  #deaf = false;
  /** Where it registers, or did last. */
  #edge = 0;
  #openEdge = 0;
  #attempt: Attempt | undefined;
  #retry: ReturnType<TimerWheel['after']> | undefined;
  #running = false;
  #cseq = 1;

  constructor(options: WitnessOptions, row: { last: number } = { last: 0 }) {
    const { code, secret, urls, recorder, timers, chance } = options;
    this.#options = options;
    this.#row = row;
    this.code = code;
    this.#secret = secret;
    this.#recorder = recorder;
    this.#timers = timers;
    this.#chance = chance;
    this.#edges = urls.map((url) => {
      const edge = parseEdge(url);
      if (edge === undefined) throw new TypeError(`not an edge: ${url}`);
      return edge;
    });
  }

  /** Is the newest socket open? */
  get online(): boolean {
    return this.#sockets.has(this.#lastSocket);
  }

  /** Index of the edge of the newest socket. */
  get edge(): number {
    return this.#openEdge;
  }

  /** Another device with this one's code and secret; to be started and stopped like any. */
  twin(): Witness {
    return new Witness(this.#options, this.#row);
  }

  /** Reads nothing more from its sockets until it may; what was sent waits in the line. */
  hold(deaf: boolean): void {
    this.#deaf = deaf;
    for (const socket of this.#sockets.values()) {
      if (deaf) socket.pause();
      else socket.resume();
    }
  }

  start(edge: number): void {
    if (this.#running) return;
    this.#running = true;
    this.#edge = edge;
    this.#register();
  }

  /** A further session at another edge; the old socket is left open, as by a device that lost its line and does not know it. */
  move(edge: number): void {
    if (!this.#running || this.#attempt !== undefined) return;
    this.#timers.cancel(this.#retry);
    this.#edge = edge;
    this.#register();
  }

  /** Its sockets are gone for it; it comes back, at the next edge. */
  cut(): void {
    for (const socket of this.#sockets.values()) socket.terminate();
  }

  stop(): void {
    this.#running = false;
    this.#attempt?.abort();
    this.#attempt = undefined;
    this.#timers.cancel(this.#retry);
    for (const socket of this.#sockets.values()) socket.terminate();
  }

  #register(): void {
    const edge = this.#edges[this.#edge];
    if (edge === undefined) throw new RangeError(`no edge ${this.#edge}`);
    this.#attempt = register(
      edge,
      { vendor: 'Uniview', deviceType: 'IPC', code: this.code, algorithm: 'HMAC-SHA256' },
      this.#secret,
      {
        timers: this.#timers,
        stepDeadlineMs: STEP_DEADLINE_MS,
        signEncoding: 'percent',
        sameConnection: true,
        localAddress: undefined,
        verifyCertificate: true,
        zeroMask: true,
      },
      (outcome) => this.#registered(outcome),
    );
  }

  #registered(outcome: RegisterOutcome): void {
    this.#attempt = undefined;
    if (outcome.status === 'registered') {
      this.#open(outcome.socket);
      return;
    }
    // A move that failed leaves the old session as it was.
    if (!this.online) this.#comeBack(outcome.status === 'refused' ? REFUSED_MS : RECONNECT_MS);
  }

  #comeBack({ from, to }: { readonly from: number; readonly to: number }): void {
    if (!this.#running) return;
    this.#edge = (this.#edge + 1) % this.#edges.length;
    this.#retry = this.#timers.after(this.#chance.between(from, to), () => this.#register());
  }

  #open(socket: WebSocket): void {
    const number = ++this.#row.last;
    this.#lastSocket = number;
    this.#openEdge = this.#edge;
    this.#sockets.set(number, socket);
    if (this.#deaf) socket.pause();
    this.#recorder.log({ kind: 'socket.open', device: this.code, socket: number, edge: this.#edge });
    socket.removeAllListeners('error');
    // Every error is followed by a close, which is all that a device can know.
    socket.on('error', () => undefined);
    socket.on('message', (bytes: Buffer) => this.#receive(number, socket, bytes.toString()));
    const keepalive = (): void => {
      if (socket.readyState !== WebSocket.OPEN) return;
      socket.send(JSON.stringify({ RequestURL: KEEPALIVE, Method: 'PUT', Cseq: this.#cseq++, Data: {} }));
      timer = this.#timers.after(KEEPALIVE_MS, keepalive);
    };
    let timer = this.#timers.after(KEEPALIVE_MS, keepalive);
    socket.once('close', (code) => {
      this.#timers.cancel(timer);
      this.#sockets.delete(number);
      this.#recorder.log({ kind: 'socket.close', device: this.code, socket: number, code });
      if (number === this.#lastSocket && this.#attempt === undefined) this.#comeBack(RECONNECT_MS);
    });
  }

  #receive(number: number, socket: WebSocket, text: string): void {
    const message = JSON.parse(text) as Record<string, unknown>;
    if (typeof message.RequestURL !== 'string') return;
    const url = message.RequestURL;
    const cseq = message.Cseq;
    const order = message.Data as Partial<Order> | undefined;
    if (order?.Marker === undefined || order.Reaction === undefined) {
      socket.send(answerText(url, cseq, true));
      return;
    }
    const { Marker: marker, Reaction: reaction } = order;
    this.#recorder.log({ kind: 'receive', device: this.code, socket: number, marker });
    if (reaction.kind === 'silence') return;
    this.#timers.after(reaction.afterMs, () => {
      if (socket.readyState !== WebSocket.OPEN) return;
      this.#recorder.log({ kind: 'answer', device: this.code, socket: number, marker, success: reaction.success });
      socket.send(answerText(url, cseq, reaction.success));
    });
  }
}

function answerText(url: string, cseq: unknown, success: boolean): string {
  return JSON.stringify({
    ResponseURL: url,
    ResponseCode: success ? 0 : 1,
    ResponseString: success ? 'Succeed' : 'Common Error',
    Cseq: cseq,
    Data: {},
  });
}
