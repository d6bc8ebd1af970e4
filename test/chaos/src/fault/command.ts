/** Faults of command services. */

import type { Fault, Stage } from './fault.ts';
import { stopped } from './stopped.ts';

/** Longer than the lock of a BullMQ job (30 s). */
const LOCK_PAUSE_MS = 34_000;
const HANDED_OUT_MS = 150;

export async function killCommand(stage: Stage, index: number, awayMs: number): Promise<void> {
  // While the last events are at its consumers.
  await stage.pause(stage.chance.between(0, HANDED_OUT_MS));
  await stage.disturb(`kill -9 command service ${index + 1}`, { blurs: false }, async () => {
    await stage.rig.command(index).kill();
    await stage.pause(awayMs);
    await stage.rig.restartCommand(index);
  });
}

export const COMMAND_FAULTS: readonly Fault[] = [
  {
    name: 'command-kill',
    about: 'kill -9 of one command service, back after 2 s; then of both at once, back after 4 s',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'command',
    lengthMs: 12_000,
    async run(stage) {
      await stage.nextEvent();
      await killCommand(stage, stage.chance.between(0, 1), 2_000);
      await stage.pause(2_000);
      await stage.nextEvent();
      await stage.disturb('kill -9 both command services', { blurs: false }, async () => {
        await Promise.all(stage.rig.commands.map((service) => service.kill()));
        await stage.pause(4_000);
        for (const index of stage.rig.commands.keys()) await stage.rig.restartCommand(index);
      });
    },
  },
  {
    name: 'command-pause',
    about: 'a command service is stopped for longer than the lock of a BullMQ job',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'command',
    lengthMs: LOCK_PAUSE_MS,
    async run(stage) {
      await stage.disturb('SIGSTOP command service 1', { blurs: false }, () =>
        stopped(stage.rig.command(0), () => stage.pause(LOCK_PAUSE_MS)),
      );
    },
  },
];
