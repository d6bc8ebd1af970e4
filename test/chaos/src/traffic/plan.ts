/** What a run will ask for, drawn from a seed: which commands go to which devices, when, and what the devices do with them.
 *  Pure: the same options make the same plan. Faults have a random source of their own, so that a changed fault keeps the load. */

import type { Lane, Mode, PlannedCommand, Reaction } from '../history/history.ts';
import { Chance } from '../random.ts';

/** Probabilities. */
export interface Mix {
  readonly repeatable: number;
  readonly urgent: number;
  readonly keyed: number;
  /** Of the keyed ones: submitted twice at the same time. */
  readonly twice: number;
  readonly cancelled: number;
  readonly waiting: number;
  readonly error: number;
  readonly late: number;
  readonly silent: number;
  readonly direct: number;
  readonly directThenQueue: number;
}

export const MIX: Mix = {
  repeatable: 0.4,
  urgent: 0.15,
  keyed: 0.3,
  twice: 0.7,
  cancelled: 0.05,
  waiting: 0.05,
  error: 0.04,
  late: 0.03,
  silent: 0.03,
  direct: 0.08,
  directThenQueue: 0.06,
};

export interface PlannedDevice {
  readonly code: string;
  /** Index of the edge it connects to first. */
  readonly edge: number;
  /** From the begin of the load; 0: before it; undefined: never. */
  readonly comesAtMs: number | undefined;
  /** Answers nothing at all. */
  readonly mute: boolean;
}

export interface PlanOptions {
  readonly seed: number;
  readonly commands: number;
  readonly devices: number;
  readonly edges: number;
  /** Over which the commands are spread. */
  readonly loadMs: number;
  /** Devices that answer nothing. */
  readonly mutes?: number;
  readonly mix?: Partial<Mix>;
}

export interface Plan {
  readonly devices: readonly PlannedDevice[];
  /** By time. */
  readonly commands: readonly PlannedCommand[];
}

/** One in this many comes only while the load runs; one in this many never comes. */
const LATECOMERS = 5;
const ABSENTEES = 12;

/** This share of the commands comes in bursts, so that something waits in the lanes when a fault comes. */
const IN_BURSTS = 0.6;
const BURST_INTERVAL_MS = 1_000;

const TIMEOUT_MS = 5_000;
/** Some may take so long that a lane which is not freed by a take-over stands still for all to see (D19). */
const PATIENT = 0.4;
const PATIENT_TIMEOUT_MS = 20_000;
/** The shortest that the API takes, for those who will not answer in time. */
const SHORT_TIMEOUT_MS = 1_000;
const TTL_MS = 60_000;
const ABSENT_TTL_MS = { from: 1_500, to: 4_000 };
const ANSWER_MS = { from: 5, to: 200 };
/** Of one in this many, so that some are out whenever something happens. */
const LONG_ANSWERS = 4;
const LONG_ANSWER_MS = { from: 200, to: 1_000 };
const LATE_MS = { from: 1_300, to: 2_600 };
const MAX_ATTEMPTS = 3;

export function planRun({ seed, commands, devices, edges, loadMs, mutes = 0, mix = {} }: PlanOptions): Plan {
  const chance = new Chance(seed);
  const shares = { ...MIX, ...mix };
  const planned = Array.from({ length: devices }, (_, i): PlannedDevice => {
    const mute = i < mutes;
    const absent = !mute && i % ABSENTEES === ABSENTEES - 1;
    const latecomer = !mute && !absent && i % LATECOMERS === LATECOMERS - 1;
    const comesAtMs = absent ? undefined : latecomer ? chance.between(0.3 * loadMs, 0.8 * loadMs) : 0;
    return { code: `210235CHAOS${String(i).padStart(9, '0')}`, edge: i % edges, comesAtMs, mute };
  });
  const [first, ...rest] = planned;
  if (first === undefined) throw new RangeError('a run needs devices');
  const drawn = Array.from({ length: commands }, (_, i) => {
    const atMs = Math.floor(chance.next() * loadMs);
    const burstMs = Math.floor(atMs / BURST_INTERVAL_MS) * BURST_INTERVAL_MS;
    const device = chance.pick([first, ...rest]);
    return drawCommand(`m${seed}-${i}`, device, chance.is(IN_BURSTS) ? burstMs : atMs, shares, chance);
  });
  return { devices: planned, commands: drawn.sort((a, b) => a.atMs - b.atMs) };
}

function drawCommand(marker: string, device: PlannedDevice, atMs: number, mix: Mix, chance: Chance): PlannedCommand {
  const mode = drawMode(mix, chance);
  // A direct attempt and a lane have different ideas of repeating; what goes both ways is sent once.
  const repeatable = mode === 'queue' && chance.is(mix.repeatable);
  const method = repeatable && chance.is(0.7) ? 'GET' : 'PUT';
  const absent = device.comesAtMs === undefined;
  const reaction = device.mute ? ({ kind: 'silence' } as const) : drawReaction(mix, chance);
  const slow = reaction.kind === 'silence' || reaction.afterMs >= LATE_MS.from;
  const lane: Lane = chance.is(mix.urgent) ? 'urgent' : 'normal';
  const key = mode !== 'direct' && chance.is(mix.keyed) ? `key-${marker}` : undefined;
  const copies = key !== undefined && chance.is(mix.twice) ? 2 : 1;
  return {
    marker,
    device: device.code,
    lane,
    mode,
    method,
    retrySafe: repeatable && method !== 'GET',
    maxAttempts: repeatable ? MAX_ATTEMPTS : 1,
    timeoutMs: slow ? SHORT_TIMEOUT_MS : mode === 'queue' && chance.is(PATIENT) ? PATIENT_TIMEOUT_MS : TIMEOUT_MS,
    ttlMs: absent ? chance.between(ABSENT_TTL_MS.from, ABSENT_TTL_MS.to) : TTL_MS,
    waitMs: mode === 'queue' && chance.is(mix.waiting) ? 2_000 : 0,
    key,
    copies,
    cancelled: mode === 'queue' && chance.is(mix.cancelled),
    reaction,
    atMs,
  };
}

function drawMode(mix: Mix, chance: Chance): Mode {
  const drawn = chance.next();
  if (drawn < mix.direct) return 'direct';
  return drawn < mix.direct + mix.directThenQueue ? 'direct-then-queue' : 'queue';
}

function drawReaction(mix: Mix, chance: Chance): Reaction {
  const drawn = chance.next();
  if (drawn < mix.silent) return { kind: 'silence' };
  if (drawn < mix.silent + mix.late) {
    return { kind: 'answer', success: true, afterMs: chance.between(LATE_MS.from, LATE_MS.to) };
  }
  const success = drawn >= mix.silent + mix.late + mix.error;
  const { from, to } = chance.is(1 / LONG_ANSWERS) ? LONG_ANSWER_MS : ANSWER_MS;
  return { kind: 'answer', success, afterMs: chance.between(from, to) };
}
