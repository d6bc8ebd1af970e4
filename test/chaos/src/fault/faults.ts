/** All faults by name. */

import { NAMESPACE_FAULTS } from '../namespace/faults.ts';
import { CLOCK_FAULTS } from './clock.ts';
import { COMMAND_FAULTS } from './command.ts';
import { DEVICE_FAULTS } from './device.ts';
import { EDGE_FAULTS } from './edge.ts';
import type { Fault } from './fault.ts';
import { NETWORK_FAULTS } from './network.ts';
import { pairOf } from './pair.ts';
import { READER_FAULTS } from './reader.ts';
import { STORE_FAULTS } from './store.ts';

const CONTROL_MS = 8_000;

export const CONTROL: Fault = {
  name: 'control',
  about: 'nothing happens',
  stores: ['standalone', 'sentinel', 'cluster'],
  target: undefined,
  lengthMs: CONTROL_MS,
  run: async ({ pause }) => await pause(CONTROL_MS),
};

export const FAULTS: readonly Fault[] = [
  CONTROL,
  ...EDGE_FAULTS,
  ...COMMAND_FAULTS,
  ...STORE_FAULTS,
  ...NETWORK_FAULTS,
  ...DEVICE_FAULTS,
  ...READER_FAULTS,
  ...CLOCK_FAULTS,
  ...NAMESPACE_FAULTS,
];

/** A fault, or a pair written as `a+b`. */
export function faultNamed(name: string): Fault | undefined {
  return FAULTS.find((fault) => fault.name === name) ?? pairNamed(name);
}

function pairNamed(name: string): Fault | undefined {
  const [a, b] = name.split('+').map((each) => FAULTS.find((fault) => fault.name === each));
  return a === undefined || b === undefined ? undefined : pairOf(a, b);
}
