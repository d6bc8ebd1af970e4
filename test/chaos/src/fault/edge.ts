/** Faults of edge processes. */

import { mkdir, rmdir, writeFile } from 'node:fs/promises';
import type { Witness } from '../traffic/witness.ts';
import type { Fault, Stage } from './fault.ts';
import { stopped } from './stopped.ts';

/** Longer than the lease of a node (10 s). */
const LONG_PAUSE_MS = 14_000;
const SHORT_PAUSE_MS = 3_000;
const STARVED_MS = 12_000;
/** Of a core. */
const STARVED_SHARE = 0.15;
const STARVED_ROUND_MS = 100;
const MEMORY_GROUPS = '/sys/fs/cgroup/memory';
/** What the process may take beyond what it has. */
const MORE_BYTES = 8 * 1024 * 1024;
const FAT_BYTES = 2 * 1024 * 1024;
const OOM_MS = 60_000;
const DRAIN_MS = 30_000;
const LOOK_MS = 100;

/** Witnesses whose newest session is at this edge: they can be told to go elsewhere. */
export function witnessesAt({ devices }: Stage, edge: number): readonly Witness[] {
  return devices.filter((device) => device.online && device.edge === edge);
}

/** Its devices come back at the other edge. */
export async function killEdge(stage: Stage, index: number, awayMs: number): Promise<void> {
  await stage.disturb(`kill -9 edge ${index + 1}`, { blurs: true, devices: stage.at(index) }, async () => {
    await stage.rig.edge(index).kill();
    await stage.pause(awayMs);
    await stage.rig.restartEdge(index);
  });
}

async function starve(stage: Stage, target: { signal(signal: NodeJS.Signals): void }): Promise<void> {
  for (let spentMs = 0; spentMs < STARVED_MS; spentMs += STARVED_ROUND_MS) {
    await stopped(target, () => stage.pause(STARVED_ROUND_MS * (1 - STARVED_SHARE)));
    await stage.pause(STARVED_ROUND_MS * STARVED_SHARE);
  }
}

/** What the process has stays where it is counted; what it takes from now on is counted in a group that has room for little. */
async function exhaust(stage: Stage, index: number): Promise<void> {
  const { rig } = stage;
  const edge = rig.edge(index);
  const group = `${MEMORY_GROUPS}/lapi-chaos-${edge.pid}`;
  await mkdir(group);
  try {
    await writeFile(`${group}/memory.limit_in_bytes`, String(MORE_BYTES));
    await writeFile(`${group}/cgroup.procs`, String(edge.pid));
    const padding = 'x'.repeat(FAT_BYTES);
    const fromMs = performance.now();
    while (edge.exit() === undefined) {
      if (performance.now() - fromMs > OOM_MS) throw new Error('the edge lived on without memory');
      await Promise.all(
        witnessesAt(stage, index)
          .slice(0, 4)
          .map(({ code }) => fatCall(stage, code, padding)),
      );
      await stage.pause(LOOK_MS);
    }
  } finally {
    await edge.kill();
    await rmdir(group);
  }
}

/** A direct call that is no command of the plan; what becomes of it does not matter. */
export async function fatCall({ rig }: Stage, code: string, padding: string): Promise<void> {
  const body = {
    mode: 'direct',
    method: 'PUT',
    url: '/LAPI/V1.0/System/Custom',
    data: { Padding: padding },
    timeoutMs: 1_000,
  };
  await rig.broker.api(`/v1/devices/${code}/commands`, { method: 'POST', body }).catch(() => undefined);
}

/** Asks the edge over the API to leave, waits until it holds no device, and takes it back. */
async function drainByApi(stage: Stage, index: number): Promise<void> {
  const { broker } = stage.rig;
  const { nodeName } = stage.rig.edge(index);
  const ask = async (verb: string, body: unknown): Promise<void> => {
    const answer = await broker.api(`/v1/nodes/${nodeName}/${verb}`, { method: 'POST', body });
    if (answer.status >= 300) throw new Error(`${verb} ${nodeName}: ${answer.status} ${answer.text}`);
  };
  await ask('drain', { seconds: 5 });
  const fromMs = performance.now();
  while (stage.at(index).length > 0 && performance.now() - fromMs < DRAIN_MS) await stage.pause(LOOK_MS);
  if (stage.at(index).length > 0) throw new Error(`${nodeName} did not let go of its devices`);
  await ask('resume', {});
}

