/** Runs one target: a control window in which only the healthy device and its platform are there, then the inputs, several at a time, while the
 *  processes are watched. The same seed makes the same inputs; what they meet (nonces, the order of answers) is new each time. Ends early when too much
 *  is found, a process dies, or it is asked to. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Arena } from './arena.ts';
import { Chance } from './chance.ts';
import { type Finding, shown } from './finding.ts';
import type { Target } from './target.ts';
import { growthOf, type ServiceState, type Stall, Watch } from './watch.ts';
import { type Latency, Witness } from './witness.ts';

export interface RunOptions {
  readonly target: Target;
  readonly arena: Arena;
  readonly seed: number;
  readonly inputs: number;
  /** Number of the first input. */
  readonly first?: number;
  /** Default 3 s. */
  readonly controlMs?: number;
  /** Are there probes in the processes? */
  readonly probed?: boolean;
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly target: string;
  readonly seed: number;
  readonly inputs: number;
  readonly seconds: number;
  readonly findings: readonly Finding[];
  /** By class, most frequent first. */
  readonly outcomes: Readonly<Record<string, number>>;
  /** Of the healthy device and its platform. */
  readonly control: Latency;
  readonly latency: Latency;
  /** Longest, by process. */
  readonly controlStalls: Readonly<Record<string, Stall>>;
  readonly stalls: Readonly<Record<string, Stall>>;
  readonly before: readonly ServiceState[];
  readonly after: readonly ServiceState[];
}

const CONTROL_MS = 3_000;
const LOOK_MS = 200;
const MOST_FINDINGS = 20;
const SETTLE_LOOKS = 5;
const SETTLE_MS = 3_000;

export async function runTarget(options: RunOptions): Promise<RunResult> {
  const { target, arena, seed, inputs, first = 0, controlMs = CONTROL_MS, probed = false, signal } = options;
  const witness = await Witness.begin(arena);
  const watch = new Watch(arena, { probed, secrets: [witness.secret] });
  const findings: Finding[] = [];
  let next = first;
  const found = (index: number, what: string, input?: string | Buffer): void => {
    if (findings.length >= MOST_FINDINGS) return;
    const { name } = target;
    findings.push({ target: name, seed, index, what, ...(input === undefined ? {} : { input: shown(input) }) });
  };
  const look = (): void => {
    for (const what of [...watch.look(), ...witness.look()]) found(next - 1, what);
  };
  const isOver = (): boolean =>
    next >= first + inputs || findings.length >= MOST_FINDINGS || signal?.aborted === true || arena.hasDied;
  const run = await target.begin(arena, inputs);
  try {
    const before = await watch.measure();
    watch.takeStalls();
    witness.takeLatency();
    await sleep(controlMs);
    look();
    const control = witness.takeLatency();
    const controlStalls = watch.takeStalls();

    const startMs = performance.now();
    const outcomes = new Map<string, number>();
    const timer = setInterval(look, LOOK_MS);
    const send = async (): Promise<void> => {
      while (!isOver()) {
        const index = next++;
        const verdict = await run
          .send(Chance.of(seed, target.name, index))
          .catch((error: unknown) => ({ outcome: 'failed', fault: String(error), input: undefined }));
        outcomes.set(verdict.outcome, (outcomes.get(verdict.outcome) ?? 0) + 1);
        if (verdict.fault !== undefined) found(index, verdict.fault, verdict.input);
      }
    };
    await Promise.all(Array.from({ length: target.atOnce }, send)).finally(() => clearInterval(timer));
    const seconds = (performance.now() - startMs) / 1_000;
    look();
    const [latency, stalls] = [witness.takeLatency(), watch.takeStalls()];
    const after = await settled(watch, before, next - first);
    for (const what of growthOf(before, after, next - first)) found(next - 1, what);
    const byCount = [...outcomes].sort(([, a], [, b]) => b - a);
    return {
      target: target.name,
      seed,
      inputs: next - first,
      seconds: Math.round(seconds * 10) / 10,
      findings,
      outcomes: Object.fromEntries(byCount),
      control,
      latency,
      controlStalls,
      stalls,
      before,
      after,
    };
  } finally {
    await run.stop();
    await witness.stop();
  }
}

/** Events of the last inputs may be on their way to the store: what is held is judged when it has had time to go. */
async function settled(
  watch: Watch,
  before: readonly ServiceState[],
  inputs: number,
): Promise<readonly ServiceState[]> {
  let after = await watch.measure();
  for (let i = 0; i < SETTLE_LOOKS && growthOf(before, after, inputs).length > 0; i++) {
    await sleep(SETTLE_MS);
    after = await watch.measure();
  }
  return after;
}
