/** Wall clocks that are wrong. Only `Date` of the process is shifted, by a module that is loaded before it; its monotonic clock is right, as on
 *  a machine whose time was set by hand. */

import type { Fault } from './fault.ts';

const EDGE_MS = -120_000;
const SERVICE_MS = 90_000;
const LENGTH_MS = 10_000;

function shiftedBy(ms: number): Readonly<Record<string, string>> {
  const module = `const now = Date.now;
    globalThis.Date = class extends Date {
      constructor(...given) { super(...(given.length === 0 ? [now() + ${ms}] : given)); }
      static now() { return now() + ${ms}; }
    };`;
  return { NODE_OPTIONS: `--import=data:text/javascript,${encodeURIComponent(module)}` };
}

export const CLOCK_FAULTS: readonly Fault[] = [
  {
    name: 'clock-skew',
    about:
      'the clock of one edge is 2 minutes behind, that of one command service 1.5 minutes ahead, from their start on',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: undefined,
    lengthMs: LENGTH_MS,
    needs: {
      envOf(service, index) {
        if (service === 'edge' && index === 0) return shiftedBy(EDGE_MS);
        return service === 'command' && index === 1 ? shiftedBy(SERVICE_MS) : {};
      },
    },
    run: async ({ pause }) => await pause(LENGTH_MS),
  },
];
