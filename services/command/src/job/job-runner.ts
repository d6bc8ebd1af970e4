/** Sees to it that every active job is carried out by somebody: takes the lease of a job whose turn it is, runs it for some seconds, and asks
 *  for the next turn. Turns come from the work queue; because that may lose or double them, every process also looks every second for jobs
 *  that nobody has attended to, and the lease admits one runner at a time.
 *  A process that is killed leaves a job whose lease ends within seconds; one that was paused finds its fence outdated and stops.
 *  Store away: turns fail, are counted, and come again. Not done here: what a turn does (job-run.ts). */

import type { CommandId } from '@lapi-broker/protocol';
import { underSignals } from '@lapi-broker/runtime';
import type { CommandQueue } from '../lane/queued-commands.ts';
import type { JobRecord } from './job.ts';
import { JobRun, type JobRunParts, type RunEnd, restAfter } from './job-run.ts';
import type { JobCatalogue, Lease } from './job-store.ts';
import { quietMs } from './plan.ts';

export interface JobRunnerParts extends Omit<JobRunParts, 'catalogue'> {
  readonly catalogue: Pick<JobCatalogue, 'attend' | 'settle' | 'due'>;
  readonly commands: Pick<CommandQueue, 'submit' | 'readStates' | 'cancel' | 'onEnded'>;
  /** Asks for a turn, here or elsewhere. May be lost. */
  readonly addTurn: (turn: string, delayMs: number) => Promise<void>;
  readonly onFailure: (job: string, error: unknown) => void;
}

const SWEEP_MS = 1_000;
const SWEPT_JOBS = 200;
/** Until a turn that was asked for is overdue. */
const OVERDUE_MS = 3_000;
/** After a turn that failed. */
const FAILED_MS = 1_000;
const TURN = /^([0-9a-z]{20})\.(\d{1,15})$/;

/** `atMs` keeps turns apart, because the queue takes an id once; it is the moment for which a job was listed, where the sweeper asks. */
function turnOf(job: string, atMs: number): string {
  return `${job}.${Math.floor(atMs)}`;
}

export class JobRunner {
  readonly name = 'job runner';
  readonly #parts: JobRunnerParts;
  readonly #runs = new Map<string, JobRun | undefined>();
  /** Jobs for which a turn came while they were run; a part of `#runs`. */
  readonly #missed = new Set<string>();
  readonly #leaving = new AbortController();
  #forget: () => void = () => undefined;
  #timer: NodeJS.Timeout | undefined;
  #sweeping: Promise<void> = Promise.resolve();

  constructor(parts: JobRunnerParts) {
    this.#parts = parts;
  }

  /** Jobs that this process carries out now. */
  get running(): number {
    return this.#runs.size;
  }

  start(): void {
    this.#forget = this.#parts.commands.onEnded((id) => this.#hint(id));
    this.#schedule();
  }

  /** Runs stop within a moment, and others go on. */
  drain(): void {
    this.#leaving.abort();
    clearTimeout(this.#timer);
  }

  async stop(): Promise<void> {
    this.drain();
    this.#forget();
    await this.#sweeping;
  }

  /** A job was created, or steered. Never rejects: what is lost here the sweeper finds. */
  async nudge(job: string): Promise<void> {
    await this.#ask(job, 0);
  }

  /** The handler of the work queue. Rejects when the store is away. */
  async take(turn: string, signal: AbortSignal): Promise<void> {
    const [, job, atMs] = TURN.exec(turn) ?? [];
    if (job === undefined || atMs === undefined || this.#leaving.signal.aborted) return;
    if (this.#runs.has(job)) {
      // It would only find our own lease in the way; what it came for may be too late for the run that ends.
      this.#missed.add(job);
      return;
    }
    this.#runs.set(job, undefined);
    try {
      await underSignals([signal, this.#leaving.signal], (either) => this.#run(job, Number(atMs), either));
    } catch (error) {
      this.#parts.onFailure(job, error);
      await this.#ask(job, FAILED_MS);
    } finally {
      this.#runs.delete(job);
      if (this.#missed.delete(job)) await this.#ask(job, 0);
    }
  }

  async #run(job: string, listedAtMs: number, signal: AbortSignal): Promise<void> {
    const { bench, catalogue } = this.#parts;
    const lease = await bench.lease(job);
    if (lease.status !== 'leased') {
      // A busy one has a runner, which asks for the next turn; should it die, the sweeper does.
      if (lease.status !== 'busy') await catalogue.settle({ id: job, atMs: listedAtMs });
      return;
    }
    const record = await bench.read(job);
    if (record === undefined) return;
    const end = await this.#carryOut(record, lease, signal);
    if (end.status === 'rest') await this.#ask(job, end.afterMs);
  }

  async #carryOut(job: JobRecord, lease: Lease, signal: AbortSignal): Promise<RunEnd> {
    const quiet = quietMs(job, this.#parts.time.nowMs());
    if (quiet !== undefined) return await restAfter(this.#parts.bench, job, lease, quiet);
    const run = await JobRun.load(this.#parts, job, lease, signal);
    this.#runs.set(job.id, run);
    return await run.run();
  }

  async #ask(job: string, delayMs: number): Promise<void> {
    const { addTurn, catalogue, time, onFailure } = this.#parts;
    try {
      await catalogue.attend(job, delayMs + OVERDUE_MS);
      await addTurn(turnOf(job, time.nowMs() + delayMs), delayMs);
    } catch (error) {
      onFailure(job, error);
    }
  }

  #hint(id: CommandId): void {
    for (const run of this.#runs.values()) run?.hint(id);
  }

  #schedule(): void {
    if (this.#leaving.signal.aborted) return;
    this.#timer = setTimeout(() => {
      this.#sweeping = this.#sweep().finally(() => this.#schedule());
    }, SWEEP_MS);
  }

  /** Never rejects. */
  async #sweep(): Promise<void> {
    const { catalogue, addTurn, onFailure } = this.#parts;
    try {
      const due = await catalogue.due(SWEPT_JOBS);
      await Promise.all(due.map(({ id, atMs }) => addTurn(turnOf(id, atMs), 0)));
    } catch (error) {
      onFailure('', error);
    }
  }
}
