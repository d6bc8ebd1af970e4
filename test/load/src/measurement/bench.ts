/** Runs calls against systems that take turns within each round, so that noise of the machine meets all of them, and adds up what a call costs each.
 *  A figure over calls that failed would be a figure of something else, so a failed call fails the measurement. */

import { setTimeout as pause } from 'node:timers/promises';
import { type CpuByRole, cpuDuring, type Metered, totalOf } from '../measure/process-usage.ts';
import type { CallerVerbs, CallPlan, CallTally } from '../simulate/caller-main.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import type { DeviceIdentity, Dialect } from '../simulate/dialect.ts';
import type { Worker } from '../worker/worker.ts';

interface Contender {
  readonly name: string;
  readonly system: Metered;
  readonly apiPort: number;
  readonly headers: string;
  readonly dialect: Dialect;
  readonly edgePorts: readonly number[];
}

interface Round {
  readonly cpuUs: CpuByRole;
  readonly tally: CallTally;
}

/** Figures of one contender over all rounds of one setting. */
interface Figures {
  readonly usPerCommand: number[];
  readonly byRole: Record<string, number>[];
  readonly perSecond: number[];
}

interface Latency {
  readonly p50Ms: number[];
  readonly p99Ms: number[];
}

type LoadShape = Pick<CallPlan, 'connections' | 'durationMs' | 'leastBytes'>;

class Bench {
  private readonly caller: Worker<CallerVerbs>;
  private readonly deviceWorker: Worker<DevicesVerbs>;
  private readonly devices: readonly DeviceIdentity[];
  private readonly say: (line: string) => void;
  private readonly entered = new Set<string>();

  constructor(
    caller: Worker<CallerVerbs>,
    deviceWorker: Worker<DevicesVerbs>,
    devices: readonly DeviceIdentity[],
    say: (line: string) => void,
  ) {
    this.caller = caller;
    this.deviceWorker = deviceWorker;
    this.devices = devices;
    this.say = say;
  }

  /** All devices into each system, with answers of this size; out again first, where they are in. */
  async enter(contenders: readonly Contender[], answerBytes: number): Promise<void> {
    for (const { name, dialect, edgePorts } of contenders) {
      if (this.entered.has(name)) {
        await this.deviceWorker.ask('forget', name);
        await pause(300);
      }
      const tally = await this.deviceWorker.ask('enter', {
        group: name,
        dialect,
        ports: edgePorts.slice(0, EDGES),
        devices: this.devices,
        answerBytes,
        atOnce: 32,
        retry: false,
      });
      if (tally.entered !== this.devices.length)
        throw new Error(
          `${name}: ${tally.entered} of ${this.devices.length} devices came in: ${JSON.stringify(tally)}`,
        );
      this.entered.add(name);
    }
    await pause(FIRST_CALL_MS);
  }

  async round({ name, system, apiPort, headers }: Contender, shape: LoadShape): Promise<Round> {
    const codes = this.devices.map(({ code }) => code);
    const { result: tally, cpu } = await cpuDuring(system, () =>
      this.caller.ask('saturate', { port: apiPort, headers, codes, path: PATH, ...shape }),
    );
    check(name, tally);
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
      this.say(`${what}, round ${i + 1} of ${rounds}: ${line.join(', ')}`);
    }
    return figures;
  }

  async latency(contenders: readonly Contender[], durationMs: number, rounds: number): Promise<Map<string, Latency>> {
    const figures = new Map<string, Latency>(contenders.map(({ name }) => [name, { p50Ms: [], p99Ms: [] }]));
    const codes = this.devices.map(({ code }) => code);
    for (let i = 0; i < rounds; i++) {
      for (const { name, apiPort, headers } of contenders) {
        const tally = await this.caller.ask('pace', {
          port: apiPort,
          headers,
          codes,
          path: PATH,
          connections: CONNECTIONS,
          durationMs,
          leastBytes: SMALL_BYTES - 20,
          perSecond: PACED_PER_SECOND,
        });
        check(name, tally);
        const mine = figures.get(name) as Latency;
        mine.p50Ms.push(tally.p50Ms);
        mine.p99Ms.push(tally.p99Ms);
      }
      const line = [...figures].map(
        ([name, { p50Ms, p99Ms }]) => `${name} p50 ${p50Ms.at(-1)?.toFixed(2)} p99 ${p99Ms.at(-1)?.toFixed(2)} ms`,
      );
      this.say(`${PACED_PER_SECOND}/s, round ${i + 1} of ${rounds}: ${line.join(', ')}`);
    }
    return figures;
  }
}

/** A figure over calls that failed would be a figure of something else. */
function check(name: string, { answered, failed, firstFailure, notMade }: CallTally): void {
  if (failed > 0 || notMade > 0 || answered === 0)
    throw new Error(`${name}: ${answered} answered, ${failed} failed (${firstFailure}), ${notMade} not made`);
}
