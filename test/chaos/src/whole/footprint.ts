/** V12: what a run leaves behind. Counted before the load and when all has come to rest: descriptors and memory of each process, keys and memory
 *  of Redis. Descriptors must be back; keys of what goes on (lanes, timers, places of groups) must be gone, keys of what is kept (records)
 *  are as many as there were commands; memory stays under a stated bound, because no collector runs at our word. Slopes over hours are
 *  the soak's. Judging is pure. */

import { readdir, readFile } from 'node:fs/promises';
import type { Rig } from '../rig.ts';

const SCANNED = 1_000;
const MEBIBYTE = 1024 * 1024;

/** Beyond 5 %: connections of readers and of the platform, kept alive for a while. */
const DESCRIPTORS = 24;
const PROCESS_BYTES = 128 * MEBIBYTE;
const STORE_BYTES = 16 * MEBIBYTE;
const BYTES_PER_COMMAND = 8 * 1024;
const BYTES_PER_EVENT = 2 * 1024;
const KEYS = 16;
/** Timers of lanes: a job each, and what it is found by. */
const TIMERS_PER_DEVICE = 4;

export interface ProcessPrint {
  /** Without the sockets of devices. */
  readonly descriptors: number;
  readonly bytes: number;
}

export interface Footprint {
  /** All edges together, since devices are free to choose; all command services together. */
  readonly edges: ProcessPrint;
  readonly commands: ProcessPrint;
  /** Keys by what they are. */
  readonly keys: Readonly<Record<string, number>>;
  readonly storeBytes: number;
}

export interface Load {
  readonly devices: number;
  readonly commands: number;
  readonly events: number;
  readonly eventBytes: number;
  readonly edges: number;
  readonly shards: number;
}

export interface FootprintViolation {
  readonly check: 'V12';
  readonly what: string;
}

/** Gone when nothing waits, is out, or is due. */
const PASSING = new Set([
  'lane',
  'normal',
  'urgent',
  'clock',
  'out',
  'later',
  'parked',
  'dead',
  'item',
  'body',
  'heads',
  'ready',
]);
/** At most one per command. */
const OF_COMMANDS = new Set(['command', 'result', 'idem']);
/** Their own time ends them; those that have none count as kinds of their own. */
const TIMED = new Set(['nonce', 'lock', 'permits', 'timeline', 'refused']);

export function checkFootprint(before: Footprint, after: Footprint, load: Load): FootprintViolation[] {
  const violations: FootprintViolation[] = [];
  const bounded = (what: string, now: number, bound: number): void => {
    if (now > bound) violations.push({ check: 'V12', what: `${what}: ${now}, at most ${Math.round(bound)} expected` });
  };
  for (const role of ['edges', 'commands'] as const) {
    bounded(`descriptors of ${role}`, after[role].descriptors, before[role].descriptors * 1.05 + DESCRIPTORS);
    bounded(`memory of ${role}`, after[role].bytes, before[role].bytes * 1.05 + 2 * PROCESS_BYTES);
  }
  for (const [kind, count] of Object.entries(after.keys)) {
    if (TIMED.has(kind)) continue;
    if (PASSING.has(kind)) bounded(`keys of ${kind}`, count, 0);
    else if (OF_COMMANDS.has(kind)) bounded(`keys of ${kind}`, count, load.commands);
    else if (kind === 'history') bounded(`keys of ${kind}`, count, load.devices);
    else if (kind === 'owned') bounded(`keys of ${kind}`, count, load.edges * load.shards);
    else if (kind === 'queue')
      bounded(`keys of ${kind}`, count, (before.keys[kind] ?? 0) + KEYS + TIMERS_PER_DEVICE * load.devices);
    else if (kind === 'node') bounded(`keys of ${kind}`, count, load.edges);
    else bounded(`keys of ${kind}`, count, (before.keys[kind] ?? 0) * 1.05 + KEYS);
  }
  const stored = load.commands * BYTES_PER_COMMAND + load.events * (BYTES_PER_EVENT + load.eventBytes);
  bounded('memory of Redis', after.storeBytes, before.storeBytes * 1.05 + STORE_BYTES + 2 * stored);
  return violations;
}

/** `sessions`: sockets of devices that are open. */
export async function takeFootprint(rig: Rig, sessions: number): Promise<Footprint> {
  const print = async (pids: readonly number[]): Promise<ProcessPrint> => {
    const prints = await Promise.all(pids.map((pid) => printOf(pid)));
    return {
      descriptors: prints.reduce((sum, each) => sum + each.descriptors, 0),
      bytes: prints.reduce((sum, each) => sum + each.bytes, 0),
    };
  };
  const [edges, commands, store] = await Promise.all([
    print(rig.edges.map(({ pid }) => pid)),
    print(rig.commands.map(({ pid }) => pid)),
    printOfStore(rig),
  ]);
  return { edges: { ...edges, descriptors: edges.descriptors - sessions }, commands, ...store };
}

async function printOf(pid: number): Promise<ProcessPrint> {
  const [descriptors, status] = await Promise.all([
    readdir(`/proc/${pid}/fd`),
    readFile(`/proc/${pid}/status`, 'utf8'),
  ]);
  const kibibytes = Number(/^VmRSS:\s+(\d+)/m.exec(status)?.[1] ?? 0);
  return { descriptors: descriptors.length, bytes: kibibytes * 1024 };
}

async function printOfStore(rig: Rig): Promise<Pick<Footprint, 'keys' | 'storeBytes'>> {
  const keys: Record<string, number> = {};
  let storeBytes = 0;
  for (const server of rig.servers) {
    if (server.pid() === undefined) continue;
    const [role] = (await server.command('ROLE')) as [string];
    if (role !== 'master') continue;
    const memory = String(await server.command('INFO', 'memory'));
    storeBytes += Number(/^used_memory:(\d+)/m.exec(memory)?.[1] ?? 0);
    for await (const key of scan(server)) {
      const word = kindOf(key, rig.broker.keyPrefix);
      const isEndless = TIMED.has(word) && (await server.command('PTTL', key).catch(() => 0)) === -1;
      const kind = isEndless ? `${word} without an end` : word;
      keys[kind] = (keys[kind] ?? 0) + 1;
    }
  }
  return { keys, storeBytes };
}

async function* scan(server: {
  command(name: string, ...args: readonly (string | number)[]): Promise<unknown>;
}): AsyncGenerator<string> {
  let cursor = '0';
  do {
    const [next, found] = (await server.command('SCAN', cursor, 'COUNT', SCANNED)) as [string, string[]];
    yield* found;
    cursor = next;
  } while (cursor !== '0');
}

/** What a key is: the word behind prefix and shard; for keys of a group the last word. */
export function kindOf(key: string, prefix: string): string {
  const [first = '', ...rest] = key.slice(prefix.length + 1).split(':');
  if (!first.startsWith('{')) return first;
  const word = first.includes('}') ? (rest[0] ?? '') : first.slice(1);
  return word === 'group' && rest.length > 2 ? (rest.at(-1) ?? word) : word;
}
