/** Runs calls against systems that take turns within each round, so that noise of the machine meets all of them, and adds up what a call costs each.
 *  A figure over calls that failed would be a figure of something else, so a failed call fails the measurement. */

import { setTimeout as pause } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { type CpuByRole, cpuDuring, type Metered, totalOf } from '../measure/process-usage.ts';
import type { CallerVerbs, CallPlan, CallTally } from '../simulate/caller-main.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import type { DeviceIdentity, Dialect } from '../simulate/dialect.ts';
import type { Worker } from '../worker/worker.ts';

/** A call of a platform; the answer must have the status and the size that are expected. */
export type CallShape = Pick<CallPlan, 'path' | 'body' | 'status' | 'leastBytes'>;

export interface Contender {
  readonly name: string;
  /** Devices that it shares with others of the same system. */
  readonly group?: string;
  readonly system: Metered;
  readonly apiPort: number;
  readonly headers: string;
  readonly dialect: Dialect;
  readonly edgePorts: readonly number[];
  /** What it does otherwise than the round says. */
  readonly call?: Partial<CallShape>;
  /** Its answers come before the work is done: a round makes so many calls and ends when devices have answered them. */
  readonly callsPerRound?: number;
}

export interface Round {
  readonly cpuUs: CpuByRole;
  readonly tally: CallTally;
}

/** Figures of one contender over all rounds of one setting. */
export interface Figures {
  readonly usPerCommand: number[];
  readonly byRole: Record<string, number>[];
  readonly perSecond: number[];
}

export interface Latency {
  readonly p50Ms: number[];
  readonly p99Ms: number[];
}

export interface LoadShape extends CallShape {
  readonly connections: number;
  readonly durationMs: number;
}

export interface BenchOptions {
  readonly caller: Worker<CallerVerbs>;
  readonly deviceWorker: Worker<DevicesVerbs>;
  readonly devices: readonly DeviceIdentity[];
  /** With devices. */
  readonly edges: number;
  readonly say: (line: string) => void;
}

const WARM_UP_MS = 4_000;
/** So many that a pause of the machine shows as latency and not as calls that could not be made. */
const PACED_CONNECTIONS = 512;
/** For the calls of a round that is counted in calls. */
const MAX_ROUND_MS = 60_000;
/** Between the answer of the last device and the end of the work on it. */
const SETTLE_MS = 300;
/** Profile `plain`: nothing is sent to a device in its first second. */
const FIRST_CALL_MS = 1_500;

export class Bench {
  private readonly options: BenchOptions;
  private readonly codes: readonly string[];
  private readonly entered = new Set<string>();

  constructor(options: BenchOptions) {
    this.options = options;
    this.codes = options.devices.map(({ code }) => code);
  }

  /** All devices into each system, with answers of this size; out again first, where they are in. */
  async enter(contenders: readonly Contender[], answerBytes: number): Promise<void> {
    const { deviceWorker, devices, edges } = this.options;
    for (const { name, dialect, edgePorts } of contenders) {
      if (this.entered.has(name)) {
        await deviceWorker.ask('forget', name);
        await pause(300);
      }
      const tally = await deviceWorker.ask('enter', {
        group: name,
        dialect,
        ports: edgePorts.slice(0, edges),
        devices,
        answerBytes,
        atOnce: 32,
        retry: false,
      });
      if (tally.entered !== devices.length)
        throw new Error(`${name}: ${tally.entered} of ${devices.length} devices came in: ${JSON.stringify(tally)}`);
      this.entered.add(name);
    }
    await pause(FIRST_CALL_MS);
  }

  /** Code that has not run for some seconds costs half as much again, and the more of it there is, the longer that lasts. */
  async warmUp(contenders: readonly Contender[], shape: LoadShape): Promise<void> {
    for (const contender of contenders)
      await this.round(contender, { ...shape, durationMs: Math.max(WARM_UP_MS, shape.durationMs) });
  }

