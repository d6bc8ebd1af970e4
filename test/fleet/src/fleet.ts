/** Thousands of simulated devices in one process: made from a few numbers, started at a pace, watched as one.
 *  The same options give the same codes, secrets, faults and events. One timer wheel and one set of listeners serve all devices.
 *  A process carries about 18,000 devices where 20,000 descriptors are allowed; more devices need more processes with other `firstNumber`s.
 *  start() begins and returns at once; stop() is idempotent and bounded by its deadline. */

import { type DeviceOptions, type DeviceState, type NotifiedFacts, SimulatedDevice } from './device.ts';
import type { EventRates } from './event.ts';
import { assignFaults, comesOnline, type FaultPlan, type FleetFaults } from './fault.ts';
import { parseEdge } from './handshake.ts';
import { createPictures } from './picture.ts';
import { deviceCode, type Profile, type ProfileName, profileOf } from './profile.ts';
import { seedOf } from './random.ts';
import type { ReconnectPolicy } from './reconnect.ts';
import { deriveSecret, type SignEncoding } from './signature.ts';
import { Durations, emptyCounts, Reasons, type TallyCounts } from './tally.ts';
import { type Timer, TimerWheel } from './timer-wheel.ts';

export const DEFAULT_PREFIX = '210235SIM';
export const DEFAULT_SECRET_SEED = 'lapi-fleet';

/** Which devices a fleet consists of; enough to provision them without starting them. */
export interface FleetPlan {
  readonly devices: number;
  /** Shares of the profiles, e.g. `{ nvr: 1, ipc: 3 }`. Default: only NVRs. */
  readonly mix?: Partial<Readonly<Record<ProfileName, number>>>;
  /** Channels of an NVR. Default 8. */
  readonly channels?: number;
  /** Start of every code. */
  readonly prefix?: string;
  /** Number inside the first code. Default 1. */
  readonly firstNumber?: number;
  /** The secret of a code. Default: derived from DEFAULT_SECRET_SEED. */
  readonly secretOf?: (code: string) => string;
}

export interface PlannedDevice {
  readonly code: string;
  readonly secret: string;
  readonly profile: Profile;
}

export interface FleetOptions extends FleetPlan {
  readonly urls: readonly string[];
  /** Registrations begun per second at the start. Default 200. */
  readonly ratePerSecond?: number;
  readonly faults?: readonly FaultPlan[];
  readonly rates?: EventRates;
  readonly onlySubscribed?: boolean;
  /** Size of the panorama in structure events. */
  readonly pictureBytes?: number;
  /** Source addresses, used in blocks. Default: chosen by the system, or 127.0.0.1, .2, … for large fleets against loopback. */
  readonly sources?: readonly string[];
  readonly vendor?: string;
  readonly deviceType?: string;
  readonly algorithm?: string;
  readonly signEncoding?: SignEncoding;
  readonly sameConnection?: boolean;
  readonly verifyCertificate?: boolean;
  readonly zeroMask?: boolean;
  readonly reconnect?: ReconnectPolicy;
  readonly firstKeepaliveMs?: number;
  readonly ackWaitMs?: number;
  readonly seed?: string;
}

export interface FleetSnapshot {
  readonly devices: number;
  readonly states: Readonly<Record<DeviceState, number>>;
  /** Devices that are not online and whose last registration came to nothing. */
  readonly failing: number;
  /** Why, most frequent first, at most five. */
  readonly reasons: readonly (readonly [reason: string, count: number])[];
  readonly counts: Readonly<TallyCounts>;
  /** Time until the broker answered an event, since the start. */
  readonly eventAnswerMs: { readonly p50: number | undefined; readonly p99: number | undefined };
  readonly registrationMs: { readonly p50: number | undefined; readonly p99: number | undefined };
}

const PACE_MS = 20;
/** Of the about 28,000 ports that a source address has towards one target. */
const PORTS_PER_SOURCE = 20_000;

export function planFleet(plan: FleetPlan): PlannedDevice[] {
  const secretOf = plan.secretOf ?? ((code) => deriveSecret(DEFAULT_SECRET_SEED, code));
  const profiles = spreadProfiles(plan.mix ?? { nvr: 1 }, plan.devices).map((name) => profileOf(name, plan.channels));
  return profiles.map((profile, index) => {
    const code = deviceCode(plan.prefix ?? DEFAULT_PREFIX, profile, (plan.firstNumber ?? 1) + index);
    return { code, secret: secretOf(code), profile };
  });
}

export class Fleet {
  /** In the order of their numbers; twins of the fault `duplicate` at the end. */
  readonly devices: readonly SimulatedDevice[];
  /** Since the start of the fleet. */
  readonly counts: TallyCounts = emptyCounts();
  /** Since the last clear(): the owner of a report clears it. */
  readonly recentEventMs = new Durations();

