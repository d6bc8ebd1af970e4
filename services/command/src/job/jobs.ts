/** Jobs as platforms and schedules see them: makes a job of an order, steers it, and reads it. The one way in.
 *  A job exists for everybody at once and complete, or not at all; with an idempotency key, once. Making one of 10,000 devices takes a second or
 *  so: the devices are looked up and written in batches. Steering only notes what is wanted, which stops every further start at once; the
 *  runner does the rest.
 *  Store away: methods reject with `broker_unavailable`; a job may have been made then, so ask again with the same key. Store near full:
 *  `store_full`. Not done here: who may, and what a path may be (routes), carrying out (job-run.ts). */

import { createHash } from 'node:crypto';
import { BrokerError } from '@lapi-broker/protocol';
import { type ChooseParts, type ChosenTarget, chooseTargets } from './choose-targets.ts';
import {
  isJobEnded,
  type JobRecord,
  type JobState,
  type JobWindow,
  type RetryableState,
  type TargetState,
} from './job.ts';
import type { JobEvent } from './job-events.ts';
import { JOB_LIMITS } from './job-limits.ts';
import type { JobOrder } from './job-order.ts';
import type { Earlier, JobCatalogue, JobPage, Steered, TargetPage } from './job-store.ts';

export interface Refused<E extends string> {
  readonly status: 'refused';
  readonly error: E;
  readonly detail: string;
  /** What of the order is wrong, for `invalid_request`. */
  readonly part?: 'targets' | 'window';
}

export type Created =
  | { readonly status: 'created' | 'repeated'; readonly job: JobRecord }
  /** `rate_limited`: too many active jobs. */
  | Refused<'invalid_request' | 'rate_limited' | 'key_conflict' | 'store_full' | 'broker_unavailable'>;

export type Surveyed =
  | { readonly status: 'chosen'; readonly targets: readonly ChosenTarget[]; readonly window: JobWindow }
  | Refused<'invalid_request'>;

export type JobSteered =
  | { readonly status: 'steered'; readonly job: JobRecord }
  | { readonly status: 'conflict'; readonly state: JobState }
  | { readonly status: 'not_found' };

export interface JobRetry {
  /** Absent: what is safe to send again. */
  readonly states?: readonly RetryableState[];
  readonly ttlMs: number;
}

export interface JobsParts extends ChooseParts {
  readonly catalogue: JobCatalogue;
  /** Has a replica what was written for this key? */
  readonly confirm: (job: string) => Promise<boolean>;
  readonly storeFull: () => boolean;
  readonly nowMs: () => number;
  /** 20 characters `[0-9a-z]`. */
  readonly random: () => string;
  /** Asks the runners to look at a job. Never rejects. */
  readonly nudge: (job: string) => Promise<void>;
  readonly tell: (event: JobEvent, job: JobRecord) => void;
  readonly activeJobs: number;
}

/** Of another request with the same key that is still writing its job. */
const TWIN_POLL_MS = 50;
const TWIN_WAIT_MS = 3_000;
const DAY_MS = 86_400_000;
/** The end of a job. */
const LATEST_MS = JOB_LIMITS.aheadMs + JOB_LIMITS.ttlMs.max;

export class Jobs {
  readonly #parts: JobsParts;

  constructor(parts: JobsParts) {
    this.#parts = parts;
  }

