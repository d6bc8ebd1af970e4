/** Decides what a job does next: which devices to start, look up, take back or end, whether the next wave begins, and when it is over.
 *  Never above its concurrency, the limit of any group, the size of the wave, or the rate; nothing outside the window, while paused, or above
 *  the abort rule. Devices are taken in order; those that cannot start now hold up nobody behind them.
 *  Pure: (job, targets, now) → plan. The runner carries it out, and what it could not carry out is planned again. */

import type { AbortRule, JobPace, JobProgress, JobRecord, JobWindow } from './job.ts';

/** A target as the plan sees it: not ended. */
export interface OpenTarget {
  /** Of those the tags that limit concurrency. */
  readonly groups: readonly string[];
  /** As last looked up. */
  readonly online: boolean;
  /** What was looked up counts until then. */
  readonly freshUntilMs: number;
  /** Its lane had no room for it. */
  readonly notBeforeMs: number;
}

export interface OpenTargets<T extends OpenTarget> {
  /** `todo`, in order. */
  readonly todo: readonly T[];
  /** `starting` and `active`. */
  readonly out: readonly T[];
}

export interface PlannedJob extends JobWindow {
  readonly pace: JobPace;
  readonly progress: JobProgress;
}

export type Plan<T> =
  /** Everything has ended. */
  | { readonly kind: 'finish' }
  /** Too many failed. */
  | { readonly kind: 'abort'; readonly reason: string }
  | {
      readonly kind: 'go';
      readonly start: readonly T[];
      /** Whose presence is not known well enough to tell whether they may start. */
      readonly lookUp: readonly T[];
      /** Those that end without having been started. */
      readonly end: readonly T[];
      readonly endAs: { readonly state: 'expired' | 'cancelled' | 'skipped' | 'failed'; readonly reason: string };
      /** Take back what has not been written yet. */
      readonly takeBack: boolean;
      readonly wave: number;
      readonly waveStarted: number;
      readonly tokens: number;
      readonly tokensAtMs: number;
      /** When to plan again if nothing else happens before; undefined: time alone changes nothing. */
      readonly nextMs: number | undefined;
    };

type Go<T> = Extract<Plan<T>, { readonly kind: 'go' }>;

export interface PlanBounds {
  /** Started, looked up and ended in one plan. */
  readonly starts: number;
  readonly lookUps: number;
  readonly ends: number;
}

/** Presence is not looked up for more devices than may start soon. */
const LOOK_UPS_PER_PLACE = 4;
const MIN_LOOK_UPS = 16;
/** The bucket holds what the rate allows in this time, at least one. */
const BURST_S = 0.25;

export function plan<T extends OpenTarget>(
  job: PlannedJob,
  { todo, out }: OpenTargets<T>,
  bounds: PlanBounds,
  nowMs: number,
): Plan<T> {
  const { pace, progress, notBeforeMs, deadlineMs } = job;
  const { state, stopTo } = progress;
  const { wave, waveStarted, tokens, tokensAtMs } = progress;
  const idle: Go<T> = {
    kind: 'go',
    start: [],
    lookUp: [],
    end: [],
    endAs: { state: 'expired', reason: '' },
    takeBack: false,
    wave,
    waveStarted,
    tokens,
    tokensAtMs,
    nextMs: undefined,
  };
  if (todo.length === 0 && out.length === 0) return { kind: 'finish' };
  if (state === 'stopping') {
    const endAs = stopTo === 'aborted' ? ({ state: 'skipped', reason: 'aborted' } as const) : CANCELLED;
    return { ...idle, end: todo.slice(0, bounds.ends), endAs, takeBack: true };
  }
  if (nowMs >= deadlineMs) return { ...idle, end: todo.slice(0, bounds.ends) };
  const waiting: Go<T> = { ...idle, nextMs: todo.length > 0 ? deadlineMs : undefined };
  if (state === 'paused') return { ...waiting, takeBack: true };
  if (nowMs < notBeforeMs) return { ...waiting, nextMs: notBeforeMs };

  const { size, number, started, turned } = currentWave(pace.waves, progress, out.length);
  const broken = brokenRule(pace.abort, progress, turned);
  if (broken !== undefined) return { kind: 'abort', reason: broken };
  const bucket = refill(pace.ratePerSecond, progress, nowMs);
  const room = Math.min(pace.concurrency - out.length, size - started, bounds.starts);
  const places = Math.max(0, Math.min(room, Math.floor(bucket)));
  const chosen = choose(pace, todo, out, places, bounds, nowMs);
  const rate = pace.ratePerSecond;
  const thirsty = room > 0 && rate !== undefined && bucket - chosen.start.length < 1;
  const tokenMs = thirsty ? nowMs + ((1 - (bucket - chosen.start.length)) / rate) * 1_000 : Number.POSITIVE_INFINITY;
  return {
    ...waiting,
    ...chosen,
    wave: number,
    waveStarted: started + chosen.start.length,
    tokens: rate === undefined ? 0 : bucket - chosen.start.length,
    tokensAtMs: nowMs,
    nextMs: Math.ceil(Math.min(deadlineMs, tokenMs, chosen.nextMs)),
  };
}

