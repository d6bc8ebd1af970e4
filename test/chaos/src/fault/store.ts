/** Faults of Redis itself, on each of its three topologies. */

import { execFile } from 'node:child_process';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { promisify } from 'node:util';
import { type RedisCluster, type RedisSentinels, type RedisServer, redisCommand, waitFor } from '@lapi-broker/fixture';
import { type Ground, LOOPBACK_GROUND } from '../rig.ts';
import type { Fault, Stage } from './fault.ts';
import { stopped } from './stopped.ts';

/** Longer than a node may write to devices without a renewed lease (7 s), shorter than the lease. */
const HANG_MS = 8_500;
/** Shorter than sentinels wait before they give up on a server (1 s). */
const LAG_MS = 800;
const FULL_MS = 8_000;
const PUBSUB_KILLS = 10;
const FAILOVER_MS = 20_000;
const MEBIBYTE = 1024 * 1024;

const run = promisify(execFile);

function standalone({ rig: { store } }: Stage): RedisServer {
  if (store.kind !== 'standalone') throw new TypeError('this fault wants one Redis');
  return store.redis;
}

function sentinel({ rig: { store } }: Stage): RedisSentinels {
  if (store.kind !== 'sentinel') throw new TypeError('this fault wants sentinels');
  return store.redis;
}

function cluster({ rig: { store } }: Stage): RedisCluster {
  if (store.kind !== 'cluster') throw new TypeError('this fault wants a cluster');
  return store.redis;
}

async function mastersOf(servers: readonly RedisServer[]): Promise<RedisServer[]> {
  const roles = await Promise.all(servers.map((server) => server.command('ROLE').catch(() => [])));
  return servers.filter((_, i) => (roles[i] as unknown[])[0] === 'master');
}

/** A master, by now. */
async function masterOf(stage: Stage): Promise<RedisServer> {
  const masters = await mastersOf(stage.rig.servers);
  const master = masters[stage.chance.between(0, masters.length - 1)];
  if (master === undefined) throw new TypeError('no server is a master');
  return master;
}

async function untilAnother(redis: RedisSentinels, master: RedisServer): Promise<void> {
  await waitFor(async () => (await redis.masterPort()) !== master.port, {
    deadlineMs: FAILOVER_MS,
    what: 'another master',
    intervalMs: 50,
  });
}

/** A master that has all its replicas again: from then on writes can be confirmed. */
async function untilWhole(redis: RedisSentinels): Promise<void> {
  await waitFor(
    async () => {
      const facts = String(await redisCommand(await redis.masterPort(), 'INFO', 'replication'));
      return facts.includes('role:master') && (facts.match(/state=online/g)?.length ?? 0) >= redis.replicas.length;
    },
    { deadlineMs: FAILOVER_MS, what: 'a master with all replicas', intervalMs: 50 },
  );
}

/** Until something else is the master instead of this one, and until all is as before. */
async function untilReplaced(stage: Stage, master: RedisServer): Promise<void> {
  if (stage.rig.store.kind === 'sentinel') await untilAnother(sentinel(stage), master);
  else {
    await waitFor(async () => (await mastersOf(stage.rig.servers.filter((each) => each !== master))).length >= 3, {
      deadlineMs: FAILOVER_MS,
      what: 'another master of the cluster',
      intervalMs: 50,
    });
  }
}

async function untilRepaired(stage: Stage): Promise<void> {
  if (stage.rig.store.kind === 'sentinel') await untilWhole(sentinel(stage));
  else await cluster(stage).settled(FAILOVER_MS);
}

/** Answers the server that was the master, and is down. */
export async function failOver(stage: Stage): Promise<RedisServer> {
  const master = await masterOf(stage);
  await stage.disturb('kill -9 master', { blurs: true }, async () => {
    await master.kill('SIGKILL');
    await untilReplaced(stage, master);
  });
  return master;
}

async function restartAlone(stage: Stage): Promise<void> {
  for (const awayMs of [0, 4_000]) {
    await stage.nextEvent();
    await stage.disturb(`kill -9 Redis for ${awayMs} ms`, { blurs: true }, async () => {
      await standalone(stage).kill('SIGKILL');
      await stage.pause(awayMs);
      await standalone(stage).restart();
    });
    await stage.pause(4_000);
  }
}

