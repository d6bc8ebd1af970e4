/** Devices that misbehave. */

import type { Witness } from '../traffic/witness.ts';
import { fatCall } from './edge.ts';
import type { Fault, Stage } from './fault.ts';

const MOVES = 40;
const MOVE_INTERVAL_MS = 250;
/** Below the number of take-overs per minute that count as flapping (protocol D8). */
const MOVES_PER_DEVICE = 3;
const DEAF = 5;
const DEAF_MS = 15_000;
const FAT_BYTES = 512 * 1024;
const FAT_CALLS = 12;
const PAIRS = 4;
/** Take-overs are allowed five times a minute; each may catch a command. */
const TWIN_ROUNDS = 10;
const TWIN_ROUND_MS = 1_000;

const present = ({ devices }: Stage): readonly Witness[] => devices.filter((device) => device.online);

export const DEVICE_FAULTS: readonly Fault[] = [
  {
    name: 'device-moves',
    about: 'devices open a session at the other edge while a command is out; the old socket stays open',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'device',
    lengthMs: MOVES * MOVE_INTERVAL_MS,
    async run(stage) {
      const moved = new Map<string, number>();
      for (let i = 0; i < MOVES; i++) {
        await stage.pause(MOVE_INTERVAL_MS);
        const device = stage.devices[stage.chance.between(0, stage.devices.length - 1)];
        const times = moved.get(device?.code ?? '') ?? 0;
        if (device === undefined || !device.online || times >= MOVES_PER_DEVICE) continue;
        moved.set(device.code, times + 1);
        await stage.disturb(`${device.code} moves`, { blurs: true, devices: [device] }, () =>
          device.move(1 - device.edge),
        );
      }
    },
  },
  {
    name: 'late-answers',
    about: 'two of five answers come after the timeout',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: undefined,
    lengthMs: 6_000,
    mix: { late: 0.4 },
    run: async ({ pause }) => await pause(6_000),
  },
  {
    name: 'mute-device',
    about: 'some devices answer nothing at all',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: undefined,
    lengthMs: 6_000,
    mutes: 3,
    run: async ({ pause }) => await pause(6_000),
  },
  {
    name: 'slow-device',
    about: 'some devices stop reading for 15 s, while large calls are made to them',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'device',
    lengthMs: DEAF_MS + 3_000,
    async run(stage) {
      const deaf = present(stage).slice(0, DEAF);
      const padding = 'x'.repeat(FAT_BYTES);
      await stage.disturb('some devices stop reading', { blurs: true, devices: deaf }, async () => {
        for (const device of deaf) device.hold(true);
        try {
          const calls = deaf.flatMap(({ code }) =>
            Array.from({ length: FAT_CALLS }, () => fatCall(stage, code, padding)),
          );
          await Promise.all([...calls, stage.pause(DEAF_MS)]);
        } finally {
          for (const device of deaf) device.hold(false);
        }
      });
    },
  },
  {
    name: 'twin-codes',
    about: 'some devices get a twin that registers under the same code at the other edge, again and again',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'device',
    lengthMs: TWIN_ROUNDS * TWIN_ROUND_MS + 3_000,
    async run(stage) {
      const originals = present(stage).slice(0, PAIRS);
      const twins = originals.map((device) => device.twin());
      try {
        for (let round = 0; round < TWIN_ROUNDS; round++) {
          await stage.disturb('twins fight', { blurs: true, devices: originals }, async () => {
            for (const [i, twin] of twins.entries()) twin.start(1 - (originals[i]?.edge ?? 0));
            await stage.pause(TWIN_ROUND_MS);
          });
        }
      } finally {
        for (const twin of twins) twin.stop();
      }
      await stage.pause(2_000);
    },
  },
];
