/** One run: a broker, devices, a platform, one fault, and the judgement of what was seen. Ends what it started, also when it fails or is
 *  stopped. */

import { setMaxListeners } from 'node:events';
import { setTimeout as sleep } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import { TimerWheel } from '@lapi-broker/fleet';
import type { Fault, Stage } from './fault/fault.ts';
import { check, type Violation } from './history/checker.ts';
import { type History, Recorder } from './history/history.ts';
import { Chance } from './random.ts';
import { Rig } from './rig.ts';
import { type Mix, planRun } from './traffic/plan.ts';
import { Platform } from './traffic/platform.ts';
import { Witness } from './traffic/witness.ts';

const EDGES = 2;
const SERVICES = 2;
const COMMANDS_PER_SECOND = 30;
/** Right after a burst (plan.ts), while its first commands are out. */
const UNHURRIED: Pace = { faultAtMs: 2_060, aftermathMs: 5_000 };
/** All that was accepted has ended by then: its deadline, its timeout, and the grace of the promise. */
const LAST_END_MS = 60_000 + 20_000 + 15_000;
/** The latest answer of a device, and its way. */
const LATE_MS = 4_000;

export interface Pace {
  /** From the begin of the load to the begin of the fault. */
  readonly faultAtMs: number;
  /** The load goes on for so long when the fault is over. */
  readonly aftermathMs: number;
}

export interface RunOptions {
  readonly fault: Fault;
  readonly seed: number;
  readonly commands: number;
  readonly devices: number;
  readonly mix?: Partial<Mix>;
  readonly pace?: Pace;
  readonly signal?: AbortSignal;
}

export interface RunResult {
  readonly history: History;
  readonly violations: readonly Violation[];
  /** From the first submit to the last end that was read. */
  readonly tookMs: number;
}

export async function runFault(options: RunOptions): Promise<RunResult> {
  const { fault, seed, pace = UNHURRIED } = options;
  const rig = await Rig.start({ store: fault.store ?? 'standalone', edges: EDGES, commands: SERVICES });
  const timers = new TimerWheel();
  const witnesses: Witness[] = [];
  const failed = new AbortController();
  const signal = AbortSignal.any([failed.signal, ...(options.signal === undefined ? [] : [options.signal])]);
  // Everything that waits listens to it.
  setMaxListeners(0, signal);
  let done = false;
  try {
    const loadMs = Math.max(
      pace.faultAtMs + fault.lengthMs + pace.aftermathMs,
      (1_000 * options.commands) / COMMANDS_PER_SECOND,
    );
    const plan = planRun({
      seed,
      commands: options.commands,
      devices: options.devices,
      edges: EDGES,
      loadMs,
      mutes: fault.mutes ?? 0,
      mix: { ...fault.mix, ...options.mix },
    });
    const recorder = new Recorder(plan.commands);
    const secrets = await rig.provision(plan.devices.map(({ code }) => code));
    const chance = new Chance(seed ^ 0x5eed);
    for (const { code } of plan.devices) {
      const secret = secrets.get(code) ?? '';
      witnesses.push(new Witness({ code, secret, urls: rig.edgeUrls, recorder, timers, chance }));
    }
    const start = (i: number): void => witnesses[i]?.start(plan.devices[i]?.edge ?? 0);
    const punctual = plan.devices.flatMap(({ comesAtMs }, i) => (comesAtMs === 0 ? [i] : []));
    for (const i of punctual) start(i);
    await waitFor(() => punctual.every((i) => witnesses[i]?.online), { deadlineMs: 20_000, what: 'all devices' });

    const platform = new Platform({ urls: rig.commandUrls, apiKey: rig.broker.apiKey, recorder, signal });
    const beganMs = performance.now();
    for (const [i, { comesAtMs }] of plan.devices.entries()) {
      if (comesAtMs !== undefined && comesAtMs > 0) timers.after(comesAtMs, () => start(i));
    }
    const stage = setStage(rig, witnesses, recorder, new Chance(seed ^ 0xfa17), signal);
    let endedByMs = Number.POSITIVE_INFINITY;
    const load = async (): Promise<void> => {
      await Promise.all([
        platform.submitAll(plan.commands),
        stage.pause(pace.faultAtMs).then(() => (signal.aborted ? undefined : fault.run(stage))),
      ]);
      endedByMs = performance.now() + LAST_END_MS;
    };
    const read = platform.readUntil(
      () => endedByMs < Number.POSITIVE_INFINITY && (platform.open === 0 || performance.now() > endedByMs),
    );
    await Promise.all([load(), read]).catch((error: unknown) => {
      failed.abort();
      throw error;
    });
    const tookMs = performance.now() - beganMs;
    if (plan.commands.some(({ reaction, timeoutMs }) => reaction.kind === 'answer' && reaction.afterMs > timeoutMs)) {
      await stage.pause(LATE_MS);
    }
    await platform.readAll();
    for (const witness of witnesses) witness.stop();
    options.signal?.throwIfAborted();
    await rig.stop();
    done = true;
    return { history: recorder, violations: check(recorder), tookMs };
  } finally {
    failed.abort();
    for (const witness of witnesses) witness.stop();
    timers.stop();
    if (!done) await rig.kill();
  }
}

function setStage(
  rig: Rig,
  devices: readonly Witness[],
  recorder: Recorder,
  chance: Chance,
  signal: AbortSignal,
): Stage {
  let disturbances = 0;
  return {
    rig,
    devices,
    chance,
    at: (edge) => devices.filter((device) => device.online && device.edge === edge),
    async disturb(what, { blurs, devices: touched }, work) {
      const disturbance = ++disturbances;
      const codes = touched?.map(({ code }) => code);
      recorder.log({ kind: 'disturb.begin', disturbance, what, blurs, devices: codes });
      await work();
      recorder.log({ kind: 'disturb.end', disturbance });
    },
    async pause(ms) {
      await sleep(ms, undefined, { signal }).catch(() => undefined);
    },
  };
}