export const EDGE_FAULTS: readonly Fault[] = [
  {
    name: 'edge-kill',
    about: 'kill -9 of the edge that has just got an event, back after 3 s; then of the other one',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: 12_000,
    async run(stage) {
      const { edge } = await stage.nextEvent();
      await killEdge(stage, edge, 3_000);
      await stage.pause(3_000);
      await killEdge(stage, 1 - edge, 3_000);
    },
  },
  {
    name: 'edge-pause-long',
    about: 'an edge is stopped for longer than its lease; half of its devices go elsewhere meanwhile, half stay',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: LONG_PAUSE_MS + 2_000,
    async run(stage) {
      const devices = witnessesAt(stage, 0);
      await stage.disturb('SIGSTOP edge 1', { blurs: true, devices: stage.at(0) }, () =>
        stopped(stage.rig.edge(0), async () => {
          await stage.pause(2_000);
          for (const [i, device] of devices.entries()) if (i % 2 === 0) device.move(1);
          await stage.pause(LONG_PAUSE_MS - 2_000);
        }),
      );
    },
  },
  {
    name: 'edge-pause-short',
    about: 'edges are stopped in turn, shorter than their lease; some devices go elsewhere meanwhile',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: 4 * (SHORT_PAUSE_MS + 1_500),
    async run(stage) {
      for (const index of [0, 1, 0, 1]) {
        const devices = witnessesAt(stage, index);
        await stage.disturb(`SIGSTOP edge ${index + 1}`, { blurs: true, devices: stage.at(index) }, () =>
          stopped(stage.rig.edge(index), async () => {
            await stage.pause(SHORT_PAUSE_MS / 2);
            for (const device of devices) if (stage.chance.is(0.3)) device.move(1 - index);
            await stage.pause(SHORT_PAUSE_MS / 2);
          }),
        );
        await stage.pause(1_500);
      }
    },
  },
  {
    name: 'edge-starved',
    about: 'an edge gets 15 % of a core for 12 s',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: STARVED_MS + 2_000,
    async run(stage) {
      await stage.disturb('starve edge 1', { blurs: true, devices: stage.at(0) }, () =>
        starve(stage, stage.rig.edge(0)),
      );
    },
  },
  {
    name: 'edge-oom',
    about: 'the kernel kills an edge for want of memory, while large calls go through it; back after 2 s',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: 12_000,
    async skip() {
      const group = `${MEMORY_GROUPS}/lapi-chaos-probe-${process.pid}`;
      try {
        await mkdir(group);
        await rmdir(group);
        return undefined;
      } catch {
        return 'no memory control groups of version 1 that may be changed';
      }
    },
    async run(stage) {
      await stage.disturb('no memory for edge 1', { blurs: true, devices: stage.at(0) }, async () => {
        await exhaust(stage, 0);
        await stage.pause(2_000);
        await stage.rig.restartEdge(0);
      });
    },
  },
  {
    name: 'rolling-drain',
    about: 'SIGTERM to each edge in turn, back after 2 s',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: 16_000,
    async run(stage) {
      for (const index of stage.rig.edges.keys()) {
        await stage.disturb(`SIGTERM edge ${index + 1}`, { blurs: false, devices: stage.at(index) }, async () => {
          await stage.rig.edge(index).stop();
          await stage.pause(2_000);
          await stage.rig.restartEdge(index);
        });
        await stage.pause(2_000);
      }
    },
  },
  {
    name: 'api-drain',
    about: 'an edge is drained over the API and taken back',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'edge',
    lengthMs: 12_000,
    async run(stage) {
      await stage.disturb('drain edge 1', { blurs: false, devices: stage.at(0) }, () => drainByApi(stage, 0));
      await stage.pause(2_000);
    },
  },
];
