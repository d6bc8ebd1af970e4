/** One simulated camera, recorder or radar: registers, keeps alive, answers calls, sends events, comes back after a loss, leaves on stop.
 *  States: stopped → registering ⇄ waiting, registering → online → waiting, any → stopping → stopped.
 *  `online` is reported once per session, with the acknowledgement or without one if none came in time; `offline` once after each `online`.
 *  The broker away: the device tries again for ever, with a growing pause. start() and stop() are idempotent.
 *  Every event passes the device last, so that one listener can serve a whole fleet. */

import { EventEmitter } from 'node:events';
import { answerFromCatalogue } from './catalogue.ts';
import { type Answer, answerText, type DeviceRequest, type Json, type RegisterAck } from './envelope.ts';
import { Equipment } from './equipment.ts';
import {
  createEvent,
  EVENT_KINDS,
  type EventKind,
  type EventRates,
  notificationUrl,
  sendsKind,
  subscriptionBit,
} from './event.ts';
import { EventFeed } from './event-feed.ts';
import type { Faults } from './fault.ts';
import { type Attempt, type Edge, parseEdge, type RegisterOutcome, register } from './handshake.ts';
import { createPictures, type PicturePair } from './picture.ts';
import { type Profile, type ProfileName, profileOf } from './profile.ts';
import { createRandom, type Random, seedOf } from './random.ts';
import type { RawFrame } from './raw-frame.ts';
import { DEFAULT_RECONNECT, type ReconnectPolicy, reconnectDelayMs } from './reconnect.ts';
import { DeviceSession, type SendOutcome } from './session.ts';
import type { Identity, SignEncoding } from './signature.ts';
import { type Timer, TimerWheel } from './timer-wheel.ts';

export type DeviceState = 'stopped' | 'registering' | 'waiting' | 'online' | 'stopping';

/** What a test's hook may give back: an answer, the very text to send, nothing at all, or undefined for the usual answer. */
export type HookReply = Answer | { readonly text: string } | 'silent' | undefined;
export type RequestHook = (request: DeviceRequest) => HookReply | Promise<HookReply>;

/** How a session began. */
export interface OnlineFacts {
  /** Undefined when the broker sent none (A2). */
  readonly ack: RegisterAck | undefined;
  /** The acknowledgement repeats our Cnonce and our Sign (A1, A4). False without one. */
  readonly echoed: boolean;
  readonly url: string;
  /** From the first byte of step 1 to here. */
  readonly tookMs: number;
}

/** How a session ended. 1006 is a loss without a close frame. */
export interface OfflineFacts {
  readonly code: number;
  readonly reason: string;
  /** Who ended it: the other side or the line, the device's own stop, cut or reboot, or unanswered keepalives. */
  readonly cause: 'remote' | 'stop' | 'cut' | 'reboot' | 'silence';
}

/** A registration that came to nothing. */
export interface FailureFacts {
  readonly step: 1 | 2;
  /** `http 401`, `ECONNREFUSED`, `deadline` … */
  readonly reason: string;
  readonly httpStatus: number | undefined;
  readonly retryAfterMs: number | undefined;
  readonly nextAttemptMs: number;
}

export interface NotifiedFacts {
  readonly url: string;
  readonly outcome: SendOutcome;
}

export interface DeviceEvents {
  registering: [url: string, device: SimulatedDevice];
  failed: [failure: FailureFacts, device: SimulatedDevice];
  online: [facts: OnlineFacts, device: SimulatedDevice];
  offline: [facts: OfflineFacts, device: SimulatedDevice];
  /** A call arrived; it is emitted before any fault or hook. */
  request: [request: DeviceRequest, device: SimulatedDevice];
  /** The answer to it was handed to the socket. */
  answered: [request: DeviceRequest, device: SimulatedDevice];
  notified: [facts: NotifiedFacts, device: SimulatedDevice];
  keepalive: [outcome: SendOutcome, device: SimulatedDevice];
  stray: [text: string, device: SimulatedDevice];
}