  /** Whom a job would be for, and when. */
  async survey(order: JobOrder): Promise<Surveyed> {
    const window = windowOf(order, this.#parts.nowMs());
    if (typeof window === 'string') return refused('invalid_request', window, 'window');
    const chosen = await chooseTargets(this.#parts, order.targets, order.pace);
    return chosen.status === 'chosen' ? { ...chosen, window } : refused('invalid_request', chosen.problem, 'targets');
  }

  async create(order: JobOrder): Promise<Created> {
    const { catalogue, storeFull, random, confirm, nudge, tell, activeJobs } = this.#parts;
    const { idempotency } = order;
    const key = idempotency === undefined ? undefined : { key: sha256(idempotency.key), request: idempotency.request };
    // Before anything is judged anew: devices and the time of day have changed since the first request.
    const earlier = key === undefined ? undefined : await catalogue.earlier(key);
    if (earlier !== undefined) return await this.#repeated(earlier);
    if (storeFull()) return refused('store_full', 'the memory of the store is nearly used up');
    const chosen = await this.survey(order);
    if (chosen.status === 'refused') return chosen;
    const id = random();
    const reserved = await catalogue.reserve(id, key);
    switch (reserved.status) {
      case 'full':
        return refused('rate_limited', tooManyActive(activeJobs));
      case 'conflict':
      case 'repeated':
        return await this.#repeated(reserved);
      case 'reserved':
        break;
    }
    const { name, command, pace, data, keyId, schedule } = order;
    const spec = { name, command, pace, keyId, ...(schedule === undefined ? {} : { schedule }) };
    const { createdAtMs } = reserved;
    await catalogue.open({ ...spec, ...chosen.window, id, createdAtMs, data, targets: chosen.targets });
    if (!(await confirm(id)))
      return refused('broker_unavailable', `the store did not confirm the job; it may exist as ${id}`);
    await nudge(id);
    const job = await catalogue.read(id);
    if (job === undefined) throw new BrokerError('broker_unavailable', 'the store has lost the job that it accepted');
    tell('created', job);
    return { status: 'created', job };
  }

  read(id: string): Promise<JobRecord | undefined> {
    return this.#parts.catalogue.read(id);
  }

  list(cursor: string | undefined, limit: number): Promise<JobPage> {
    return this.#parts.catalogue.list(cursor, limit);
  }

  targets(id: string, from: number, limit: number, state?: TargetState): Promise<TargetPage> {
    return this.#parts.catalogue.targets(id, from, limit, state);
  }

  /** Nothing starts from now on; what has been written to a device ends. */
  async pause(id: string): Promise<JobSteered> {
    return await this.#steered(id, await this.#parts.catalogue.pause(id), 'paused');
  }

  async resume(id: string): Promise<JobSteered> {
    return await this.#steered(id, await this.#parts.catalogue.resume(id), 'resumed');
  }

  /** Nothing starts from now on, and what waits is taken back; what has been written to a device ends. */
  async cancel(id: string): Promise<JobSteered> {
    return await this.#steered(id, await this.#parts.catalogue.cancel(id), 'stopping');
  }

  /** The same job goes on with the devices that ended in these states; the others stay as they are. */
  async retry(id: string, { states, ttlMs }: JobRetry): Promise<JobSteered | Refused<'rate_limited' | 'conflict'>> {
    const { catalogue, activeJobs, nowMs } = this.#parts;
    const job = await catalogue.read(id);
    if (job === undefined) return { status: 'not_found' };
    if (!isJobEnded(job.progress.state)) return { status: 'conflict', state: job.progress.state };
    const chosen = states ?? safeStates(job);
    if (chosen.every((state) => job.counts[state] === 0))
      return refused('conflict', `no device of the job is ${chosen.join(' or ')}`);
    const steered = await catalogue.retry(id, chosen, Math.max(nowMs(), job.notBeforeMs) + ttlMs);
    if (steered.status === 'full') return refused('rate_limited', tooManyActive(activeJobs));
    return await this.#steered(id, steered, 'retried');
  }

  async #steered(id: string, steered: Steered, event: JobEvent): Promise<JobSteered> {
    if (steered.status !== 'steered') return steered;
    await this.#parts.nudge(id);
    const job = await this.#parts.catalogue.read(id);
    if (job === undefined) return { status: 'not_found' };
    this.#parts.tell(event, job);
    return { status: 'steered', job };
  }

  /** The job of an earlier request with the same key, which may be writing it this moment. */
  async #repeated({ status, id }: Earlier): Promise<Created> {
    if (status === 'conflict')
      return refused('key_conflict', `the key belongs to job ${id}, whose request was another one`);
    for (let waitedMs = 0; waitedMs <= TWIN_WAIT_MS; waitedMs += TWIN_POLL_MS) {
      const job = await this.#parts.catalogue.read(id);
      if (job !== undefined) return { status: 'repeated', job };
      await new Promise((resolve) => setTimeout(resolve, TWIN_POLL_MS));
    }
    return refused('broker_unavailable', `the job ${id} of this key is not complete; ask again with the same key`);
  }
}

/** What a retry does again unless told otherwise: what certainly did not happen, and whatever may happen twice. */
export function safeStates({ command }: Pick<JobRecord, 'command'>): readonly RetryableState[] {
  return command.repeatable ? ['failed', 'expired', 'timed_out', 'unknown'] : ['failed', 'expired'];
}

function tooManyActive(activeJobs: number): string {
  return `the number of active jobs (LAPI_JOBS_ACTIVE), ${activeJobs}; wait until one has ended, or cancel one`;
}

/** A text: nothing could ever start, and why. */
function windowOf({ notBeforeMs, notAfterMs, expires }: JobOrder, nowMs: number): JobWindow | string {
  const beginMs = Math.floor(Math.max(nowMs, notBeforeMs ?? 0));
  const expiresMs = 'atMs' in expires ? expires.atMs : beginMs + expires.afterMs;
  const deadlineMs = Math.floor(Math.min(expiresMs, notAfterMs ?? Number.POSITIVE_INFINITY));
  if (deadlineMs <= nowMs) return 'its end, or `expiresAt`, has passed';
  if (deadlineMs <= beginMs) return '`expiresAt` must be after `window.notBefore`';
  if (deadlineMs > nowMs + LATEST_MS) return `its end, or \`expiresAt\`, must be within ${LATEST_MS / DAY_MS} days`;
  return { notBeforeMs: notBeforeMs ?? 0, deadlineMs };
}

function refused<E extends string>(error: E, detail: string, part?: Refused<E>['part']): Refused<E> {
  return { status: 'refused', error, detail, ...(part === undefined ? {} : { part }) };
}

function sha256(text: string): string {
  return createHash('sha256').update(text).digest('hex');
}
