/** What every process of a long run holds at one moment: memory, heap and descriptors by /proc and its own metrics, and what the Redis master says of its
 *  data. A process that is away just then, or does not answer, has no sample. Linux only. */

import { readdirSync, readFileSync } from 'node:fs';
import type { RunningProcess, ServiceReady } from '@lapi-broker/fixture';
import type { Rig } from '../rig.ts';
import type { Weather } from './window.ts';

const ASK_MS = 5_000;
/** USER_HZ is 100 on every Linux that Node runs on. */
const TICK_MS = 10;
const UTIME = 11;
const STIME = 12;

export type Role = 'edge' | 'command' | 'redis' | 'sentinel' | 'harness';

export interface ProcessSample {
  readonly name: string;
  readonly role: Role;
  readonly pid: number;
  readonly rssBytes: number;
  readonly fds: number;
  /** User and system time since its start. */
  readonly cpuMs: number;
  readonly heapBytes?: number;
  readonly externalBytes?: number;
  /** Edges only. */
  readonly sessions?: number;
}

export interface StoreSample {
  readonly port: number;
  readonly keys: number;
  /** Without what connections, replication and the append-only buffer hold, which comes and goes. */
  readonly dataBytes: number;
  readonly usedBytes: number;
  readonly clients: number;
}

export interface Sample {
  /** From the begin of the load. */
  readonly atMs: number;
  readonly weather: Weather;
  /** How many faults have begun by now. */
  readonly stretch: number;
  /** Since the last fault was over. */
  readonly calmMs: number;
  readonly processes: readonly ProcessSample[];
  readonly store: StoreSample | undefined;
  /** Of the durable subscription. */
  readonly lag: number | undefined;
  readonly online: number;
  readonly commandsOut: number;
}

export async function sampleProcesses(rig: Rig): Promise<ProcessSample[]> {
  const { store } = rig;
  if (store.kind !== 'sentinel') throw new TypeError('a long run wants sentinels');
  const { master, replicas, sentinels } = store.redis;
  const services = [
    ...rig.edges.map((process) => ({ role: 'edge' as const, process })),
    ...rig.commands.map((process) => ({ role: 'command' as const, process })),
  ];
  const sampled = await Promise.all([
    ...services.map(({ role, process }) => sampleService(role, process)),
    ...[master, ...replicas].map((server) => bare('redis', `redis-${server.port}`, server.pid())),
    ...sentinels.map((server) => bare('sentinel', `sentinel-${server.port}`, server.pid())),
    bare('harness', 'harness', process.pid),
  ]);
  return sampled.filter((sample) => sample !== undefined);
}

export async function sampleStore(rig: Rig): Promise<StoreSample | undefined> {
  const { store } = rig;
  if (store.kind !== 'sentinel') throw new TypeError('a long run wants sentinels');
  try {
    const port = await store.redis.masterPort();
    const server = [store.redis.master, ...store.redis.replicas].find((each) => each.port === port);
    const text = String(await server?.command('INFO', 'everything'));
    const field = (name: string): number => Number(new RegExp(`^${name}:(.*)$`, 'm').exec(text)?.[1]);
    const usedBytes = field('used_memory');
    const passing = ['mem_clients_normal', 'mem_clients_slaves', 'mem_aof_buffer', 'mem_replication_backlog'];
    return {
      port,
      keys: Number(/^db0:keys=(\d+)/m.exec(text)?.[1] ?? 0),
      dataBytes: usedBytes - passing.reduce((sum, name) => sum + (field(name) || 0), 0),
      usedBytes,
      clients: field('connected_clients'),
    };
  } catch {
    return undefined;
  }
}

async function sampleService(role: Role, running: RunningProcess<ServiceReady>): Promise<ProcessSample | undefined> {
  const base = await bare(role, running.name, running.exit() === undefined ? running.pid : undefined);
  if (base === undefined) return undefined;
  try {
    const url = `http://127.0.0.1:${running.ready.probePort}/metrics`;
    const text = await (await fetch(url, { signal: AbortSignal.timeout(ASK_MS) })).text();
    const value = (name: string): number => Number(new RegExp(`^${name}(?:\\{[^}]*\\})? (\\S+)`, 'm').exec(text)?.[1]);
    return {
      ...base,
      heapBytes: value('nodejs_heap_size_used_bytes'),
      externalBytes: value('nodejs_external_memory_bytes'),
      ...(role === 'edge' ? { sessions: value('lapi_sessions') } : {}),
    };
  } catch {
    return base;
  }
}

async function bare(role: Role, name: string, pid: number | undefined): Promise<ProcessSample | undefined> {
  if (pid === undefined) return undefined;
  try {
    const stat = readFileSync(`/proc/${pid}/stat`, 'latin1');
    const fields = stat.slice(stat.lastIndexOf(')') + 2).split(' ');
    const rss = /^VmRSS:\s+(\d+) kB/m.exec(readFileSync(`/proc/${pid}/status`, 'latin1'))?.[1];
    if (rss === undefined) return undefined;
    return {
      name,
      role,
      pid,
      rssBytes: Number(rss) * 1_024,
      fds: readdirSync(`/proc/${pid}/fd`).length,
      cpuMs: (Number(fields[UTIME]) + Number(fields[STIME])) * TICK_MS,
    };
  } catch {
    // It has ended meanwhile.
    return undefined;
  }
}