async function killMaster(stage: Stage): Promise<void> {
  await stage.nextEvent();
  const master = await masterOf(stage);
  await stage.disturb('kill -9 master', { blurs: true }, async () => {
    await master.kill('SIGKILL');
    await untilReplaced(stage, master);
    await stage.pause(3_000);
    await master.restart();
    await untilRepaired(stage);
  });
}

async function hangMaster(stage: Stage): Promise<void> {
  const master = await masterOf(stage);
  await stage.disturb('SIGSTOP master', { blurs: true }, async () => {
    await stopped({ signal: (signal) => void master.kill(signal) }, async () => {
      if (stage.rig.store.kind === 'standalone') await stage.pause(HANG_MS);
      else {
        await untilReplaced(stage, master);
        await stage.pause(3_000);
      }
    });
    if (stage.rig.store.kind !== 'standalone') await untilRepaired(stage);
  });
}

async function replicasOf({ rig }: Stage, master: RedisServer): Promise<RedisServer[]> {
  const [, , listed] = (await master.command('ROLE')) as [string, number, [string, string, string][]];
  const ports = new Set(listed.map(([, port]) => Number(port)));
  return rig.servers.filter(({ port }) => ports.has(port));
}

/** Everybody may write nothing; what frees memory may still be done. */
async function fill(stage: Stage): Promise<void> {
  const set = async (bytes: string): Promise<void> => {
    await Promise.all(stage.rig.servers.map((server) => server.command('CONFIG', 'SET', 'maxmemory', bytes)));
  };
  await stage.disturb('maxmemory 1mb', { blurs: true }, async () => {
    await set('1mb');
    await stage.pause(FULL_MS);
    await set('0');
  });
}

const FILLER = 'filler';
const SMALL_DISK_BYTES = 48 * MEBIBYTE;

/** Moves the slot of the first shard, key by key, to another master, and its ownership after it. */
async function moveSlot(stage: Stage): Promise<void> {
  const redis = cluster(stage);
  const { servers } = stage.rig;
  const slot = Number(await redis.masters[0]?.command('CLUSTER', 'KEYSLOT', '{s00}'));
  const masters = await mastersOf(servers);
  const owners = await Promise.all(
    masters.map(async (server) => {
      const mine = String(await server.command('CLUSTER', 'NODES'))
        .split('\n')
        .find((line) => line.includes('myself'));
      const ranges = (mine ?? '')
        .split(' ')
        .slice(8)
        .map((range) => range.split('-').map(Number));
      return ranges.some(([from = -1, to = from]) => from <= slot && slot <= to);
    }),
  );
  const source = masters[owners.indexOf(true)];
  const target = masters[owners.indexOf(false)];
  if (source === undefined || target === undefined) throw new TypeError(`nobody has slot ${slot}`);
  const [from, to] = await Promise.all(
    [source, target].map(async (server) => String(await server.command('CLUSTER', 'MYID'))),
  );
  await stage.disturb(`move slot ${slot}`, { blurs: true }, async () => {
    await target.command('CLUSTER', 'SETSLOT', slot, 'IMPORTING', from ?? '');
    await source.command('CLUSTER', 'SETSLOT', slot, 'MIGRATING', to ?? '');
    for (;;) {
      const keys = (await source.command('CLUSTER', 'GETKEYSINSLOT', slot, 20)) as string[];
      if (keys.length === 0) break;
      await source.command('MIGRATE', '127.0.0.1', target.port, '', 0, 5_000, 'KEYS', ...keys);
      await stage.pause(20);
    }
    await target.command('CLUSTER', 'SETSLOT', slot, 'NODE', to ?? '');
    await source.command('CLUSTER', 'SETSLOT', slot, 'NODE', to ?? '');
    await redis.settled(FAILOVER_MS);
  });
}

async function smallDisk(): Promise<Ground> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lapi-disk-'));
  await run('mount', ['-t', 'tmpfs', '-o', `size=${SMALL_DISK_BYTES}`, 'tmpfs', dir]);
  return {
    ...LOOPBACK_GROUND,
    startStore: (kind, args) => LOOPBACK_GROUND.startStore(kind, [...args, '--dir', dir]),
    async stop() {
      await run('umount', [dir]);
      await rm(dir, { recursive: true });
    },
  };
}

