/** What a job is: one command for many devices, how carefully it is carried out, and what has become of each device so far. The words and
 *  shapes; decisions are in plan.ts, keeping in redis-job-store.ts.
 *
 *  job      running ⇄ paused        running | paused ──▶ stopping ──▶ cancelled | aborted        running ──▶ succeeded | finished_with_failures
 *           any end ──retry──▶ running
 *  target   todo ──▶ starting ──▶ active ──▶ the end of its command       starting | active ──taken back unsent──▶ todo
 *           todo ──▶ expired | cancelled | skipped | failed               an end ──retry──▶ todo
 *  A target that is `starting` or `active` has its place: it counts against every limit. `starting` is noted before the command is submitted. */

import { createHash } from 'node:crypto';
import type { Executed, LaneName } from '@lapi-broker/lane';
import { type CommandId, type DeviceCode, type LapiMethod, newCommandId } from '@lapi-broker/protocol';

export const JOB_STATES = [
  'running',
  'paused',
  'stopping',
  'succeeded',
  'finished_with_failures',
  'aborted',
  'cancelled',
] as const;
export type JobState = (typeof JOB_STATES)[number];
export type JobEnd = 'succeeded' | 'finished_with_failures' | 'aborted' | 'cancelled';

export const TARGET_STATES = [
  'todo',
  'starting',
  'active',
  'succeeded',
  'failed',
  'timed_out',
  'unknown',
  'expired',
  'cancelled',
  'skipped',
] as const;
export type TargetState = (typeof TARGET_STATES)[number];
export type TargetCounts = Readonly<Record<TargetState, number>>;

/** Ends that a retry may take up again. */
export const RETRYABLE_STATES = ['failed', 'timed_out', 'unknown', 'expired', 'cancelled', 'skipped'] as const;
export type RetryableState = (typeof RETRYABLE_STATES)[number];

export function isJobEnded(state: JobState): state is JobEnd {
  return state !== 'running' && state !== 'paused' && state !== 'stopping';
}

export function isTargetEnded(state: TargetState): boolean {
  return state !== 'todo' && state !== 'starting' && state !== 'active';
}

export function isJobState(text: string): text is JobState {
  return (JOB_STATES as readonly string[]).includes(text);
}

export function isTargetState(text: string): text is TargetState {
  return (TARGET_STATES as readonly string[]).includes(text);
}

/** The command that every device gets. */
export interface JobCommand {
  readonly method: LapiMethod;
  /** RequestURL; the path policy has judged it for the one who asked. */
  readonly url: string;
  readonly lane: LaneName;
  readonly timeoutMs: number;
  readonly maxAttempts: number;
  readonly backoffMs: number;
  /** GET, or declared so. */
  readonly repeatable: boolean;
}

/** How carefully it is done. */
export interface JobPace {
  /** Devices at a time. */
  readonly concurrency: number;
  readonly ratePerSecond?: number;
  /** Devices at a time that share a tag with this prefix: one uplink per site. */
  readonly perTag?: { readonly prefix: string; readonly limit: number };
  /** The first wave is the canary; each next one is larger by the factor, and begins when the one before has ended. */
  readonly waves?: { readonly first: number; readonly growth: number };
  readonly abort?: AbortRule;
  /** A device without a session: wait for it until the job's deadline, or call it failed. */
  readonly offline: 'wait' | 'fail';
}

/** Stop when more than this failed. The percentage counts from `afterEnded` ended devices on, and at the end of each wave. */
export interface AbortRule {
  readonly failures?: number;
  readonly failurePercent?: number;
  readonly afterEnded: number;
}

/** Nothing starts outside it, and no answer is awaited beyond its end. Times of day, ms since the epoch. */
export interface JobWindow {
  readonly notBeforeMs: number;
  readonly deadlineMs: number;
}

/** Everything about a job that never changes. */
export interface JobSpec {
  readonly name: string;
  readonly command: JobCommand;
  readonly pace: JobPace;
  /** Id of the API key that asked; commands are sent on its behalf. */
  readonly keyId: string;
  /** The schedule that fired it. */
  readonly schedule?: string;
}