const CANCELLED = { state: 'cancelled', reason: 'job_cancelled' } as const;
const OFFLINE = { state: 'failed', reason: 'device_offline' } as const;

/** Devices that the n-th wave holds, n from 1. */
export function waveSize(waves: NonNullable<JobPace['waves']>, number: number): number {
  return Math.min(Number.MAX_SAFE_INTEGER, Math.floor(waves.first * waves.growth ** (number - 1)));
}

function currentWave(
  waves: JobPace['waves'],
  { wave, waveStarted }: JobProgress,
  out: number,
): { readonly size: number; readonly number: number; readonly started: number; readonly turned: boolean } {
  if (waves === undefined) return { size: Number.POSITIVE_INFINITY, number: 1, started: waveStarted, turned: false };
  const number = Math.max(1, wave);
  const size = waveSize(waves, number);
  if (waveStarted < size || out > 0) return { size, number, started: waveStarted, turned: false };
  return { size: waveSize(waves, number + 1), number: number + 1, started: 0, turned: true };
}

/** For how long nothing can happen to a job unless somebody steers it, so that nobody needs to look at its devices; undefined: look. */
export function quietMs({ progress, counts, ...window }: JobRecord, nowMs: number): number | undefined {
  const { state, retry } = progress;
  const isWaiting = counts.todo > 0 && counts.starting + counts.active === 0 && retry.length === 0;
  if (!isWaiting || nowMs >= window.deadlineMs) return undefined;
  if (state === 'paused') return window.deadlineMs - nowMs;
  return state === 'running' && nowMs < window.notBeforeMs
    ? Math.min(window.notBeforeMs, window.deadlineMs) - nowMs
    : undefined;
}

/** What the abort rule has to say; undefined: go on. */
function brokenRule(
  rule: AbortRule | undefined,
  { roundEnded, roundFailed }: JobProgress,
  waveEnded: boolean,
): string | undefined {
  if (rule === undefined || roundFailed === 0) return undefined;
  const { failures, failurePercent, afterEnded } = rule;
  if (failures !== undefined && roundFailed > failures) return `${roundFailed} devices failed, allowed are ${failures}`;
  if (failurePercent === undefined || (roundEnded < afterEnded && !waveEnded)) return undefined;
  return roundFailed * 100 > failurePercent * roundEnded
    ? `${roundFailed} of ${roundEnded} devices failed, allowed are ${failurePercent} %`
    : undefined;
}

function refill(rate: number | undefined, { tokens, tokensAtMs }: JobProgress, nowMs: number): number {
  if (rate === undefined) return Number.POSITIVE_INFINITY;
  const capacity = Math.max(1, rate * BURST_S);
  return Math.min(capacity, tokens + (Math.max(0, nowMs - tokensAtMs) / 1_000) * rate);
}

interface Choice<T> {
  readonly start: readonly T[];
  readonly lookUp: readonly T[];
  readonly end: readonly T[];
  readonly endAs: Go<T>['endAs'];
  readonly nextMs: number;
}

function choose<T extends OpenTarget>(
  { perTag, offline }: JobPace,
  todo: readonly T[],
  out: readonly T[],
  places: number,
  bounds: PlanBounds,
  nowMs: number,
): Choice<T> {
  const start: T[] = [];
  const lookUp: T[] = [];
  const end: T[] = [];
  let nextMs = Number.POSITIVE_INFINITY;
  const lookUps = Math.min(bounds.lookUps, LOOK_UPS_PER_PLACE * places + MIN_LOOK_UPS);
  const inGroup = new Map<string, number>();
  const take = ({ groups }: T): void => {
    for (const group of groups) inGroup.set(group, (inGroup.get(group) ?? 0) + 1);
  };
  for (const target of out) take(target);
  const fits = ({ groups }: T): boolean =>
    perTag === undefined || groups.every((group) => (inGroup.get(group) ?? 0) < perTag.limit);
  for (const target of todo) {
    if (start.length >= places || lookUp.length >= lookUps || end.length >= bounds.ends) break;
    if (target.notBeforeMs > nowMs) {
      nextMs = Math.min(nextMs, target.notBeforeMs);
      continue;
    }
    if (!fits(target)) continue;
    if (target.freshUntilMs <= nowMs) {
      lookUp.push(target);
    } else if (target.online) {
      start.push(target);
      take(target);
    } else if (offline === 'fail') {
      end.push(target);
    } else {
      nextMs = Math.min(nextMs, target.freshUntilMs);
    }
  }
  return { start, lookUp, end, endAs: OFFLINE, nextMs };
}
