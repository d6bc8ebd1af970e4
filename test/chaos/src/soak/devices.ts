/** The devices of a long run: stay connected, answer every call at once, send numbered events at a pace, and come and go. A number that was not
 *  answered with success is sent again before the next one of that device. What they see goes to the ledgers. Broker away: they try again. */

import { SimulatedDevice, TimerWheel } from '@lapi-broker/fleet';
import type { Chance } from '../random.ts';
import type { CommandLedger } from './command-ledger.ts';
import { dataOf, type EventLedger } from './event-ledger.ts';
import type { Weather } from './window.ts';

const TICK_MS = 20;
/** Sent at once at most, when this process comes late. */
const VOLLEY = 60;
const TRIES = 12;
const AWAY_MS = { from: 500, to: 3_000 };
const RECONNECT = { minMs: 300, maxMs: 8_000 };

export interface DevicesOptions {
  readonly secrets: ReadonlyMap<string, string>;
  readonly urls: readonly string[];
  readonly events: EventLedger;
  readonly commands: CommandLedger;
  readonly chance: Chance;
  readonly weather: () => Weather;
}

interface Member {
  readonly device: SimulatedDevice;
  /** The last number that was sent, and whether it is stored. */
  number: number;
  stored: boolean;
  isSending: boolean;
  isAway: boolean;
  /** When it last went by itself. */
  leftMs: number;
  edge: number;
}

export class Devices {
  readonly #options: DevicesOptions;
  readonly #timers = new TimerWheel();
  readonly #members: readonly Member[];
  readonly #byCode: ReadonlyMap<string, Member>;
  readonly #ends = new Map<string, number>();
  readonly #pacers: NodeJS.Timeout[] = [];
  #notSent = 0;

  constructor(options: DevicesOptions) {
    this.#options = options;
    this.#members = [...options.secrets].map(([code, secret], i) => this.#member(code, secret, i));
    this.#byCode = new Map(this.#members.map((member) => [member.device.code, member]));
  }

  get online(): number {
    return this.#members.reduce((sum, { device }) => sum + (device.state === 'online' ? 1 : 0), 0);
  }

  get onlineCodes(): Set<string> {
    return new Set(this.#members.flatMap(({ device }) => (device.state === 'online' ? [device.code] : [])));
  }

  /** Sessions that ended other than by the device itself, by `<weather> <code>`. */
  get ends(): Readonly<Record<string, number>> {
    return Object.fromEntries(this.#ends);
  }

  /** Events that were due while no device was free to send one. */
  get notSent(): number {
    return this.#notSent;
  }

  /** Did the device itself end its session since then? */
  hasLeftSince(code: string, ms: number): boolean {
    return (this.#byCode.get(code)?.leftMs ?? Number.NEGATIVE_INFINITY) >= ms;
  }

  /** All of them, at a pace that is not a storm. */
  start(perSecond: number): void {
    const rest = this.#members.values();
    const timer = this.#pace(perSecond, () => {
      const next = rest.next();
      if (next.done === true) clearInterval(timer);
      else next.value.device.start();
    });
  }

  sendEvents(perSecond: number): void {
    this.#pace(perSecond, () => {
      for (let tried = 0; tried < TRIES; tried++) if (this.#send(this.#any())) return;
      this.#notSent += 1;
    });
  }