export const STORE_FAULTS: readonly Fault[] = [
  {
    name: 'redis-kill',
    about:
      'kill -9 of the master. Alone: back at once from its append-only file, then back after 4 s. Else a replica takes over, and it comes back as a replica',
    stores: ['standalone', 'sentinel'],
    target: 'store',
    lengthMs: 13_000,
    rewinds: true,
    run: async (stage) => await (stage.rig.store.kind === 'standalone' ? restartAlone(stage) : killMaster(stage)),
  },
  {
    name: 'cluster-loss',
    about: 'kill -9 of one master of a cluster; its replica takes over; it comes back as a replica',
    stores: ['cluster'],
    target: 'store',
    lengthMs: 13_000,
    rewinds: true,
    run: killMaster,
  },
  {
    name: 'redis-hang',
    about:
      'the master is stopped and goes on. Alone: for longer than nodes may write without it. Else a replica takes over meanwhile',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'store',
    lengthMs: 13_000,
    rewinds: true,
    run: hangMaster,
  },
  {
    name: 'lagging-replica',
    about: 'the replicas are cut off for 0.8 s, then their master is killed, and one of them takes over',
    stores: ['sentinel', 'cluster'],
    target: 'store',
    lengthMs: 13_000,
    rewinds: true,
    async run(stage) {
      await stage.nextEvent();
      const master = await masterOf(stage);
      const replicas = await replicasOf(stage, master);
      const signal = (name: NodeJS.Signals): void => {
        for (const replica of replicas) void replica.kill(name);
      };
      await stage.disturb('cut off replicas, kill -9 master', { blurs: true }, async () => {
        await stopped({ signal }, async () => {
          await master.command('CLIENT', 'KILL', 'TYPE', 'replica');
          await stage.pause(LAG_MS);
          await master.kill('SIGKILL');
        });
        await untilReplaced(stage, master);
        await master.restart();
        await untilRepaired(stage);
      });
    },
  },
  {
    name: 'redis-full',
    about: 'Redis refuses all writes for want of memory for 8 s',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'store',
    lengthMs: FULL_MS + 2_000,
    run: fill,
  },
  {
    name: 'redis-disk-full',
    about: 'the disk of the append-only file of Redis is full for 8 s',
    stores: ['standalone'],
    target: 'store',
    lengthMs: FULL_MS + 2_000,
    rewinds: true,
    async skip() {
      if (process.getuid?.() !== 0) return 'only root may mount a small disk';
      return undefined;
    },
    needs: { ground: smallDisk },
    async run(stage) {
      const [, dir = ''] = (await standalone(stage).command('CONFIG', 'GET', 'dir')) as string[];
      const file = path.join(dir, FILLER);
      await stage.disturb('disk full', { blurs: true }, async () => {
        await writeFile(file, Buffer.alloc(SMALL_DISK_BYTES)).catch(() => undefined);
        await stage.pause(FULL_MS);
        await rm(file);
      });
    },
  },
  {
    name: 'slot-migration',
    about: 'the slot of a shard moves to another master of the cluster, key by key, under load',
    stores: ['cluster'],
    target: 'store',
    lengthMs: 6_000,
    run: moveSlot,
  },
  {
    name: 'inbox-loss',
    about: 'every subscriber connection is cut, again and again, so that hints are lost',
    stores: ['standalone', 'sentinel', 'cluster'],
    target: 'network',
    lengthMs: PUBSUB_KILLS * 700,
    async run(stage) {
      await stage.disturb('CLIENT KILL TYPE pubsub', { blurs: false }, async () => {
        for (let i = 0; i < PUBSUB_KILLS; i++) {
          await Promise.all(stage.rig.servers.map((server) => server.command('CLIENT', 'KILL', 'TYPE', 'pubsub')));
          await stage.pause(700);
        }
      });
    },
  },
  {
    name: 'confirmed-lost',
    about:
      'the only replica that confirmed the last writes is killed together with the master; the other one takes over without them',
    stores: ['sentinel'],
    target: 'store',
    lengthMs: 15_000,
    rewinds: true,
    beyond: true,
    async run(stage) {
      await stage.nextEvent();
      const master = await masterOf(stage);
      const [confirming, other] = await replicasOf(stage, master);
      if (confirming === undefined || other === undefined) throw new TypeError('a master has two replicas');
      await stage.disturb('kill -9 master and the replica that confirms', { blurs: true }, async () => {
        await stopped({ signal: (signal) => void other.kill(signal) }, async () => {
          await stage.pause(LAG_MS);
          await Promise.all([master.kill('SIGKILL'), confirming.kill('SIGKILL')]);
        });
        await untilReplaced(stage, master);
        await stage.pause(3_000);
        await Promise.all([master.restart(), confirming.restart()]);
        await untilRepaired(stage);
      });
    },
  },
];