  async round(contender: Contender, shape: LoadShape): Promise<Round> {
    const { result: tally, cpu } = await cpuDuring(contender.system, () => this.calls(contender, shape));
    check(contender.name, tally);
    return { cpuUs: cpu, tally };
  }

  async rounds(
    contenders: readonly Contender[],
    shape: LoadShape,
    rounds: number,
    what: string,
  ): Promise<Map<string, Figures>> {
    const figures = new Map<string, Figures>(
      contenders.map(({ name }) => [name, { usPerCommand: [], byRole: [], perSecond: [] }]),
    );
    for (let i = 0; i < rounds; i++) {
      for (const contender of contenders) {
        const { cpuUs, tally } = await this.round(contender, shape);
        const mine = figures.get(contender.name) as Figures;
        mine.usPerCommand.push(totalOf(cpuUs) / tally.answered);
        mine.byRole.push(Object.fromEntries(Object.entries(cpuUs).map(([role, us]) => [role, us / tally.answered])));
        mine.perSecond.push((tally.answered / tally.elapsedMs) * 1_000);
      }
      const line = [...figures].map(([name, { usPerCommand }]) => `${name} ${usPerCommand.at(-1)?.toFixed(1)} µs`);
      this.options.say(`${what}, round ${i + 1} of ${rounds}: ${line.join(', ')}`);
    }
    return figures;
  }

  async latency(
    contenders: readonly Contender[],
    shape: LoadShape,
    perSecond: number,
    rounds: number,
  ): Promise<Map<string, Latency>> {
    const figures = new Map<string, Latency>(contenders.map(({ name }) => [name, { p50Ms: [], p99Ms: [] }]));
    for (let i = 0; i < rounds; i++) {
      for (const contender of contenders) {
        const plan = { ...this.planOf(contender, shape), connections: PACED_CONNECTIONS, perSecond };
        const tally = await this.options.caller.ask('pace', plan);
        check(contender.name, tally);
        const mine = figures.get(contender.name) as Latency;
        mine.p50Ms.push(tally.p50Ms);
        mine.p99Ms.push(tally.p99Ms);
      }
      const line = [...figures].map(
        ([name, { p50Ms, p99Ms }]) => `${name} p50 ${p50Ms.at(-1)?.toFixed(2)} p99 ${p99Ms.at(-1)?.toFixed(2)} ms`,
      );
      this.options.say(`${perSecond}/s, round ${i + 1} of ${rounds}: ${line.join(', ')}`);
    }
    return figures;
  }

  private async calls(contender: Contender, shape: LoadShape): Promise<CallTally> {
    const { caller, deviceWorker } = this.options;
    const { name, group = name, callsPerRound } = contender;
    const plan = this.planOf(contender, shape);
    if (callsPerRound === undefined) return await caller.ask('saturate', plan);
    const before = (await deviceWorker.ask('counts', group)).called;
    const startedMs = performance.now();
    const tally = await caller.ask('saturate', { ...plan, durationMs: MAX_ROUND_MS, maxCalls: callsPerRound });
    await waitFor(async () => (await deviceWorker.ask('counts', group)).called - before >= tally.answered, {
      deadlineMs: MAX_ROUND_MS,
      what: `${name}: the devices to answer all calls`,
    });
    const elapsedMs = performance.now() - startedMs;
    await pause(SETTLE_MS);
    return { ...tally, elapsedMs };
  }

  private planOf({ apiPort, headers, call = {} }: Contender, shape: LoadShape): CallPlan {
    return { port: apiPort, headers, codes: this.codes, ...shape, ...call };
  }
}

function check(name: string, { answered, failed, firstFailure, notMade }: CallTally): void {
  if (failed > 0 || notMade > 0 || answered === 0)
    throw new Error(`${name}: ${answered} answered, ${failed} failed (${firstFailure}), ${notMade} not made`);
}
