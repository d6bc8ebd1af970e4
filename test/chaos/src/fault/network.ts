/** Faults between parties, made by TCP proxies in their lines. */

import type { TcpProxy } from '@lapi-broker/fixture';
import type { Fault, Stage } from './fault.ts';

/** Longer than the lease of a node (10 s): it lapses, and is taken again under another incarnation. */
const CUT_MS = 20_000;
const FLAPS = 5;
const FLAP_MS = 2_000;
const SLOW_MS = 4_000;
const LATENCY_MS = 250;
/** Longer than an event may wait for the store (5 s). */
const SILENT_MS = 7_000;
const HALF_OPEN_MS = 3_000;
const RESTART_MS = 1_500;

/** Until `work` is over; then the line is as it was. */
async function broken(line: TcpProxy, how: (line: TcpProxy) => void, work: () => Promise<void>): Promise<void> {
  how(line);
  try {
    await work();
  } finally {
    line.heal();
  }
}

function refused(line: TcpProxy): void {
  line.refuse();
  line.cut();
}

/** All devices lose their connections at once, and cannot come back for a moment. */
async function restartBalancer(stage: Stage): Promise<void> {
  await stage.disturb('restart of the balancer', { blurs: true }, async () => {
    const lines = [...stage.rig.edges.keys()].map((edge) => stage.rig.deviceLine(edge));
    for (const line of lines) refused(line);
    await stage.pause(RESTART_MS);
    for (const line of lines) line.heal();
  });
}

export const NETWORK_FAULTS: readonly Fault[] = [
  {
    name: 'redis-cut-drop',
    about: 'nothing gets through between one edge and Redis for 20 s; then what was on its way arrives',
    stores: ['standalone'],
    target: 'network',
    lengthMs: CUT_MS + 2_000,
    needs: { storeLines: true },
    async run(stage) {
      await stage.disturb('edge 1 without Redis', { blurs: true, devices: stage.at(0) }, () =>
        broken(
          stage.rig.storeLine('edge', 0),
          (line) => line.pause(),
          () => stage.pause(CUT_MS),
        ),
      );
    },
  },
  {
    name: 'redis-cut-rst',
    about:
      'connections between one edge and Redis are reset for 12 s; later only answers of Redis are held back for 9 s',
    stores: ['standalone'],
    target: 'network',
    lengthMs: 26_000,
    needs: { storeLines: true },
    async run(stage) {
      const line = stage.rig.storeLine('edge', 0);
      await stage.disturb('edge 1 is refused by Redis', { blurs: true, devices: stage.at(0) }, () =>
        broken(line, refused, () => stage.pause(12_000)),
      );
      await stage.pause(3_000);
      await stage.disturb('edge 1 hears nothing of Redis', { blurs: true, devices: stage.at(0) }, () =>
        broken(
          line,
          (each) => each.pause('down'),
          () => stage.pause(9_000),
        ),
      );
    },
  },
  {
    name: 'redis-cut-flap',
    about: 'nothing gets through between one edge and Redis for 2 s, again and again',
    stores: ['standalone'],
    target: 'network',
    lengthMs: FLAPS * FLAP_MS * 2,
    needs: { storeLines: true },
    async run(stage) {
      for (let i = 0; i < FLAPS; i++) {
        await stage.disturb('edge 1 without Redis', { blurs: true, devices: stage.at(0) }, () =>
          broken(
            stage.rig.storeLine('edge', 0),
            (line) => line.pause(),
            () => stage.pause(FLAP_MS),
          ),
        );
        await stage.pause(FLAP_MS);
      }
    },
  },
  {
    name: 'redis-slow',
    about:
      'Redis answers everybody 250 ms late for 4 s, then not at all for longer than events may wait, then as before',
    stores: ['standalone'],
    target: 'network',
    lengthMs: SLOW_MS + SILENT_MS + 2_000,
    needs: { storeLines: true },
    async run({ rig, disturb, pause }) {
      await disturb('slow Redis', { blurs: true }, async () => {
        for (const line of rig.storeLines) line.latency(LATENCY_MS);
        await pause(SLOW_MS);
        for (const line of rig.storeLines) line.pause();
        await pause(SILENT_MS);
        for (const line of rig.storeLines) line.heal();
      });
    },
  },
  {
    name: 'half-open',
    about:
      'the devices of an edge lose their line without its knowing, and come back at the other edge; it can be reached again after 3 s',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'device',
    lengthMs: HALF_OPEN_MS + 4_000,
    needs: { deviceLines: true },
    async run(stage) {
      const line = stage.rig.deviceLine(0);
      await stage.disturb('devices of edge 1 lose their line', { blurs: true, devices: stage.at(0) }, async () => {
        line.refuse();
        line.halfOpen();
        await stage.pause(HALF_OPEN_MS);
        line.heal();
      });
      await stage.pause(2_000);
    },
  },
  {
    name: 'reconnect-all',
    about: 'the balancer restarts: all devices lose their connections at once, twice',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'device',
    lengthMs: 12_000,
    needs: { deviceLines: true },
    async run(stage) {
      await stage.nextEvent();
      await restartBalancer(stage);
      await stage.pause(6_000);
      await restartBalancer(stage);
    },
  },
];