  /** Devices lose their line, or leave and come back. */
  churn(perMinute: number): void {
    this.#pace(perMinute / 60, () => {
      const member = this.#any();
      if (member.device.state !== 'online') return;
      if (this.#options.chance.is(0.5)) this.#cut(member);
      else void this.#goAway(member);
    });
  }

  /** As devices behind a balancer: those of the edge that has more lose their line, one after the other, until both have the same. */
  spread(perSecond: number): void {
    const counts = this.#options.urls.map(() => 0);
    for (const { device, edge } of this.#members) if (device.state === 'online') counts[edge] = (counts[edge] ?? 0) + 1;
    const fullest = counts.indexOf(Math.max(...counts));
    const surplus = Math.floor((counts[fullest] ?? 0) - this.#members.length / counts.length);
    const some = this.#members
      .filter(({ device, edge }) => device.state === 'online' && edge === fullest)
      .slice(0, Math.max(0, surplus));
    const rest = some.values();
    const timer = this.#pace(perSecond, () => {
      const next = rest.next();
      if (next.done === true) clearInterval(timer);
      else if (next.value.edge === fullest) this.#cut(next.value);
    });
  }

  /** Ends events and churn; what is not stored is tried further. */
  rest(): void {
    for (const timer of this.#pacers) clearInterval(timer);
    this.#pacers.length = 0;
    const timer = setInterval(() => {
      for (const member of this.#members) if (member.number > 0 && !member.stored) this.#send(member);
    }, 1_000);
    this.#pacers.push(timer);
  }

  async stop(): Promise<void> {
    for (const timer of this.#pacers) clearInterval(timer);
    await Promise.all(this.#members.map(({ device }) => device.stop()));
    this.#timers.stop();
  }

  #member(code: string, secret: string, i: number): Member {
    const { urls, commands } = this.#options;
    const device = new SimulatedDevice({
      code,
      secret,
      urls,
      firstUrl: i % urls.length,
      timers: this.#timers,
      sameConnection: true,
      zeroMask: true,
      reconnect: RECONNECT,
    });
    const member: Member = {
      device,
      number: 0,
      stored: true,
      isSending: false,
      isAway: false,
      leftMs: Number.NEGATIVE_INFINITY,
      edge: i % urls.length,
    };
    device.onRequest = ({ data }) => {
      const { N: n } = data;
      if (typeof n !== 'number') return undefined;
      commands.received(n);
      commands.answered(n);
      return { code: 0, data: { N: n } };
    };
    device.on('online', ({ url }) => {
      member.edge = urls.indexOf(url);
    });
    device.on('offline', ({ code: close, cause }) => {
      if (cause === 'cut' || cause === 'stop') return;
      const end = `${this.#options.weather()} ${cause} ${close}`;
      this.#ends.set(end, (this.#ends.get(end) ?? 0) + 1);
    });
    return member;
  }

  #any(): Member {
    const member = this.#members[this.#options.chance.between(0, this.#members.length - 1)];
    if (member === undefined) throw new RangeError('no devices');
    return member;
  }

  #send(member: Member): boolean {
    const { device } = member;
    if (member.isSending || device.state !== 'online') return false;
    if (member.stored) member.number += 1;
    const { number } = member;
    member.stored = false;
    member.isSending = true;
    const { events } = this.#options;
    events.sent(device.code, number, performance.now());
    void device.notify('Alarm', dataOf(device.code, number)).then((outcome) => {
      member.isSending = false;
      member.stored = outcome.status === 'answered' && outcome.answer.code === 0;
      events.answered(device.code, number, member.stored);
    });
    return true;
  }

  #cut(member: Member): void {
    member.leftMs = performance.now();
    member.device.cut();
  }

  async #goAway(member: Member): Promise<void> {
    if (member.isAway) return;
    member.isAway = true;
    const leave = (): void => {
      member.leftMs = performance.now();
    };
    leave();
    await member.device.stop();
    leave();
    const { from, to } = AWAY_MS;
    this.#timers.after(this.#options.chance.between(from, to), () => {
      member.isAway = false;
      member.device.start();
    });
  }

  #pace(perSecond: number, act: () => void): NodeJS.Timeout {
    const beganMs = performance.now();
    let done = 0;
    const timer = setInterval(() => {
      const due = Math.floor(((performance.now() - beganMs) / 1_000) * perSecond);
      // What this process was too late for is not made good in a storm.
      done = Math.max(done, due - VOLLEY);
      for (; done < due; done++) act();
    }, TICK_MS);
    this.#pacers.push(timer);
    return timer;
  }
}
