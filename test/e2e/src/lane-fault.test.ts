/** Queued commands while processes die under load, judged by what the devices wrote down. Short runs of two faults; all of them, with more
 *  commands: `npm run chaos -- all`. */

import { type Fault, killCommand, killEdge, numbersOf, type Pace, runFault, tellViolations } from '@lapi-broker/chaos';
import { expect, test } from 'vitest';

const COMMANDS = 80;
/** Too few for one that never comes: its commands would only wait for their deadlines. */
const DEVICES = 11;
const PACE: Pace = { faultAtMs: 1_060, aftermathMs: 1_000 };
/** Only what goes through lanes, and nothing that waits for a timeout. */
const MIX = { direct: 0, directThenQueue: 0, late: 0, silent: 0, waiting: 0 };

const FAULTS: readonly (Fault & { readonly blurs: boolean })[] = [
  { name: 'edge', about: 'kill -9 of an edge', lengthMs: 1_500, blurs: true, run: (stage) => killEdge(stage, 0, 500) },
  {
    name: 'command service',
    about: 'kill -9 of a command service',
    lengthMs: 1_500,
    blurs: false,
    run: (stage) => killCommand(stage, 0, 500),
  },
];

for (const fault of FAULTS) {
  test.concurrent(`${fault.about} under load: nothing lost, sent twice or out of order, and every end is true (I3, I4, I6, I7)`, async () => {
    const result = await runFault({ fault, seed: 1, commands: COMMANDS, devices: DEVICES, mix: MIX, pace: PACE });
    expect(tellViolations(result.history, result.violations)).toBe('');
    const { accepted, states, blurred } = numbersOf(fault.name, 1, result);
    expect(accepted).toBeGreaterThan(COMMANDS / 2);
    expect(states.succeeded ?? 0).toBeGreaterThan(COMMANDS / 2);
    if (!fault.blurs) expect(blurred).toBe(0);
  });
}
