/** What can be wrong with a device, and how a user writes it on the command line. Pure.
 *  An empty object is a healthy device. Faults of one device add up. */

export type Garbage = 'text' | 'binary' | 'utf8' | 'rsv';

export interface Faults {
  /** Answers to calls come this much later. */
  readonly slowMs?: number;
  /** Calls are never answered. Keepalives and events go on. */
  readonly mute?: boolean;
  /** Registers with a secret nobody gave it (F12). */
  readonly wrongSignature?: boolean;
  /** Registers under a code nobody provisioned (F10). */
  readonly unknownCode?: boolean;
  /** Stops reading and writing this long after coming online; TCP stays open. */
  readonly halfOpenAfterMs?: number;
  /** Cuts its connection this long after coming online and comes back at once, again and again. */
  readonly flapMs?: number;
  /** Reconnects at once and ignores Retry-After. */
  readonly storm?: boolean;
  readonly noKeepalive?: boolean;
  /** Sends one such message every second: no JSON (E16), binary (E7), invalid UTF-8 or a set RSV bit (E6). */
  readonly garbage?: Garbage;
  /** Answers to calls are sent unmasked (E4). */
  readonly unmasked?: boolean;
  /** Successful answers carry this much padding. */
  readonly bigAnswerBytes?: number;
}

/** Faults of whole fleets. */
export interface FleetFaults extends Faults {
  /** A second device with the same code and secret. */
  readonly duplicate?: boolean;
  /** Every so often all devices with this fault lose their connection at the same moment. Implies `storm`. */
  readonly stormEveryMs?: number;
}

/** A fault on some of the devices: a share of 0..1, or a number of devices. */
export interface FaultPlan {
  readonly faults: FleetFaults;
  readonly on: { readonly share: number } | { readonly devices: number };
}

export type ParsedFault =
  | { readonly status: 'parsed'; readonly plan: FaultPlan }
  | { readonly status: 'wrong'; readonly sentence: string };

/** A row per fault: how it is written, what it does, and what its value becomes. `value` is undefined when the user gave none. */
interface FaultSyntax {
  readonly name: string;
  readonly value: string;
  readonly help: string;
  readonly make: (value: string | undefined) => FleetFaults | undefined;
}

const GARBAGE: readonly Garbage[] = ['text', 'binary', 'utf8', 'rsv'];

export const FAULT_SYNTAX: readonly FaultSyntax[] = [
  {
    name: 'slow',
    value: 'MS',
    help: 'answers calls after MS milliseconds',
    make: (value) => numeric(value, (ms) => ({ slowMs: ms })),
  },
  { name: 'mute', value: '', help: 'never answers a call', make: flag({ mute: true }) },
  { name: 'wrong-signature', value: '', help: 'signs with a wrong secret', make: flag({ wrongSignature: true }) },
  { name: 'unknown-code', value: '', help: 'registers with a code nobody knows', make: flag({ unknownCode: true }) },
  { name: 'duplicate', value: '', help: 'two sockets use the same code', make: flag({ duplicate: true }) },
  {
    name: 'half-open',
    value: 'S',
    help: 'S seconds after coming online it stops reading and writing, TCP stays open',
    make: (value) => numeric(value, (s) => ({ halfOpenAfterMs: s * 1000 })),
  },
  {
    name: 'flap',
    value: 'S',
    help: 'cuts its connection after S seconds online and comes back at once',
    make: (value) => numeric(value, (s) => (s > 0 ? { flapMs: s * 1000 } : undefined)),
  },
  {
    name: 'storm',
    value: '[S]',
    help: 'reconnects at once, ignoring Retry-After; with S, all of them are cut together every S seconds',
    make: (value) =>
      value === undefined
        ? { storm: true }
        : numeric(value, (s) => (s > 0 ? { storm: true, stormEveryMs: s * 1000 } : undefined)),
  },
  { name: 'no-keepalive', value: '', help: 'sends no keepalives', make: flag({ noKeepalive: true }) },
  {
    name: 'garbage',
    value: '[KIND]',
    help: 'sends one bad message a second; KIND is text (default), binary, utf8 or rsv',
    make: (value) => {
      const kind = GARBAGE.find((known) => known === (value ?? 'text'));
      return kind === undefined ? undefined : { garbage: kind };
    },
  },
  { name: 'unmasked', value: '', help: 'answers calls in unmasked frames', make: flag({ unmasked: true }) },
  {
    name: 'big',
    value: 'KB',
    help: 'answers calls with KB kilobytes of padding',
    make: (value) => numeric(value, (kb) => ({ bigAnswerBytes: Math.round(kb * 1024) })),
  },
];

/** `name[:value][@share]`, for example `slow:500@10%` or `mute@3`. Without a share it is all devices. */
export function parseFault(text: string): ParsedFault {
  const match = /^([a-z-]+)(?::([^@]*))?(?:@(.+))?$/.exec(text);
  const syntax = FAULT_SYNTAX.find((row) => row.name === match?.[1]);
  if (match === null || syntax === undefined) {
    const names = FAULT_SYNTAX.map((row) => row.name).join(', ');
    return { status: 'wrong', sentence: `"${text}" is not a fault; known are ${names}.` };
  }
  const faults = syntax.make(match[2]);
  if (faults === undefined) {
    const form = syntax.value === '' ? syntax.name : `${syntax.name}:${syntax.value}`;
    return { status: 'wrong', sentence: `The fault "${text}" must be written as ${form}.` };
  }
  const on = match[3] === undefined ? { share: 1 } : parseShare(match[3]);
  if (on === undefined) {
    return { status: 'wrong', sentence: `The share of the fault "${text}" must be like @10% or @25 (devices).` };
  }
  return { status: 'parsed', plan: { faults, on } };
}

/** Which faults each device gets. Plans take consecutive devices, so that they fall on different ones as long as there are enough. */
export function assignFaults(plans: readonly FaultPlan[], devices: number): FleetFaults[] {
  const assigned: FleetFaults[] = Array.from({ length: devices }, () => ({}));
  let next = 0;
  for (const plan of plans) {
    const wanted = 'devices' in plan.on ? plan.on.devices : Math.ceil(plan.on.share * devices);
    const count = Math.min(devices, wanted);
    for (let offset = 0; offset < count; offset += 1) {
      const index = (next + offset) % devices;
      assigned[index] = { ...assigned[index], ...plan.faults };
    }
    if (count < devices) next = (next + count) % Math.max(1, devices);
  }
  return assigned;
}

/** False for a device whose faults keep it from ever coming online. */
export function comesOnline(faults: FleetFaults): boolean {
  return faults.wrongSignature !== true && faults.unknownCode !== true;
}

function flag(faults: FleetFaults): FaultSyntax['make'] {
  return (value) => (value === undefined ? faults : undefined);
}

function numeric(value: string | undefined, make: (value: number) => FleetFaults | undefined): FleetFaults | undefined {
  if (value === undefined || !/^\d{1,9}(\.\d{1,3})?$/.test(value)) return undefined;
  return make(Number(value));
}

function parseShare(text: string): FaultPlan['on'] | undefined {
  const match = /^(\d{1,7}(?:\.\d{1,3})?)(%?)$/.exec(text);
  if (match === null) return undefined;
  const value = Number(match[1]);
  if (match[2] === '%') return value > 0 && value <= 100 ? { share: value / 100 } : undefined;
  return Number.isInteger(value) && value > 0 ? { devices: value } : undefined;
}
