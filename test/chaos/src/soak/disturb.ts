/** What is done to the broker in a long run, by a timetable: an edge is drained and comes back, the Redis master is killed and comes back as a replica.
 *  One after the other, never two at once. */

import { type RedisServer, waitFor } from '@lapi-broker/fixture';
import type { Rig } from '../rig.ts';
import type { Weather } from './window.ts';

const FAILOVER_MS = 30_000;
const WHOLE_MS = 60_000;
/** Past the seconds that a drain is given. */
const LEAVE_SLACK_MS = 25_000;

export interface Deed {
  readonly what: Exclude<Weather, 'calm'>;
  /** From the begin of the load. */
  readonly atMs: number;
}

/** The first of each kind comes after half of its interval, so that the two kinds stay apart. */
export function timetable(totalMs: number, drainEveryMs: number, failoverEveryMs: number): Deed[] {
  const every = (what: Deed['what'], intervalMs: number): Deed[] =>
    Array.from({ length: Math.ceil(Math.max(0, totalMs - intervalMs / 2) / intervalMs) }, (_, i) => ({
      what,
      atMs: (i + 0.5) * intervalMs,
    }));
  return [...every('drain', drainEveryMs), ...every('failover', failoverEveryMs)].sort((a, b) => a.atMs - b.atMs);
}

export async function drain(rig: Rig, edge: number, drainSeconds: number): Promise<void> {
  try {
    await rig.edge(edge).stop(drainSeconds * 1_000 + LEAVE_SLACK_MS);
  } finally {
    await rig.restartEdge(edge);
  }
}

export async function failOver(rig: Rig): Promise<void> {
  const { store } = rig;
  if (store.kind !== 'sentinel') throw new TypeError('a failover wants sentinels');
  const { redis } = store;
  const servers = [redis.master, ...redis.replicas];
  const port = await redis.masterPort();
  const master = servers.find((server) => server.port === port);
  if (master === undefined) throw new TypeError(`no server at port ${port}`);
  await master.kill('SIGKILL');
  try {
    await waitFor(async () => (await redis.masterPort()) !== port, {
      deadlineMs: FAILOVER_MS,
      what: 'another master',
      intervalMs: 100,
    });
  } finally {
    await master.restart();
  }
  await waitFor(async () => await isWhole(servers, await redis.masterPort()), {
    deadlineMs: WHOLE_MS,
    what: 'a master with all replicas',
    intervalMs: 200,
  });
}

async function isWhole(servers: readonly RedisServer[], port: number): Promise<boolean> {
  const facts = String(await servers.find((server) => server.port === port)?.command('INFO', 'replication'));
  return facts.includes('role:master') && (facts.match(/state=online/g)?.length ?? 0) >= servers.length - 1;
}