export interface DeviceOptions {
  readonly code: string;
  readonly secret: string;
  /** ws:// or wss:// addresses of edges or of a balancer; each attempt takes the next one. */
  readonly urls: readonly string[];
  /** Index of the first URL to try. */
  readonly firstUrl?: number;
  readonly vendor?: string | Uint8Array;
  /** Default: that of the profile. */
  readonly deviceType?: string | Uint8Array;
  /** Default HMAC-SHA256; null leaves the parameter out. */
  readonly algorithm?: string | null;
  readonly profile?: ProfileName;
  /** Channels of an NVR. */
  readonly channels?: number;
  readonly faults?: Faults;
  readonly rates?: EventRates;
  /** Send events only while a subscription covers them. */
  readonly onlySubscribed?: boolean;
  readonly pictures?: PicturePair;
  readonly seed?: number;
  /** Real time in ms since 1970. */
  readonly nowMs?: () => number;
  /** Shared by a fleet; a device without one makes its own. */
  readonly timers?: TimerWheel;
  readonly localAddress?: string | undefined;
  readonly signEncoding?: SignEncoding;
  readonly sameConnection?: boolean;
  readonly verifyCertificate?: boolean;
  readonly zeroMask?: boolean;
  readonly reconnect?: ReconnectPolicy;
  readonly stepDeadlineMs?: number;
  /** How long to wait for the acknowledgement before being online without one. */
  readonly ackWaitMs?: number;
  readonly firstKeepaliveMs?: number;
  readonly keepaliveMisses?: number;
  readonly answerDeadlineMs?: number;
  /** How long a reboot takes. */
  readonly rebootMs?: number;
}

const NEXT: Readonly<Record<DeviceState, readonly DeviceState[]>> = {
  stopped: ['registering'],
  registering: ['online', 'waiting', 'stopping'],
  waiting: ['registering', 'stopping'],
  online: ['waiting', 'stopping'],
  stopping: ['stopped'],
};

const UNREGISTER_URL = '/LAPI/V1.0/System/UpServer/Unregister';
const KEEPALIVE_DEFAULT_MS = 60_000;
const GARBAGE_INTERVAL_MS = 1000;
const REBOOT_NOTICE_MS = 100;
const CLOSE_MS = 1000;

export class SimulatedDevice extends EventEmitter<DeviceEvents> {
  readonly code: string;
  readonly profile: Profile;
  readonly equipment: Equipment;
  /** Read at every decision, so it may be replaced while the device runs; half-open, flap and garbage count from the next session. */
  faults: Faults;
  /** Asked before the built-in answers. A hook that throws makes the answer code 1. */
  onRequest: RequestHook | undefined;

  readonly #options: DeviceOptions;
  readonly #edges: readonly Edge[];
  readonly #timers: TimerWheel;
  readonly #random: Random;
  readonly #nowMs: () => number;
  readonly #feed: EventFeed;
  #pictures: PicturePair | undefined;
  #state: DeviceState = 'stopped';
  #nextUrl: number;
  #attempt: Attempt | undefined;
  #session: DeviceSession | undefined;
  readonly #sessionTimers = new Set<Timer>();
  #wasOnline: boolean = false;
  #onGone: (() => void) | undefined;
  #reconnectTimer: Timer | undefined;
  #leaving: Promise<void> | undefined;
  #failures = 0;
  #onlineCount = 0;
  #lastFailure: string | undefined;
  #eventSeq = 0;
  #cause: OfflineFacts['cause'] = 'remote';

  constructor(options: DeviceOptions) {
    super();
    this.code = options.code;
    this.profile = profileOf(options.profile ?? 'nvr', options.channels);
    this.equipment = new Equipment(options.code, this.profile);
    this.faults = options.faults ?? {};
    this.#options = options;
    this.#edges = options.urls.map(edgeOf);
    if (this.#edges.length === 0) throw new RangeError('A device needs at least one URL.');
    this.#nextUrl = options.firstUrl ?? 0;
    this.#timers = options.timers ?? new TimerWheel();
    this.#random = createRandom(options.seed ?? seedOf(options.code));
    this.#nowMs = options.nowMs ?? Date.now;
    this.#pictures = options.pictures;
    this.#feed = new EventFeed(this.#timers, this.#random, ratesFor(this.profile.name, options.rates ?? {}), (kind) =>
      this.#speak(kind),
    );
  }

