/** The load generator as a process: a platform that calls devices over many connections, as fast as answers come or at a fixed pace.
 *  An answer counts only with the expected status and size, and the name of the device that was called. */

import { percentile } from '../measure/spread.ts';
import { answerAs } from '../worker/verbs.ts';
import { type CallAnswer, CallConnection } from './call-connection.ts';

export interface CallPlan {
  readonly port: number;
  /** Header lines, each with its line end. */
  readonly headers: string;
  readonly codes: readonly string[];
  /** What follows the code of the device. */
  readonly path: string;
  /** JSON in ASCII: the call is a POST. */
  readonly body?: string | undefined;
  /** Of an answer that counts; default 200. */
  readonly status?: number | undefined;
  /** An answer with a shorter body is a failure. */
  readonly leastBytes: number;
  readonly connections: number;
  readonly durationMs: number;
  /** Saturated only: no more calls than this. */
  readonly maxCalls?: number | undefined;
}

export interface PacedPlan extends CallPlan {
  readonly perSecond: number;
  /** How long the last answers may take; default 5 s. */
  readonly lastAnswersMs?: number;
}

export interface CallTally {
  readonly answered: number;
  readonly failed: number;
  /** Status or cause of the first failure. */
  readonly firstFailure: string;
  /** By status, error code, and whether the call may have been written. */
  readonly failures: Readonly<Record<string, number>>;
  readonly elapsedMs: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly mostMs: number;
  /** Paced only: calls whose answer did not come. */
  readonly unanswered: number;
  /** Paced only: calls that found no free connection; they were not made. */
  readonly notMade: number;
}

class Tally {
  answered = 0;
  failed = 0;
  firstFailure = '';
  notMade = 0;
  unanswered = 0;
  private readonly failures: Record<string, number> = {};
  private readonly status: number;
  private readonly leastBytes: number;
  private readonly takenMs: number[] = [];

  constructor({ status = 200, leastBytes }: CallPlan) {
    this.status = status;
    this.leastBytes = leastBytes;
  }

  take({ status, bodyBytes, named, problem }: CallAnswer, tookMs: number): void {
    if (status === this.status && named && bodyBytes >= this.leastBytes) {
      this.answered++;
      this.takenMs.push(tookMs);
      return;
    }
    const code = /"code":"([a-z_]+)"/.exec(problem)?.[1] ?? '';
    const written = /"written":true/.test(problem) ? ', written' : '';
    this.fail(
      `status ${status}, ${bodyBytes} bytes, device ${named ? 'named' : 'not named'} ${problem}`,
      `${status} ${code}${written}`,
    );
  }

  fail(cause: string, kind = cause): void {
    this.failed++;
    this.failures[kind] = (this.failures[kind] ?? 0) + 1;
    if (this.firstFailure === '') this.firstFailure = cause;
  }

  result(elapsedMs: number): CallTally {
    const sorted = Float64Array.from(this.takenMs).sort();
    const { answered, failed, firstFailure, failures, notMade, unanswered } = this;
    return {
      answered,
      failed,
      firstFailure,
      failures,
      notMade,
      unanswered,
      elapsedMs,
      p50Ms: percentile(sorted, 0.5),
      p99Ms: percentile(sorted, 0.99),
      mostMs: percentile(sorted, 1),
    };
  }
}

async function connect(plan: CallPlan, tally: Tally): Promise<CallConnection[]> {
  return await Promise.all(
    Array.from({ length: plan.connections }, () =>
      CallConnection.connect(plan.port, plan.headers, (error) => tally.fail(error.message)),
    ),
  );
}

/** Every connection calls again as soon as it has its answer, each device in turn. Begins and ends at rest. */
async function saturate(plan: CallPlan): Promise<CallTally> {
  const tally = new Tally(plan);
  const connections = await connect(plan, tally);
  const startedMs = performance.now();
  const endMs = startedMs + plan.durationMs;
  const { maxCalls = Number.POSITIVE_INFINITY } = plan;
  let next = 0;
  await Promise.all(
    connections.map(
      (connection) =>
        new Promise<void>((resolve) => {
          const again = (): void => {
            const sentMs = performance.now();
            if (sentMs >= endMs || next >= maxCalls || tally.failed > plan.connections) {
              resolve();
              return;
            }
            connection.call(plan.codes[next++ % plan.codes.length] as string, plan.path, plan.body, (answer) => {
              tally.take(answer, performance.now() - sentMs);
              again();
            });
          };
          again();
        }),
    ),
  );
  const elapsedMs = performance.now() - startedMs;
  for (const connection of connections) connection.close();
  return tally.result(elapsedMs);
}

/** Calls leave when they are due, whatever became of earlier ones, so a slow system is asked no less. Time counts from the write: how late
 *  the timer of this process is would be the larger part otherwise. */
async function pace(plan: PacedPlan): Promise<CallTally> {
  const tally = new Tally(plan);
  const free = await connect(plan, tally);
  const all = [...free];
  const startedMs = performance.now();
  const total = Math.round((plan.durationMs / 1_000) * plan.perSecond);
  let made = 0;
  let open = 0;
  await new Promise<void>((resolve) => {
    const timer = setInterval(() => {
      const nowMs = performance.now();
      for (; made < total; made++) {
        const dueMs = startedMs + (made / plan.perSecond) * 1_000;
        if (dueMs > nowMs) return;
        // In turn, because a connection that is not used for ten seconds is closed.
        const connection = free.shift();
        if (connection === undefined) {
          tally.notMade++;
          continue;
        }
        open++;
        connection.call(plan.codes[made % plan.codes.length] as string, plan.path, plan.body, (answer) => {
          tally.take(answer, performance.now() - nowMs);
          free.push(connection);
          open--;
        });
      }
      for (const connection of free.splice(0)) connection.close();
      if (open > 0 && nowMs < startedMs + plan.durationMs + (plan.lastAnswersMs ?? 5_000)) return;
      tally.unanswered = open;
      clearInterval(timer);
      resolve();
    }, 1);
  });
  const elapsedMs = performance.now() - startedMs;
  for (const connection of all) connection.close();
  return tally.result(elapsedMs);
}

const verbs = { saturate, pace };
export type CallerVerbs = typeof verbs;

answerAs(verbs);