/** Whom a job is for. Filters are resolved once, at creation. */
export type TargetChoice =
  | { readonly kind: 'codes'; readonly codes: readonly DeviceCode[] }
  | {
      readonly kind: 'filter';
      readonly tag?: string;
      readonly type?: string;
      readonly firmware?: string;
      readonly online?: boolean;
    };

/** One device of a new job. */
export interface NewTarget {
  readonly code: DeviceCode;
  /** The tags by which concurrency is limited. */
  readonly groups: readonly string[];
  readonly known: boolean;
}

/** What has become of one device. */
export interface TargetStatus {
  readonly state: TargetState;
  /** Commands made for it so far; names the current one. */
  readonly tries: number;
  /** Of ended ones. */
  readonly executed?: Executed;
  /** '' where the state says it all. */
  readonly reason: string;
  /** Of the last try. Redis time. */
  readonly startedAtMs?: number;
  readonly endedAtMs?: number;
  readonly responseCode?: number;
}

export const UNTOUCHED: TargetStatus = { state: 'todo', tries: 0, reason: '' };

/** How far a job is, as kept beside its targets. */
export interface JobProgress {
  readonly state: JobState;
  /** What `stopping` leads to. */
  readonly stopTo: 'cancelled' | 'aborted' | undefined;
  readonly reason: string;
  /** 0: not begun. */
  readonly wave: number;
  /** Of this wave, those taken back not counted. */
  readonly waveStarted: number;
  /** Since the start, or the last retry: ended by their command, and those of them that count as failures. */
  readonly roundEnded: number;
  readonly roundFailed: number;
  /** The rate bucket. */
  readonly tokens: number;
  readonly tokensAtMs: number;
  /** States that a retry has asked for and the runner has not yet taken up. */
  readonly retry: readonly RetryableState[];
}

export interface JobRecord extends JobSpec, JobWindow {
  readonly id: string;
  readonly total: number;
  readonly counts: TargetCounts;
  readonly progress: JobProgress;
  readonly createdAtMs: number;
  readonly startedAtMs: number | undefined;
  readonly endedAtMs: number | undefined;
  /** Devices ended per second of late, and when that was measured. */
  readonly rate: { readonly perSecond: number; readonly atMs: number } | undefined;
}

const JOB_ID = /^[0-9a-z]{20}$/;

export function isJobId(text: string): boolean {
  return JOB_ID.test(text);
}

/** The id of the command for one try. It follows from job, device and try, so a runner that repeats what another has done, or has perhaps done,
 *  submits the same command, which the lane accepts once (I7). Job ids are random, so nobody can guess it who cannot read the job. */
export function commandIdOf(jobId: string, code: DeviceCode, tries: number, shard: number): CommandId {
  const digest = createHash('sha256').update(`job:${jobId}:${code}:${tries}`).digest();
  const number = digest.readBigUInt64BE(0) ^ (digest.readBigUInt64BE(8) << 64n);
  return newCommandId(shard, number.toString(36).padStart(20, '0').slice(-20));
}

/** `state,tries,executed,reason,started,ended,response code`: one short text per device, because a job has up to 10,000. */
export function encodeTarget(status: TargetStatus): string {
  const { state, tries, executed, reason, startedAtMs, endedAtMs, responseCode } = status;
  return [state, tries, executed, reason, startedAtMs, endedAtMs, responseCode].map((part) => part ?? '').join();
}

/** Of anything that `encodeTarget` did not make: undefined. */
export function decodeTarget(text: string): TargetStatus | undefined {
  const [state = '', tries = '', executed = '', reason = '', started = '', ended = '', code = ''] = text.split(',');
  if (!isTargetState(state)) return undefined;
  return {
    state,
    tries: Number(tries),
    ...(executed === 'yes' || executed === 'no' || executed === 'maybe' ? { executed } : {}),
    reason,
    ...(started === '' ? {} : { startedAtMs: Number(started) }),
    ...(ended === '' ? {} : { endedAtMs: Number(ended) }),
    ...(code === '' ? {} : { responseCode: Number(code) }),
  };
}
