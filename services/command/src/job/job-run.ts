/** Carries one job out for some seconds, under one lease: plans, notes a target as `starting`, submits its command, notes what the record of
 *  the command says, and takes back what must not start any more.
 *  - What is noted comes before what is done: a target is `starting` before its command is submitted, and recalled before its command is
 *    cancelled. Ids of commands follow from job, device and try. So whoever goes on after a kill finds out what happened, and doing it again
 *    sends nothing twice (I7).
 *  - Every write carries the fence of the lease, every submission ends with it: a runner that was paused changes nothing and sends nothing.
 *  - The record of a command is the truth; ENDED hints only make it fast, about twice per second the records of all that is out are read.
 *  Store away: rejects with `broker_unavailable`, and another run goes on from what is noted. Deciding is plan.ts; who runs when, job-runner.ts. */

import { type CommandRecord, type CommandState, type Executed, isEnded } from '@lapi-broker/lane';
import type { CommandId, DeviceCode } from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';
import type { StoreTime } from '../dispatch/dispatch.ts';
import type { CommandQueue, Submitted } from '../lane/queued-commands.ts';
import {
  commandIdOf,
  isTargetEnded,
  type JobProgress,
  type JobRecord,
  TARGET_STATES,
  type TargetState,
  type TargetStatus,
} from './job.ts';
import type { JobEvent } from './job-events.ts';
import type { JobBench, JobCatalogue, JobChange, Lease, LoadedTarget, TargetChange } from './job-store.ts';
import { type OpenTarget, type Plan, plan } from './plan.ts';
import { lookUpAll, type PresenceParts } from './presence.ts';
import { RateMeter } from './rate-meter.ts';

export interface JobRunParts extends PresenceParts {
  readonly bench: JobBench;
  readonly commands: Pick<CommandQueue, 'submit' | 'readStates' | 'cancel'>;
  readonly keyspace: Pick<Keyspace, 'shardOf'>;
  readonly time: StoreTime;
  /** How long the record of an ended command is kept: for so long its absence says that it never was. */
  readonly recordsKeptMs: number;
  readonly catalogue: Pick<JobCatalogue, 'attend' | 'settle'>;
  readonly tell: (event: JobEvent, job: JobRecord) => void;
}

export type RunEnd =
  /** Somebody should go on then. */
  | { readonly status: 'rest'; readonly afterMs: number }
  | { readonly status: 'ended' }
  /** Another runner has taken over. */
  | { readonly status: 'fenced' };

const BOUNDS = { starts: 100, lookUps: 500, ends: 500 } as const;
const RUN_MS = 20_000;
const POLL_MS = 500;
/** Between two words to the store while nothing changes: how soon a pause is seen. */
const RENEW_MS = 400;
const ATTEND_MS = 1_000;
/** Past the end of the lease. */
const ATTEND_AFTER_MS = 6_000;
const REPORT_MS = 1_000;
/** A submission must have arrived so long before the lease ends. */
const LEASE_MARGIN_MS = 1_000;
/** With nothing out, a run that would wait longer than this leaves its place to others. */
const IDLE_MS = 3_000;
const REST_MS = 30_000;
const ONLINE_FRESH_MS = 2_000;
const OFFLINE_FRESH_MS = 3_000;
/** Devices without a session are looked up at most about so often per second. */
const OFFLINE_LOOK_UPS_PER_SECOND = 200;
/** A command that has waited so long in its lane: is its device still there? */
const QUEUED_PATIENCE_MS = 2_000;
/** A lane that is full, or a store that is: not again before. */
const REFUSED_PAUSE_MS = 5_000;
/** The store did not answer. */
const UNCLEAR_PAUSE_MS = 1_000;
/** A record may be gone so long before it should. */
const RECORD_MARGIN_MS = 10_000;
/** Records read, targets written at once. */
const BATCH = 500;
const RECALLED = 'recalled';

/** A target that has not ended. */
interface Target extends OpenTarget {
  readonly index: number;
  readonly code: DeviceCode;
  online: boolean;
  freshUntilMs: number;
  notBeforeMs: number;
  /** A submission of it may be under way until then, and be accepted although its answer was lost. */
  mayArriveUntilMs: number;
  status: TargetStatus;
  id: CommandId | undefined;
  /** What its record last said. */
  lane: CommandState | undefined;
}

