/** Keeps jobs: what was asked, how far it is, and what has become of each device. Two faces of one store: jobs as platforms see and steer them,
 *  and one job as its runner carries it out.
 *  - One runner at a time: `lease` hands out a fence that only grows, and every later write of the runner must carry it (I3).
 *  - Only the runner writes targets; platforms only ask (pause, resume, cancel, retry), guarded by the state of the job.
 *  - Any method may run twice, or run although its caller saw an error.
 *  Store away: every method rejects with `broker_unavailable`. Deciding what to do next is plan.ts, doing it job-runner.ts. */

import type { DeviceCode } from '@lapi-broker/protocol';
import type {
  JobEnd,
  JobProgress,
  JobRecord,
  JobSpec,
  JobState,
  JobWindow,
  NewTarget,
  RetryableState,
  TargetState,
  TargetStatus,
} from './job.ts';

export interface NewJob extends JobSpec, JobWindow {
  readonly id: string;
  readonly createdAtMs: number;
  readonly data: Uint8Array;
  readonly targets: readonly NewTarget[];
}

export type Reserved =
  | { readonly status: 'reserved'; readonly createdAtMs: number }
  | { readonly status: 'repeated' | 'conflict'; readonly id: string }
  | { readonly status: 'full' };

/** SHA-256 in hex. */
export interface IdempotencyHashes {
  readonly key: string;
  readonly request: string;
}

export type Earlier = Extract<Reserved, { readonly status: 'repeated' | 'conflict' }>;

export type Steered =
  | { readonly status: 'steered' }
  /** Its state does not allow it. */
  | { readonly status: 'conflict'; readonly state: JobState }
  | { readonly status: 'not_found' };

export interface StoredTarget extends TargetStatus {
  readonly index: number;
  readonly code: DeviceCode;
}

export interface JobPage {
  /** Newest first. */
  readonly items: readonly JobRecord[];
  readonly cursor: string | undefined;
}

export interface TargetPage {
  /** In the order of the job. */
  readonly items: readonly StoredTarget[];
  /** Index with which the next page begins. */
  readonly next: number | undefined;
}

/** A job whose moment has come, and the moment. */
export interface DueJob {
  readonly id: string;
  readonly atMs: number;
}

export interface JobCatalogue {
  /** What an idempotency key has made before; undefined: nothing. A later `reserve` has the last word. */
  earlier(key: IdempotencyHashes): Promise<Earlier | undefined>;
  /** Takes a place among the active jobs for an id, before anything of it is written. */
  reserve(id: string, key: IdempotencyHashes | undefined): Promise<Reserved>;
  /** Writes a reserved job. Until it has resolved the job does not exist for anybody. */
  open(job: NewJob): Promise<void>;
  read(id: string): Promise<JobRecord | undefined>;
  list(cursor: string | undefined, limit: number): Promise<JobPage>;
  /** From index `from` on, at most `limit` of that state. */
  targets(id: string, from: number, limit: number, state?: TargetState): Promise<TargetPage>;
  pause(id: string): Promise<Steered>;
  resume(id: string): Promise<Steered>;
  cancel(id: string): Promise<Steered>;
  /** `full`: too many active jobs. */
  retry(
    id: string,
    states: readonly RetryableState[],
    deadlineMs: number,
  ): Promise<Steered | { readonly status: 'full' }>;
  /** Active jobs that somebody should look at, most overdue first. */
  due(limit: number): Promise<readonly DueJob[]>;
  /** Look at an active job again in so many ms; resolves with the moment. Nothing happens to a job that is not active. */
  attend(id: string, afterMs: number): Promise<number>;
  /** Takes an ended job, or a reservation that nobody opened, out of the active ones, unless somebody asked for attention meanwhile. */
  settle(due: DueJob): Promise<void>;
}

export interface Lease {
  readonly fence: number;
  /** Redis time. */
  readonly endsAtMs: number;
}

export type LeaseResult =
  | ({ readonly status: 'leased' } & Lease)
  | { readonly status: 'busy'; readonly untilMs: number }
  | { readonly status: 'ended' | 'gone' };

export interface TargetChange {
  readonly index: number;
  readonly to: TargetStatus;
}

/** What the runner writes about the job itself. */
export interface JobChange {
  readonly state?: JobEnd | 'stopping';
  readonly stopTo?: 'aborted';
  readonly reason?: string;
  readonly wave?: number;
  readonly waveStarted?: number;
  readonly tokens?: number;
  readonly tokensAtMs?: number;
  readonly ratePerSecond?: number;
  readonly rateAtMs?: number;
  readonly startedAtMs?: number;
  readonly endedAtMs?: number;
  /** The retry is taken up; a new round begins. */
  readonly newRound?: true;
}

export interface Change {
  readonly fence: number;
  /** The job must be in this state; absent: any. */
  readonly while?: JobState;
  readonly job?: JobChange;
  readonly targets?: readonly TargetChange[];
}

export type Applied =
  | {
      readonly status: 'applied' | 'refused';
      readonly lease: Lease;
      readonly nowMs: number;
      readonly progress: JobProgress;
    }
  | { readonly status: 'fenced' };

/** All targets of a job, by index. */
export interface LoadedTarget extends StoredTarget {
  readonly groups: readonly string[];
}

export interface JobBench {
  lease(id: string): Promise<LeaseResult>;
  read(id: string): Promise<JobRecord | undefined>;
  load(id: string): Promise<readonly LoadedTarget[]>;
  data(id: string): Promise<Uint8Array>;
  /** One atomic step; renews the lease. At most 500 targets. */
  apply(id: string, change: Change): Promise<Applied>;
  /** Gives the lease back. The answer is the last word about the job: whoever steers it later finds no runner. */
  release(id: string, fence: number): Promise<Applied>;
}