  get state(): DeviceState {
    return this.#state;
  }

  /** How often it came online since it was made. */
  get onlineCount(): number {
    return this.#onlineCount;
  }

  /** Why the last registration came to nothing; undefined after a success. */
  get lastFailure(): string | undefined {
    return this.#lastFailure;
  }

  /** The interval told by the broker; undefined while not online. */
  get keepaliveMs(): number | undefined {
    return this.#session?.keepaliveMs;
  }

  start(): void {
    if (this.#state === 'stopped') this.#register();
  }

  /** Unregisters if registered, then closes. Resolves when nothing is open any more, at the latest after `deadlineMs`. */
  stop(deadlineMs = 2000): Promise<void> {
    if (this.#state === 'stopped') return Promise.resolve();
    this.#leaving ??= this.#leave(deadlineMs).finally(() => {
      this.#leaving = undefined;
    });
    return this.#leaving;
  }

  /** Loses the connection without a word, then reconnects like after any loss. */
  cut(): void {
    this.#drop('cut');
  }

  /** Half-open from here on: reads and writes nothing, TCP stays. Ends with cut() or stop(). */
  freeze(): void {
    this.#feed.stop();
    this.#session?.freeze();
  }

  /** Sends any notification: a kind such as `Alarm`, or a full URL. Resolves with what became of it; `unsent` while offline. */
  notify(kind: string, data: Json): Promise<SendOutcome> {
    return new Promise((resolve) => this.#notify(notificationUrl(kind), data, resolve));
  }

  /** Sends one event of the built-in kinds now, whatever the rates and subscriptions say. */
  sendEvent(kind: EventKind): Promise<SendOutcome> {
    const { url, data } = this.#createEvent(kind);
    return new Promise((resolve) => this.#notify(url, data, resolve));
  }

  /** Any request of the device: registered URLs, unknown ones, what a test needs. */
  request(url: string, method: string, data: Json): Promise<SendOutcome> {
    return new Promise((resolve) => {
      if (this.#session === undefined) resolve({ status: 'unsent' });
      else this.#session.request(url, method, data, resolve);
    });
  }

  /** A keepalive out of turn. */
  keepalive(): Promise<SendOutcome> {
    return new Promise((resolve) => {
      if (this.#session === undefined) resolve({ status: 'unsent' });
      else this.#session.keepalive(resolve);
    });
  }

  /** One text message as it is. */
  sendText(text: string): void {
    this.#session?.sendText(text);
  }

  /** One frame that need not follow the rules. */
  sendFrame(frame: RawFrame): void {
    this.#session?.sendFrame(frame);
  }

  /** Bytes straight into the TCP connection of the session. */
  sendBytes(bytes: Uint8Array): void {
    this.#session?.sendBytes(bytes);
  }

  /** True as soon as the device is online, false after `deadlineMs`. */
  untilOnline(deadlineMs = 10_000): Promise<boolean> {
    return this.#until('online', deadlineMs, () => this.#state === 'online');
  }

  /** True as soon as the device is not online, false after `deadlineMs`. */
  untilOffline(deadlineMs = 10_000): Promise<boolean> {
    return this.#until('offline', deadlineMs, () => this.#state !== 'online');
  }

  // ── Coming and going ──────────────────────────────────────────────────────────────────────────────────────────────

  #move(to: DeviceState): void {
    if (!NEXT[this.#state].includes(to)) throw new Error(`A device cannot go from ${this.#state} to ${to}.`);
    this.#state = to;
  }

  #register(): void {
    this.#move('registering');
    const index = this.#nextUrl % this.#edges.length;
    this.#nextUrl += 1;
    const edge = this.#edges[index];
    const url = this.#options.urls[index];
    if (edge === undefined || url === undefined) return;
    const startedMs = performance.now();
    this.emit('registering', url, this);
    // A listener may have stopped the device.
    if (this.#state !== 'registering') return;
    const options = this.#options;
    this.#attempt = register(
      edge,
      this.#identity(),
      this.faults.wrongSignature === true ? `not ${options.secret}` : options.secret,
      {
        timers: this.#timers,
        stepDeadlineMs: options.stepDeadlineMs ?? 10_000,
        signEncoding: options.signEncoding ?? 'percent',
        sameConnection: options.sameConnection ?? false,
        localAddress: options.localAddress,
        verifyCertificate: options.verifyCertificate ?? true,
        zeroMask: options.zeroMask ?? false,
      },
      (outcome) => {
        this.#attempt = undefined;
        if (outcome.status === 'registered') this.#open(outcome, url, startedMs);
        else this.#fail(outcome);
      },
    );
  }

  #identity(): Identity {
    const { vendor, deviceType, algorithm } = this.#options;
    return {
      vendor: vendor ?? 'Uniview',
      deviceType: deviceType ?? this.profile.deviceType,
      code: this.faults.unknownCode === true ? `X${this.code.slice(1)}` : this.code,
      algorithm: algorithm === null ? undefined : (algorithm ?? 'HMAC-SHA256'),
    };
  }

  #open(registered: Extract<RegisterOutcome, { status: 'registered' }>, url: string, startedMs: number): void {
    const { cnonce, sign } = registered;
    const beOnline = (ack: RegisterAck | undefined) => {
      if (this.#state !== 'registering' || this.#session !== session) return;
      this.#timers.cancel(ackTimer);
      const echoed = ack?.cnonce === cnonce && ack.resign === sign;
      this.#online({ ack, echoed, url, tookMs: performance.now() - startedMs });
    };
    const session = new DeviceSession(
      registered,
      this.#timers,
      {
        answerDeadlineMs: this.#options.answerDeadlineMs ?? 10_000,
        keepaliveMs: KEEPALIVE_DEFAULT_MS,
        keepaliveMisses: this.#options.keepaliveMisses ?? 3,
      },
      {
        onAck: beOnline,
        onRequest: (request) => {
          // Without an acknowledgement the first call tells as well that the broker has accepted us.
          beOnline(undefined);
          this.#answer(request, session);
        },
        onKeepalive: (outcome) => this.emit('keepalive', outcome, this),
        onSilence: () => this.#drop('silence'),
        onStray: (text) => this.emit('stray', text, this),
        onClosed: (code, reason) => {
          this.#timers.cancel(ackTimer);
          this.#closed(session, code, reason);
        },
      },
    );
    const ackTimer = this.#timers.after(this.#options.ackWaitMs ?? 1000, () => beOnline(undefined));
    this.#session = session;
    this.#cause = 'remote';
  }

  #online(facts: OnlineFacts): void {
    this.#move('online');
    this.#failures = 0;
    this.#lastFailure = undefined;
    this.#onlineCount += 1;
    this.#wasOnline = true;
    const session = this.#session;
    if (session === undefined) return;
    const { faults } = this;
    if (faults.noKeepalive !== true) session.startKeepalive(this.#options.firstKeepaliveMs ?? 0);
    this.#feed.start();
    if (faults.halfOpenAfterMs !== undefined) this.#during(faults.halfOpenAfterMs, () => this.freeze());
    if (faults.flapMs !== undefined) this.#during(faults.flapMs, () => this.cut());
    if (faults.garbage !== undefined) this.#babble();
    this.emit('online', facts, this);
  }

  #fail(outcome: Exclude<RegisterOutcome, { status: 'registered' }>): void {
    const refused = outcome.status === 'refused';
    const retryAfterMs = refused ? outcome.retryAfterMs : undefined;
    const reason = refused ? `http ${outcome.httpStatus}` : outcome.reason;
    this.#lastFailure = `step ${outcome.step}: ${reason}`;
    this.#failures += 1;
    const nextAttemptMs = this.#wait(retryAfterMs);
    this.emit(
      'failed',
      { step: outcome.step, reason, httpStatus: refused ? outcome.httpStatus : undefined, retryAfterMs, nextAttemptMs },
      this,
    );
  }

  #closed(session: DeviceSession, code: number, reason: string): void {
    if (this.#session !== session) return;
    this.#session = undefined;
    for (const timer of this.#sessionTimers) this.#timers.cancel(timer);
    this.#sessionTimers.clear();
    this.#feed.stop();
    this.equipment.subscriptions.clear();
    this.#onGone?.();
    if (!this.#wasOnline) {
      // Accepted and closed before the device was told: counts as a refused registration.
      if (this.#state === 'registering') this.#fail({ status: 'failed', step: 2, reason: `closed ${code}` });
      return;
    }
    this.#wasOnline = false;
    const cause = this.#cause;
    if (cause === 'reboot') this.equipment.restart();
    if (this.#state === 'online') {
      if (cause === 'reboot') this.#waitFor(this.#options.rebootMs ?? 5000);
      else this.#wait(undefined);
    }
    this.emit('offline', { code, reason, cause }, this);
  }

  #wait(retryAfterMs: number | undefined): number {
    const storm = this.faults.storm === true || this.faults.flapMs !== undefined;
    const situation = { failures: this.#failures, retryAfterMs, storm };
    const delayMs = reconnectDelayMs(this.#options.reconnect ?? DEFAULT_RECONNECT, situation, this.#random);
    this.#waitFor(delayMs);
    return delayMs;
  }

  #waitFor(delayMs: number): void {
    this.#move('waiting');
    this.#reconnectTimer = this.#timers.after(delayMs, () => this.#register());
  }

  #drop(cause: OfflineFacts['cause']): void {
    if (this.#session === undefined || this.#state === 'stopping') return;
    this.#cause = cause;
    this.#session.terminate();
  }

  async #leave(deadlineMs: number): Promise<void> {
    this.#move('stopping');
    this.#cause = 'stop';
    this.#attempt?.abort();
    this.#attempt = undefined;
    this.#timers.cancel(this.#reconnectTimer);
    this.#feed.stop();
    const session = this.#session;
    if (session !== undefined) {
      const gone = new Promise<void>((resolve) => {
        this.#onGone = resolve;
      });
      const deadline = this.#timers.after(deadlineMs, () => session.terminate());
      if (session.frozen) session.terminate();
      else await this.request(UNREGISTER_URL, 'PUT', {});
      // The broker closes after Unregister (D1); a device that waits in vain closes itself.
      if (this.#session === session) this.#during(CLOSE_MS, () => session.close(CLOSE_MS));
      await gone;
      this.#timers.cancel(deadline);
    }
    this.#move('stopped');
  }

  #during(delayMs: number, run: () => void): void {
    const timer = this.#timers.after(delayMs, () => {
      this.#sessionTimers.delete(timer);
      run();
    });
    this.#sessionTimers.add(timer);
  }

  #until(event: 'online' | 'offline', deadlineMs: number, reached: () => boolean): Promise<boolean> {
    if (reached()) return Promise.resolve(true);
    return new Promise((resolve) => {
      const listener = () => {
        this.#timers.cancel(timer);
        resolve(true);
      };
      const timer = this.#timers.after(deadlineMs, () => {
        this.off(event, listener);
        resolve(false);
      });
      this.once(event, listener);
    });
  }

  // ── Answering calls ───────────────────────────────────────────────────────────────────────────────────────────────

  #answer(request: DeviceRequest, session: DeviceSession): void {
    this.emit('request', request, this);
    if (this.faults.mute === true) return;
    const asked = this.#askHook(request);
    if (asked instanceof Promise) {
      void asked.then(
        (reply) => this.#reply(request, session, reply),
        () => this.#reply(request, session, { code: 1 }),
      );
    } else {
      this.#reply(request, session, asked);
    }
  }

  #askHook(request: DeviceRequest): HookReply | Promise<HookReply> {
    try {
      return this.onRequest?.(request);
    } catch {
      return { code: 1 };
    }
  }

  #reply(request: DeviceRequest, session: DeviceSession, hooked: HookReply): void {
    if (hooked === 'silent') return;
    if (hooked !== undefined && 'text' in hooked) {
      this.#deliver(request, session, hooked.text);
      return;
    }
    const scene = { equipment: this.equipment, pictures: this.#pictureSet(), nowMs: this.#nowMs() };
    const answer = hooked ?? answerFromCatalogue(request, scene);
    this.#deliver(request, session, answerText(request, this.#padded(answer)));
    if ('effect' in answer && answer.effect === 'reboot') this.#during(REBOOT_NOTICE_MS, () => this.#drop('reboot'));
  }

  #padded(answer: Answer): Answer {
    const bytes = this.faults.bigAnswerBytes ?? 0;
    return answer.code === 0 && bytes > 0
      ? { ...answer, data: { ...answer.data, Padding: '.'.repeat(bytes) } }
      : answer;
  }

  #deliver(request: DeviceRequest, session: DeviceSession, text: string): void {
    // The socket that asked is the only one that may be answered.
    if (this.#session !== session) return;
    const write = () => {
      if (this.faults.unmasked === true) session.sendFrame({ opcode: 1, payload: Buffer.from(text), masked: false });
      else session.sendText(text);
      this.emit('answered', request, this);
    };
    const slowMs = this.faults.slowMs ?? 0;
    if (slowMs > 0) this.#during(slowMs, write);
    else write();
  }

  // ── Speaking unasked ──────────────────────────────────────────────────────────────────────────────────────────────

  #speak(kind: EventKind): void {
    const wanted = this.equipment.subscriptions.covers(subscriptionBit(kind), this.#nowMs());
    if (this.#options.onlySubscribed === true && !wanted) return;
    const { url, data } = this.#createEvent(kind);
    this.#notify(url, data, () => undefined);
  }

  #createEvent(kind: EventKind): { readonly url: string; readonly data: Json } {
    this.#eventSeq += 1;
    return createEvent(kind, {
      equipment: this.equipment,
      pictures: this.#pictureSet(),
      seq: this.#eventSeq,
      timeS: Math.floor(this.equipment.clockMs(this.#nowMs()) / 1000),
      random: this.#random,
    });
  }

  #notify(url: string, data: Json, done: (outcome: SendOutcome) => void): void {
    const finish = (outcome: SendOutcome) => {
      this.emit('notified', { url, outcome }, this);
      done(outcome);
    };
    if (this.#session === undefined || this.#state !== 'online') finish({ status: 'unsent' });
    else this.#session.request(url, 'POST', data, finish);
  }

  #babble(): void {
    this.#during(GARBAGE_INTERVAL_MS, () => {
      const kind = this.faults.garbage;
      if (kind === undefined) return;
      const broken = Buffer.from([0x7b, 0xff, 0xfe, 0x7d]);
      const payload = kind === 'text' || kind === 'rsv' ? Buffer.from('{"RequestURL": garbage') : broken;
      this.sendFrame({ opcode: kind === 'binary' ? 2 : 1, payload, rsv1: kind === 'rsv' });
      this.#babble();
    });
  }

  #pictureSet(): PicturePair {
    this.#pictures ??= createPictures(0);
    return this.#pictures;
  }
}

function ratesFor(profile: ProfileName, rates: EventRates): EventRates {
  return Object.fromEntries(
    Object.entries(rates).filter(([kind]) => EVENT_KINDS.some((known) => known === kind && sendsKind(profile, known))),
  );
}

function edgeOf(url: string): Edge {
  const edge = parseEdge(url);
  if (edge === undefined) throw new RangeError(`"${url}" is not a ws:// or wss:// address.`);
  return edge;
}