export class JobRun {
  readonly #parts: JobRunParts;
  readonly #job: JobRecord;
  readonly #signal: AbortSignal;
  readonly #data: Uint8Array;
  readonly #targets: readonly Target[];
  readonly #meter = new RateMeter();
  readonly #byCommand = new Map<CommandId, Target>();
  readonly #out = new Set<Target>();
  /** In order. */
  #todo: Target[] = [];
  #lease: Lease;
  #progress: JobProgress;
  #startedAtMs: number | undefined;
  #fenced: boolean = false;
  readonly #hinted = new Set<CommandId>();
  #wake: () => void = () => undefined;
  #endedHere = 0;
  #reported = 0;
  #polledMs = Number.NEGATIVE_INFINITY;
  #wroteMs = Number.NEGATIVE_INFINITY;
  #attendedMs = Number.NEGATIVE_INFINITY;
  #reportedMs = Number.NEGATIVE_INFINITY;

  private constructor(
    parts: JobRunParts,
    job: JobRecord,
    lease: Lease,
    data: Uint8Array,
    targets: readonly LoadedTarget[],
    signal: AbortSignal,
  ) {
    this.#parts = parts;
    this.#job = job;
    this.#lease = lease;
    this.#data = data;
    this.#signal = signal;
    this.#progress = job.progress;
    this.#startedAtMs = job.startedAtMs;
    this.#targets = targets.map(({ index, code, groups, ...status }) => ({
      index,
      code,
      groups,
      status,
      online: false,
      freshUntilMs: 0,
      notBeforeMs: 0,
      // An earlier runner, whose lease ended before this one ends.
      mayArriveUntilMs: lease.endsAtMs,
      id: undefined,
      lane: undefined,
    }));
    for (const target of this.#targets) this.#place(target);
    this.#todo = this.#targets.filter(isTodo);
  }

  static async load(parts: JobRunParts, job: JobRecord, lease: Lease, signal: AbortSignal): Promise<JobRun> {
    const [targets, data] = await Promise.all([parts.bench.load(job.id), parts.bench.data(job.id)]);
    return new JobRun(parts, job, lease, data, targets, signal);
  }

  /** A command has perhaps ended. */
  hint(id: CommandId): void {
    if (!this.#byCommand.has(id)) return;
    this.#hinted.add(id);
    this.#wake();
  }

  async run(): Promise<RunEnd> {
    const untilMs = this.#nowMs() + RUN_MS;
    if (this.#progress.retry.length > 0) await this.#takeUpRetry();
    while (!this.#fenced && !this.#signal.aborted && this.#nowMs() < untilMs) {
      await this.#keepAlive();
      await this.#learn();
      await this.#resolveStarting();
      const planned = plan(
        { ...this.#job, progress: this.#progress },
        { todo: this.#todo, out: [...this.#out] },
        BOUNDS,
        this.#nowMs(),
      );
      if (planned.kind === 'finish') {
        if (await this.#finish()) return { status: 'ended' };
        continue;
      }
      if (planned.kind === 'abort') {
        await this.#abort(planned.reason);
        continue;
      }
      const didSomething = await this.#carryOut(planned);
      await this.#report();
      if (didSomething) continue;
      const waitMs = (planned.nextMs ?? Number.POSITIVE_INFINITY) - this.#nowMs();
      if (this.#out.size === 0 && waitMs > IDLE_MS) return await this.#rest(waitMs);
      await this.#pause(Math.max(1, Math.min(waitMs, RENEW_MS)));
    }
    return await this.#rest(0);
  }

  #nowMs(): number {
    return this.#parts.time.nowMs();
  }

  async #rest(afterMs: number): Promise<RunEnd> {
    if (this.#fenced) return { status: 'fenced' };
    return await restAfter(this.#parts.bench, { ...this.#job, progress: this.#progress }, this.#lease, afterMs);
  }

  /** Until a hint comes, or the time is over. */
  async #pause(waitMs: number): Promise<void> {
    if (this.#hinted.size > 0 || this.#signal.aborted) return;
    await new Promise<void>((resolve) => {
      const timer = setTimeout(resolve, waitMs);
      this.#wake = () => {
        clearTimeout(timer);
        resolve();
      };
      this.#signal.addEventListener('abort', this.#wake, { once: true });
    });
    this.#signal.removeEventListener('abort', this.#wake);
    this.#wake = () => undefined;
  }

  async #keepAlive(): Promise<void> {
    const nowMs = this.#nowMs();
    if (nowMs - this.#attendedMs >= ATTEND_MS) {
      this.#attendedMs = nowMs;
      await this.#parts.catalogue.attend(this.#job.id, ATTEND_AFTER_MS);
    }
    if (nowMs - this.#wroteMs >= RENEW_MS) await this.#write([]);
  }

  /** False when it was not done: another runner has taken over, or the job is not in that state any more. */
  async #write(changes: readonly TargetChange[], job?: JobChange, whileState?: JobProgress['state']): Promise<boolean> {
    if (this.#fenced) return false;
    const applied = await this.#parts.bench.apply(this.#job.id, {
      fence: this.#lease.fence,
      targets: changes,
      ...(job === undefined ? {} : { job }),
      ...(whileState === undefined ? {} : { while: whileState }),
    });
    if (applied.status === 'fenced') {
      this.#fenced = true;
      return false;
    }
    this.#wroteMs = this.#nowMs();
    this.#lease = applied.lease;
    this.#progress = applied.progress;
    if (applied.status === 'refused') return false;
    let reordered = false;
    for (const { index, to } of changes) {
      const target = this.#targets[index];
      if (target === undefined) continue;
      reordered ||= (target.status.state === 'todo') !== (to.state === 'todo');
      if (this.#out.has(target) && isTargetEnded(to.state)) this.#countEnd();
      target.status = to;
      this.#place(target);
    }
    if (reordered) this.#todo = this.#targets.filter(isTodo);
    return true;
  }

  #countEnd(): void {
    this.#endedHere += 1;
    this.#meter.add(1, this.#nowMs());
  }

  #place(target: Target): void {
    const { state, tries } = target.status;
    if (target.id !== undefined) this.#byCommand.delete(target.id);
    if (state === 'starting' || state === 'active') {
      target.id = commandIdOf(this.#job.id, target.code, tries, this.#parts.keyspace.shardOf(target.code));
      this.#byCommand.set(target.id, target);
      this.#out.add(target);
      return;
    }
    this.#out.delete(target);
    target.id = undefined;
    target.lane = undefined;
  }

  #outIn(state: 'starting' | 'active'): Target[] {
    return [...this.#out].filter(({ status }) => status.state === state);
  }

  /** Reads what has become of the commands that are out: those of hints at once, twice per second all that had time to end. */
  async #learn(): Promise<void> {
    const nowMs = this.#nowMs();
    const isDue = nowMs - this.#polledMs >= POLL_MS;
    const asked = this.#outIn('active').filter(({ id, status }) => {
      const isOld = nowMs - (status.startedAtMs ?? 0) >= POLL_MS;
      return (isDue && isOld) || (id !== undefined && this.#hinted.has(id));
    });
    this.#hinted.clear();
    if (isDue) this.#polledMs = nowMs;
    await this.#read(asked);
  }

  async #read(asked: readonly Target[]): Promise<void> {
    for (let from = 0; from < asked.length && !this.#fenced; from += BATCH) {
      const batch = asked.slice(from, from + BATCH);
      const records = await this.#records(batch);
      const changes: TargetChange[] = [];
      for (const [at, target] of batch.entries()) {
        const record = records[at];
        const to = record === undefined ? LOST : this.#fate(target, record);
        if (to !== undefined) changes.push({ index: target.index, to: { ...target.status, ...to } });
      }
      if (changes.length > 0) await this.#write(changes);
    }
  }

  #records(targets: readonly Target[]): Promise<readonly (CommandRecord | undefined)[]> {
    return this.#parts.commands.readStates(targets.flatMap(({ id }) => (id === undefined ? [] : [id])));
  }

  /** What the record makes of a target; undefined: nothing new. */
  #fate(target: Target, record: CommandRecord): Partial<TargetStatus> | undefined {
    const { state, reason, sentAtMs, endedAtMs, responseCode } = record;
    target.lane = state;
    if (!isEnded(state) || state === 'queued' || state === 'sent') return undefined;
    const executed = overall(target.status, record);
    const wasRecalled = state === 'cancelled' && target.status.reason === RECALLED;
    if (wasRecalled && this.#progress.state !== 'stopping') return { state: 'todo', reason: '', executed };
    const isSkipped = wasRecalled && this.#progress.stopTo === 'aborted';
    return {
      state: isSkipped ? 'skipped' : state,
      reason: wasRecalled ? (isSkipped ? 'aborted' : 'job_cancelled') : word(reason),
      executed,
      ...(sentAtMs === undefined ? {} : { startedAtMs: sentAtMs }),
      endedAtMs: endedAtMs ?? Math.floor(this.#nowMs()),
      ...(responseCode === undefined ? {} : { responseCode }),
    };
  }

  /** Targets of which it is not known whether their command was submitted: left by a runner that died, or by a store that did not answer. */
  async #resolveStarting(): Promise<void> {
    const nowMs = this.#nowMs();
    const unclear = this.#outIn('starting').filter(({ notBeforeMs }) => notBeforeMs <= nowMs);
    if (unclear.length === 0) return;
    const isForgotten = ({ status }: Target): boolean =>
      nowMs - (status.startedAtMs ?? 0) > this.#parts.recordsKeptMs - RECORD_MARGIN_MS;
    if (this.#progress.state === 'running' && nowMs < this.#job.deadlineMs && !unclear.some(isForgotten)) {
      // Again the same id: what was accepted before is not accepted again.
      await this.#submit(unclear.slice(0, BOUNDS.starts));
      return;
    }
    const batch = unclear.slice(0, BATCH);
    const records = await this.#records(batch);
    const changes = batch.flatMap((target, at): TargetChange[] => {
      const { index, status } = target;
      if (records[at] !== undefined) return [{ index, to: { ...status, state: 'active' } }];
      if (isForgotten(target)) return [{ index, to: { ...status, ...LOST } }];
      // Not untried (I4) before it is certain that it cannot be accepted any more.
      if (nowMs <= target.mayArriveUntilMs) {
        target.notBeforeMs = nowMs + UNCLEAR_PAUSE_MS;
        return [];
      }
      return [{ index, to: untried(status) }];
    });
    if (changes.length > 0) await this.#write(changes);
  }

  async #carryOut(planned: Go): Promise<boolean> {
    const recalled = await this.#recall(planned.takeBack);
    if (planned.end.length > 0) {
      const { state, reason } = planned.endAs;
      const endedAtMs = Math.floor(this.#nowMs());
      const changes = planned.end.map(({ index, status }) => {
        const executed = status.executed ?? 'no';
        return { index, to: { ...status, state, reason, executed, endedAtMs } };
      });
      await this.#write(changes, undefined, this.#progress.state);
    }
    if (planned.lookUp.length > 0) await this.#lookUp(planned.lookUp);
    if (planned.start.length > 0) await this.#start(planned);
    return recalled || planned.end.length + planned.lookUp.length + planned.start.length > 0;
  }

  async #lookUp(targets: readonly Target[]): Promise<void> {
    const found = await lookUpAll(
      this.#parts,
      targets.map(({ code }) => code),
    );
    const nowMs = this.#nowMs();
    const spreadMs = (this.#todo.length / OFFLINE_LOOK_UPS_PER_SECOND) * 1_000;
    const gone: TargetChange[] = [];
    for (const [at, target] of targets.entries()) {
      const { known = false, online = false } = found[at] ?? {};
      target.online = online;
      target.freshUntilMs = nowMs + (online ? ONLINE_FRESH_MS : Math.max(OFFLINE_FRESH_MS, spreadMs));
      if (known || target.status.state !== 'todo') continue;
      const { index, status } = target;
      const executed = status.executed ?? 'no';
      const endedAtMs = Math.floor(nowMs);
      gone.push({ index, to: { ...status, state: 'failed', reason: 'device_unknown', executed, endedAtMs } });
    }
    if (gone.length > 0) await this.#write(gone);
  }

  async #start({ start, wave, waveStarted, tokens, tokensAtMs }: Go): Promise<void> {
    const startedAtMs = Math.floor(this.#nowMs());
    const isFirst = this.#startedAtMs === undefined;
    const job: JobChange = { wave, waveStarted, tokens, tokensAtMs, ...(isFirst ? { startedAtMs } : {}) };
    const changes = start.map(({ index, status }): TargetChange => {
      const { executed, tries } = status;
      const kept = executed === undefined ? {} : { executed };
      return { index, to: { state: 'starting', tries: tries + 1, reason: '', startedAtMs, ...kept } };
    });
    if (!(await this.#write(changes, job, 'running'))) return;
    if (isFirst) {
      this.#startedAtMs = startedAtMs;
      this.#parts.tell('started', this.#record());
    }
    await this.#submit(start);
  }

  async #submit(targets: readonly Target[]): Promise<void> {
    const { id: job, command, keyId, deadlineMs } = this.#job;
    const { method, url, lane, timeoutMs, maxAttempts, backoffMs } = command;
    const notAfterMs = this.#lease.endsAtMs - LEASE_MARGIN_MS;
    for (const target of targets) target.mayArriveUntilMs = notAfterMs;
    const results = await Promise.all(
      targets.map(({ code, id }) =>
        this.#parts.commands.submit({
          code,
          method,
          url,
          body: this.#data,
          lane,
          timeoutMs,
          maxAttempts,
          backoffMs,
          expires: { atMs: deadlineMs },
          keyId,
          job,
          awaited: true,
          id,
          notAfterMs,
        }),
      ),
    );
    const nowMs = Math.floor(this.#nowMs());
    const changes: TargetChange[] = [];
    for (const [at, target] of targets.entries()) {
      const to = afterSubmission(target, results[at], nowMs);
      if (to !== undefined) changes.push({ index: target.index, to });
    }
    if (changes.length > 0) await this.#write(changes);
  }

  /** Takes commands back that nobody has written yet: all, or those whose device is away. */
  async #recall(all: boolean): Promise<boolean> {
    const nowMs = this.#nowMs();
    const queued = this.#outIn('active').filter(({ lane }) => lane === undefined || lane === 'queued');
    let chosen = queued;
    if (!all) {
      const doubtful = queued.filter(
        ({ status, freshUntilMs }) =>
          freshUntilMs <= nowMs && nowMs - (status.startedAtMs ?? nowMs) > QUEUED_PATIENCE_MS,
      );
      const asked = doubtful.slice(0, BOUNDS.lookUps);
      if (asked.length > 0) await this.#lookUp(asked);
      chosen = asked.filter(({ online }) => !online);
    }
    chosen = chosen.slice(0, BOUNDS.starts);
    if (chosen.length === 0) return false;
    const marked = chosen
      .filter(({ status }) => status.reason !== RECALLED)
      .map(({ index, status }): TargetChange => ({ index, to: { ...status, reason: RECALLED } }));
    if (marked.length > 0 && !(await this.#write(marked))) return false;
    await Promise.all(chosen.flatMap(({ id }) => (id === undefined ? [] : [this.#parts.commands.cancel(id)])));
    await this.#read(chosen);
    return true;
  }

  async #abort(reason: string): Promise<void> {
    if (await this.#write([], { state: 'stopping', stopTo: 'aborted', reason }, 'running'))
      this.#parts.tell('stopping', this.#record());
  }

  /** False: somebody steered it meanwhile. */
  async #finish(): Promise<boolean> {
    const { catalogue, bench, tell } = this.#parts;
    const { id } = this.#job;
    const atMs = await catalogue.attend(id, ATTEND_AFTER_MS);
    const { state, stopTo } = this.#progress;
    const allSucceeded = this.#targets.every(({ status }) => status.state === 'succeeded');
    const end = (state === 'stopping' ? stopTo : undefined) ?? (allSucceeded ? 'succeeded' : 'finished_with_failures');
    if (!(await this.#write([], { state: end, endedAtMs: Math.floor(this.#nowMs()) }, state))) return false;
    await bench.release(id, this.#lease.fence);
    await catalogue.settle({ id, atMs });
    tell(end === 'aborted' || end === 'cancelled' ? end : 'finished', this.#record());
    return true;
  }

  /** A new round: what the retry names is to be done again, unless its answer has come after all. */
  async #takeUpRetry(): Promise<void> {
    const { retry } = this.#progress;
    const chosen = this.#targets.filter(({ status }) => retry.some((state) => state === status.state));
    for (let from = 0; from < chosen.length && !this.#fenced; from += BATCH) {
      const batch = chosen.slice(from, from + BATCH);
      const doubtful = batch.filter(({ status }) => status.executed === 'maybe' && status.tries > 0);
      const late = new Map<Target, CommandRecord | undefined>();
      const ids = doubtful.map(({ code, status }) =>
        commandIdOf(this.#job.id, code, status.tries, this.#parts.keyspace.shardOf(code)),
      );
      const records = ids.length === 0 ? [] : await this.#parts.commands.readStates(ids);
      for (const [at, target] of doubtful.entries()) late.set(target, records[at]);
      await this.#write(batch.map((target) => ({ index: target.index, to: again(target.status, late.get(target)) })));
    }
    await this.#write([], { newRound: true });
  }

  async #report(): Promise<void> {
    const nowMs = this.#nowMs();
    if (nowMs - this.#reportedMs < REPORT_MS || this.#endedHere === this.#reported) return;
    this.#reportedMs = nowMs;
    this.#reported = this.#endedHere;
    if (await this.#write([], this.#rate())) this.#parts.tell('progress', this.#record());
  }

  #rate(): { readonly ratePerSecond: number; readonly rateAtMs: number } {
    const nowMs = this.#nowMs();
    return { ratePerSecond: Math.round(this.#meter.perSecond(nowMs) * 10) / 10, rateAtMs: Math.floor(nowMs) };
  }

  /** The job as it is now, for events. */
  #record(): JobRecord {
    const counts = Object.fromEntries(TARGET_STATES.map((state) => [state, 0])) as Record<TargetState, number>;
    for (const { status } of this.#targets) counts[status.state] += 1;
    const { ratePerSecond, rateAtMs } = this.#rate();
    return { ...this.#job, counts, progress: this.#progress, rate: { perSecond: ratePerSecond, atMs: rateAtMs } };
  }
}

/** Gives the lease back, and says when somebody should go on. */
export async function restAfter(
  bench: Pick<JobBench, 'release'>,
  { id, progress }: Pick<JobRecord, 'id' | 'progress'>,
  { fence }: Lease,
  afterMs: number,
): Promise<RunEnd> {
  const released = await bench.release(id, fence);
  if (released.status === 'fenced') return { status: 'fenced' };
  // Who steered it before found it busy and relies on us; who does it later finds it free.
  const { state, retry } = released.progress;
  const wasSteered = state !== progress.state || retry.length > 0;
  return { status: 'rest', afterMs: wasSteered ? 0 : Math.min(afterMs, REST_MS) };
}

type Go = Extract<Plan<Target>, { readonly kind: 'go' }>;

const LOST = { state: 'unknown', executed: 'maybe', reason: 'record_lost' } as const;

function isTodo({ status }: Target): boolean {
  return status.state === 'todo';
}

/** Over all tries: what one of them may have done stays done. */
function overall({ executed: before }: TargetStatus, { executed = 'maybe' }: CommandRecord): Executed {
  return executed === 'no' ? (before ?? 'no') : executed;
}

/** Words of records are short and have no commas; a record of another version might. */
function word(reason: string): string {
  return reason.replaceAll(/[^\w.-]/g, '_').slice(0, 64);
}

/** The try never happened; the next one gets its number, and so its id. */
function untried({ tries, executed }: TargetStatus): TargetStatus {
  return { state: 'todo', tries: tries - 1, reason: '', ...(executed === undefined ? {} : { executed }) };
}

function again(status: TargetStatus, record: CommandRecord | undefined): TargetStatus {
  const { tries, executed } = status;
  if (record?.state === 'succeeded') return { ...status, state: 'succeeded', executed: 'yes', reason: 'late' };
  return { state: 'todo', tries, reason: '', ...(executed === undefined ? {} : { executed }) };
}

/** Undefined: it stays `starting`, and the same is submitted again. */
function afterSubmission(target: Target, result: Submitted | undefined, nowMs: number): TargetStatus | undefined {
  const { status } = target;
  if (result !== undefined && result.status !== 'refused') {
    target.lane = result.state;
    return { ...status, state: 'active' };
  }
  const refused = { ...status, executed: status.executed ?? 'no', endedAtMs: nowMs } as const;
  switch (result?.error) {
    case 'lane_full':
    case 'rate_limited':
    case 'store_full':
      target.notBeforeMs = nowMs + REFUSED_PAUSE_MS;
      return untried(status);
    case 'invalid_request':
      return { ...refused, state: 'expired', reason: '' };
    case 'device_unknown':
    case 'key_conflict':
      return { ...refused, state: 'failed', reason: result.error };
    default:
      target.notBeforeMs = nowMs + UNCLEAR_PAUSE_MS;
      return undefined;
  }
}