  readonly #timers = new TimerWheel();
  readonly #ratePerSecond: number;
  readonly #eventMs = new Durations();
  readonly #registrationMs = new Durations();
  readonly #expected: readonly SimulatedDevice[];
  readonly #stormTimers: { readonly everyMs: number; readonly devices: SimulatedDevice[] }[] = [];
  #pace: Timer | undefined;
  #storms: Timer[] = [];
  #started = 0;
  #running: boolean = false;

  constructor(options: FleetOptions) {
    this.#ratePerSecond = options.ratePerSecond ?? 200;
    const planned = planFleet(options);
    const faults = assignFaults(options.faults ?? [], planned.length);
    const sources = options.sources ?? defaultSources(options.urls, planned.length);
    const shared = sharedOptions(options, this.#timers);
    const make = (device: PlannedDevice, index: number, twin: boolean): SimulatedDevice =>
      this.#watch(
        new SimulatedDevice({
          ...shared,
          code: device.code,
          secret: device.secret,
          profile: device.profile.name,
          firstUrl: index + (twin ? 1 : 0),
          faults: faults[index] ?? {},
          seed: seedOf(`${options.seed ?? ''}/${device.code}/${twin}`),
          localAddress: sources[Math.floor((index * sources.length) / planned.length)],
        }),
      );
    const devices = planned.map((device, index) => make(device, index, false));
    const twins = planned.flatMap((device, index) =>
      faults[index]?.duplicate === true ? [make(device, index, true)] : [],
    );
    this.devices = [...devices, ...twins];
    this.#expected = devices.filter((_, index) => comesOnline(faults[index] ?? {}));
    this.#planStorms(devices, faults);
  }

