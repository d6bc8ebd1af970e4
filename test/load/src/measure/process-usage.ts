/** What processes used, by their own accounting: CPU from /proc/<pid>/stat, memory from /proc/<pid>/status, and for Redis what INFO says.
 *  Linux only. CPU of a process comes in steps of 10 ms, so windows must be long enough for that to be small. */

import { readFileSync } from 'node:fs';
import { type RedisServer, redisCommand } from '@lapi-broker/fixture';

/** USER_HZ is 100 on every Linux that Node runs on. */
const TICK_US = 10_000;
const UTIME = 11;
const STIME = 12;

/** User and system time of all threads since the start, µs. */
export function cpuUsOf(pid: number): number {
  const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
  // The name in parentheses may hold blanks; fields are counted behind it.
  const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
  return (Number(fields[UTIME]) + Number(fields[STIME])) * TICK_US;
}

/** Resident memory, bytes. */
export function rssBytesOf(pid: number): number {
  const match = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'));
  if (match === null) throw new Error(`no VmRSS of process ${pid}`);
  return Number(match[1]) * 1024;
}

export interface RedisUsage {
  /** All threads, µs. */
  readonly cpuUs: number;
  readonly commands: number;
  readonly netInBytes: number;
  readonly netOutBytes: number;
  /** Without what connections and the append-only buffer hold, which comes and goes. */
  readonly dataBytes: number;
}

export async function redisUsage(server: RedisServer): Promise<RedisUsage> {
  const text = String(await redisCommand(server.port, 'INFO', 'everything'));
  const field = (name: string): number => {
    const match = new RegExp(`^${name}:(.*)$`, 'm').exec(text);
    if (match === null) throw new Error(`INFO has no ${name}`);
    return Number(match[1]);
  };
  return {
    cpuUs: (field('used_cpu_user') + field('used_cpu_sys')) * 1e6,
    commands: field('total_commands_processed'),
    netInBytes: field('total_net_input_bytes'),
    netOutBytes: field('total_net_output_bytes'),
    dataBytes: field('used_memory') - field('mem_clients_normal') - field('mem_aof_buffer'),
  };
}

/** CPU by role, µs; processes of one role together. */
export type CpuByRole = Readonly<Record<string, number>>;

export interface Metered {
  readonly processes: readonly { readonly role: string; readonly pid: number }[];
  readonly redis?: RedisServer;
}

async function cpuOf({ processes, redis }: Metered): Promise<Record<string, number>> {
  const used: Record<string, number> = {};
  for (const { role, pid } of processes) used[role] = (used[role] ?? 0) + cpuUsOf(pid);
  if (redis !== undefined) used.redis = (await redisUsage(redis)).cpuUs;
  return used;
}

/** CPU that the parts of a system use while `work` runs. Work that begins and ends at rest is accounted for completely. */
export async function cpuDuring<T>(system: Metered, work: () => Promise<T>): Promise<{ result: T; cpu: CpuByRole }> {
  const before = await cpuOf(system);
  const result = await work();
  const after = await cpuOf(system);
  return {
    result,
    cpu: Object.fromEntries(Object.entries(after).map(([role, us]) => [role, us - (before[role] ?? 0)])),
  };
}

export function totalOf(cpu: CpuByRole): number {
  return Object.values(cpu).reduce((sum, us) => sum + us, 0);
}
