/** A device that numbers its events: sends them in order and many at a time, writes down what it is told, and comes back after a loss, to the
 *  next edge. What was not answered with success it sends again, before anything new, unless it was told to let it be: then such a number has
 *  had its one chance.
 *  It keeps below the rate that the broker allows a session. Broker away: the device tries again until it is stopped. */

import { createHash } from 'node:crypto';
import { SimulatedDevice, type TimerWheel } from '@lapi-broker/fleet';
import type { EventRecorder } from './history.ts';

export interface SenderOptions {
  readonly code: string;
  readonly secret: string;
  /** WebSocket URLs of the edges. */
  readonly urls: readonly string[];
  readonly firstUrl: number;
  /** It sends 1 … events. */
  readonly events: number;
  /** At most 48, which is below what the broker allows a session. */
  readonly perSecond: number;
  /** Of padding in each event. */
  readonly dataBytes: number;
  readonly repeats: boolean;
  /** After each number that is sent for the first time. */
  readonly onSent: (sender: Sender) => void;
  readonly recorder: EventRecorder;
  readonly timers: TimerWheel;
}

const ALARM_URL = '/LAPI/V1.0/System/Event/Notification/Alarm';
/** Not answered yet. */
const IN_FLIGHT = 48;
/** Of the 100 that a session may send at once. */
const BURST = 90;
const TICK_MS = 25;
/** Sent at once when the rate allows, so that many are on their way together. */
const VOLLEY = 24;
/** After a refusal, so that a store that is away is not asked all the time. */
const REFUSED_PAUSE_MS = 200;
/** Apart from those that the device counts itself. */
const FIRST_CSEQ = 1_000_000;
const ABOVE_DOUBLES = 9_007_199_254_740_993n;

export class Sender {
  readonly code: string;
  readonly #options: SenderOptions;
  readonly #device: SimulatedDevice;
  /** Numbers by Cseq. */
  readonly #inFlight = new Map<number, number>();
  #again: number[] = [];
  #next = 1;
  #cseq = FIRST_CSEQ;
  #tokens = 0;
  #lastTickMs = 0;
  #notBeforeMs = 0;
  #stored = 0;
  #edge: number;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: SenderOptions) {
    this.#options = options;
    const { code, secret, urls, firstUrl, timers } = options;
    this.code = code;
    this.#edge = firstUrl;
    this.#device = new SimulatedDevice({
      code,
      secret,
      urls,
      firstUrl,
      timers,
      sameConnection: true,
      zeroMask: true,
      stepDeadlineMs: 4_000,
      reconnect: { minMs: 100, maxMs: 800 },
    });
    this.#device.on('online', ({ url }) => {
      this.#edge = urls.indexOf(url);
      this.#tokens = BURST;
    });
    this.#device.on('offline', ({ code: close, reason, cause }) => {
      options.recorder.log({ kind: 'offline', device: code, code: close, reason: `${cause} ${reason}` });
      this.#lost();
    });
    this.#device.on('stray', (text) => this.#answered(text));
  }

  get online(): boolean {
    return this.#device.state === 'online';
  }

  /** Index of the edge of the newest session. */
  get edge(): number {
    return this.#edge;
  }

  /** How many numbers have been sent at least once. */
  get sent(): number {
    return this.#next - 1;
  }

  /** How many numbers were stored, as far as the device was told. */
  get stored(): number {
    return this.#stored;
  }

  /** Has every number had its end? */
  get done(): boolean {
    return this.#next > this.#options.events && this.#again.length === 0 && this.#inFlight.size === 0;
  }

  start(): void {
    this.#device.start();
  }

  /** Begins to send; to be called once it is online. */
  begin(): void {
    this.#lastTickMs = performance.now();
    this.#timer ??= setInterval(() => this.#tick(), TICK_MS);
  }

  /** Its socket is gone for it; it comes back, at the next edge. */
  cut(): void {
    this.#device.cut();
  }

  async stop(): Promise<void> {
    clearInterval(this.#timer);
    await this.#device.stop();
  }

  #tick(): void {
    const nowMs = performance.now();
    this.#tokens = Math.min(BURST, this.#tokens + ((nowMs - this.#lastTickMs) / 1_000) * this.#options.perSecond);
    this.#lastTickMs = nowMs;
    if (!this.online || nowMs < this.#notBeforeMs || this.#tokens < VOLLEY) return;
    while (this.#tokens >= 1 && this.#inFlight.size < IN_FLIGHT) {
      const again = this.#again.shift();
      const number = again ?? (this.#next <= this.#options.events ? this.#next++ : undefined);
      if (number === undefined) return;
      this.#tokens -= 1;
      this.#send(number);
      if (again === undefined) this.#options.onSent(this);
    }
  }

  #send(number: number): void {
    const cseq = ++this.#cseq;
    const data = dataOf(number, this.#options.dataBytes);
    this.#inFlight.set(cseq, number);
    this.#options.recorder.log({ kind: 'send', device: this.code, number, hash: hashOf(data) });
    this.#device.sendText(`{"RequestURL":"${ALARM_URL}","Method":"PUT","Cseq":${cseq},"Data":${data}}`);
  }

  #answered(text: string): void {
    const answer = JSON.parse(text) as { readonly Cseq?: number; readonly ResponseCode?: number };
    const number = this.#inFlight.get(answer.Cseq ?? 0);
    if (number === undefined) return;
    this.#inFlight.delete(answer.Cseq ?? 0);
    const code = answer.ResponseCode ?? -1;
    this.#options.recorder.log({ kind: 'answer', device: this.code, number, code });
    if (code === 0) this.#stored += 1;
    else {
      this.#notBeforeMs = performance.now() + REFUSED_PAUSE_MS;
      this.#repeat([number]);
    }
  }

  #lost(): void {
    const numbers = [...this.#inFlight.values()];
    this.#inFlight.clear();
    for (const number of numbers) this.#options.recorder.log({ kind: 'unanswered', device: this.code, number });
    this.#repeat(numbers);
  }

  #repeat(numbers: readonly number[]): void {
    if (this.#options.repeats) this.#again = [...this.#again, ...numbers].sort((a, b) => a - b);
  }
}

/** Bytes that a JSON reader would not write again as they are: integers above 2^53, zeros at the end, escapes, blanks. */
export function dataOf(number: number, paddingBytes: number): string {
  const seq = number % 3 === 0 ? ABOVE_DOUBLES + 2n * BigInt(number) : BigInt(number);
  const name = number % 5 === 0 ? '"T\\u00fcr \\/ 1"' : '"Tür 1"';
  const alarm = `{"AlarmType":"MotionAlarmOn", "AlarmLevel":0,"AlarmSeq":${seq},"AlarmSrcName":${name}}`;
  return `{"Number":${number},"AlarmInfo":${alarm},"Weight":1.50e+2,"Padding":"${'x'.repeat(paddingBytes)}"}`;
}

export function hashOf(text: string): string {
  return createHash('sha256').update(text).digest('base64url').slice(0, 16);
}