  start(): void {
    if (this.#running) return;
    this.#running = true;
    this.#started = 0;
    const startedMs = performance.now();
    const release = () => {
      const due = Math.ceil(((performance.now() - startedMs + PACE_MS) / 1000) * this.#ratePerSecond);
      const until = Math.min(this.devices.length, due);
      for (; this.#started < until; this.#started += 1) this.devices[this.#started]?.start();
      if (this.#started < this.devices.length) this.#pace = this.#timers.after(PACE_MS, release);
    };
    release();
    for (const storm of this.#stormTimers) this.#stormEvery(storm.everyMs, storm.devices);
  }

  /** True as soon as every device that can come online has been online once; false after `deadlineMs` or when the fleet stops. */
  untilOnline(deadlineMs: number): Promise<boolean> {
    return new Promise((resolve) => {
      const givenUpMs = performance.now() + deadlineMs;
      const look = () => {
        if (this.#expected.every((device) => device.onlineCount > 0)) resolve(true);
        else if (!this.#running || performance.now() >= givenUpMs) resolve(false);
        else this.#timers.after(PACE_MS, look);
      };
      look();
    });
  }

  /** Devices that should have come online and never did. */
  missing(): SimulatedDevice[] {
    return this.#expected.filter((device) => device.onlineCount === 0);
  }

  /** All connections are lost at the same moment; each device reconnects as it is made to. */
  cutAll(): void {
    for (const device of this.devices) device.cut();
  }

  /** Unregisters and closes every device. */
  async stop(deadlineMs = 5000): Promise<void> {
    this.#running = false;
    this.#timers.cancel(this.#pace);
    for (const timer of this.#storms) this.#timers.cancel(timer);
    this.#storms = [];
    await Promise.all(this.devices.map((device) => device.stop(deadlineMs)));
  }

  snapshot(): FleetSnapshot {
    const states: Record<DeviceState, number> = { stopped: 0, registering: 0, waiting: 0, online: 0, stopping: 0 };
    const reasons = new Reasons();
    let failing = 0;
    for (const device of this.devices) {
      states[device.state] += 1;
      if (device.state === 'online' || device.lastFailure === undefined) continue;
      failing += 1;
      reasons.add(device.lastFailure);
    }
    return {
      devices: this.devices.length,
      states,
      failing,
      reasons: reasons.top(5),
      counts: { ...this.counts },
      eventAnswerMs: { p50: this.#eventMs.percentile(50), p99: this.#eventMs.percentile(99) },
      registrationMs: { p50: this.#registrationMs.percentile(50), p99: this.#registrationMs.percentile(99) },
    };
  }

  #watch(device: SimulatedDevice): SimulatedDevice {
    device.on('online', this.#onOnline);
    device.on('offline', this.#onOffline);
    device.on('failed', this.#onFailed);
    device.on('request', this.#onRequest);
    device.on('answered', this.#onAnswered);
    device.on('notified', this.#onNotified);
    device.on('keepalive', this.#onKeepalive);
    return device;
  }

  // One function each for all devices, to keep a device small.
  readonly #onOnline = (facts: { readonly tookMs: number }): void => {
    this.counts.online += 1;
    this.#registrationMs.add(facts.tookMs);
  };
  readonly #onOffline = (): void => {
    this.counts.offline += 1;
  };
  readonly #onFailed = (): void => {
    this.counts.failed += 1;
  };
  readonly #onRequest = (): void => {
    this.counts.callsReceived += 1;
  };
  readonly #onAnswered = (): void => {
    this.counts.callsAnswered += 1;
  };
  readonly #onKeepalive = (outcome: { readonly status: string }): void => {
    if (outcome.status === 'answered') this.counts.keepalivesAnswered += 1;
    else this.counts.keepalivesMissed += 1;
  };
  readonly #onNotified = ({ outcome }: NotifiedFacts): void => {
    const { counts } = this;
    if (outcome.status === 'unsent') {
      counts.eventsUnsent += 1;
      return;
    }
    counts.eventsSent += 1;
    if (outcome.status !== 'answered') {
      counts.eventsUnanswered += 1;
      return;
    }
    if (outcome.answer.code === 0) counts.eventsAcked += 1;
    else counts.eventsRefused += 1;
    this.#eventMs.add(outcome.tookMs);
    this.recentEventMs.add(outcome.tookMs);
  };

  #planStorms(devices: readonly SimulatedDevice[], faults: readonly FleetFaults[]): void {
    const groups = new Map<number, SimulatedDevice[]>();
    devices.forEach((device, index) => {
      const everyMs = faults[index]?.stormEveryMs;
      if (everyMs === undefined) return;
      const group = groups.get(everyMs) ?? [];
      group.push(device);
      groups.set(everyMs, group);
    });
    for (const [everyMs, group] of groups) this.#stormTimers.push({ everyMs, devices: group });
  }

  #stormEvery(everyMs: number, devices: readonly SimulatedDevice[]): void {
    const slot = this.#storms.length;
    const arm = () => {
      this.#storms[slot] = this.#timers.after(everyMs, () => {
        for (const device of devices) device.cut();
        arm();
      });
    };
    arm();
  }
}

function sharedOptions(options: FleetOptions, timers: TimerWheel): Omit<DeviceOptions, 'code' | 'secret'> {
  const { vendor, deviceType, algorithm, channels, rates, onlySubscribed, signEncoding, sameConnection } = options;
  const { verifyCertificate, zeroMask, reconnect, firstKeepaliveMs, ackWaitMs } = options;
  return {
    urls: options.urls,
    timers,
    pictures: createPictures(options.pictureBytes ?? 0),
    ...(vendor === undefined ? {} : { vendor }),
    ...(deviceType === undefined ? {} : { deviceType }),
    ...(algorithm === undefined ? {} : { algorithm }),
    ...(channels === undefined ? {} : { channels }),
    ...(rates === undefined ? {} : { rates }),
    ...(onlySubscribed === undefined ? {} : { onlySubscribed }),
    ...(signEncoding === undefined ? {} : { signEncoding }),
    ...(sameConnection === undefined ? {} : { sameConnection }),
    ...(verifyCertificate === undefined ? {} : { verifyCertificate }),
    ...(zeroMask === undefined ? {} : { zeroMask }),
    ...(reconnect === undefined ? {} : { reconnect }),
    ...(firstKeepaliveMs === undefined ? {} : { firstKeepaliveMs }),
    ...(ackWaitMs === undefined ? {} : { ackWaitMs }),
  };
}

/** Interleaves the profiles evenly, so that any stretch of the fleet has about the wanted mix. */
function spreadProfiles(mix: Partial<Readonly<Record<ProfileName, number>>>, devices: number): ProfileName[] {
  const shares = (['nvr', 'ipc', 'radar'] as const).map((name) => ({ name, weight: mix[name] ?? 0, credit: 0 }));
  const total = shares.reduce((sum, share) => sum + share.weight, 0);
  return Array.from({ length: devices }, () => {
    for (const share of shares) share.credit += share.weight;
    const chosen = shares.reduce((best, share) => (share.credit > best.credit ? share : best));
    chosen.credit -= total;
    return chosen.name;
  });
}

function defaultSources(urls: readonly string[], devices: number): readonly (string | undefined)[] {
  const loopback = urls.every((url) => /^(127\.|localhost$)/.test(parseEdge(url)?.host ?? ''));
  if (!loopback || devices <= PORTS_PER_SOURCE) return [undefined];
  return Array.from({ length: Math.ceil(devices / PORTS_PER_SOURCE) }, (_, index) => `127.0.0.${index + 1}`);
}
