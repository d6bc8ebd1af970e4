/** The faults by name. Each leaves behind what it found: everything runs again, nothing is stopped. */

import type { RedisCluster, RedisSentinels, RedisServer } from '@lapi-broker/fixture';
import { redisCommand, waitFor } from '@lapi-broker/fixture';
import type { Fault, Stage } from './fault.ts';

/** Longer than the lease of a node (10 s). */
const LONG_PAUSE_MS = 14_000;
const SHORT_PAUSE_MS = 3_000;
/** Longer than the lock of a BullMQ job (30 s). */
const LOCK_PAUSE_MS = 34_000;
/** Longer than a node may write to devices without a renewed lease (7 s), shorter than the lease. */
const HANG_MS = 8_500;
const MOVES = 40;
const MOVE_INTERVAL_MS = 250;
/** Below the number of take-overs per minute that count as flapping (protocol D8). */
const MOVES_PER_DEVICE = 3;
const PUBSUB_KILLS = 10;
export const FAILOVER_MS = 20_000;

/** Signals a process, and lets it go on whatever happens. */
export async function stopped(
  target: { signal(signal: NodeJS.Signals): void },
  work: () => Promise<void>,
): Promise<void> {
  target.signal('SIGSTOP');
  try {
    await work();
  } finally {
    target.signal('SIGCONT');
  }
}

/** Its devices come back at the other edge. */
export async function killEdge(stage: Stage, index: number, awayMs: number): Promise<void> {
  await stage.disturb(`kill -9 edge ${index + 1}`, { blurs: true, devices: stage.at(index) }, async () => {
    await stage.rig.edge(index).kill();
    await stage.pause(awayMs);
    await stage.rig.restartEdge(index);
  });
}

export async function killCommand(stage: Stage, index: number, awayMs: number): Promise<void> {
  await stage.disturb(`kill -9 command service ${index + 1}`, { blurs: false }, async () => {
    await stage.rig.command(index).kill();
    await stage.pause(awayMs);
    await stage.rig.restartCommand(index);
  });
}

export function standalone({ rig: { store } }: Pick<Stage, 'rig'>): RedisServer {
  if (store.kind !== 'standalone') throw new TypeError('this fault wants one Redis');
  return store.redis;
}

export function sentinel({ rig: { store } }: Pick<Stage, 'rig'>): RedisSentinels {
  if (store.kind !== 'sentinel') throw new TypeError('this fault wants sentinels');
  return store.redis;
}

export function cluster({ rig: { store } }: Pick<Stage, 'rig'>): RedisCluster {
  if (store.kind !== 'cluster') throw new TypeError('this fault wants a cluster');
  return store.redis;
}

async function untilFailedOver(redis: RedisSentinels): Promise<void> {
  await waitFor(async () => (await redis.masterPort()) !== redis.master.port, {
    deadlineMs: FAILOVER_MS,
    what: 'another master',
    intervalMs: 50,
  });
}

/** A master that has all its replicas again: from then on writes can be confirmed. */
export async function untilWhole(redis: RedisSentinels): Promise<void> {
  await waitFor(
    async () => {
      const facts = String(await redisCommand(await redis.masterPort(), 'INFO', 'replication'));
      return facts.includes('role:master') && (facts.match(/state=online/g)?.length ?? 0) >= redis.replicas.length;
    },
    { deadlineMs: FAILOVER_MS, what: 'a master with all replicas', intervalMs: 50 },
  );
}

export const FAULTS: readonly Fault[] = [
  {
    name: 'control',
    about: 'nothing happens',
    lengthMs: 4_000,
    run: async ({ pause }) => await pause(4_000),
  },
  {
    name: 'edge-kill',
    about: 'kill -9 of an edge, back after 3 s; then of the other one',
    lengthMs: 12_000,
    async run(stage) {
      await killEdge(stage, 0, 3_000);
      await stage.pause(3_000);
      await killEdge(stage, 1, 3_000);
    },
  },
  {
    name: 'edge-pause',
    about: 'an edge is stopped for longer than its lease; half of its devices go elsewhere meanwhile, half stay',
    lengthMs: LONG_PAUSE_MS + 2_000,
    async run(stage) {
      const devices = stage.at(0);
      await stage.disturb('SIGSTOP edge 1', { blurs: true, devices }, () =>
        stopped(stage.rig.edge(0), async () => {
          await stage.pause(2_000);
          for (const [i, device] of devices.entries()) if (i % 2 === 0) device.move(1);
          await stage.pause(LONG_PAUSE_MS - 2_000);
        }),
      );
    },
  },
  {
    name: 'edge-pause-short',
    about: 'edges are stopped in turn, shorter than their lease; some devices go elsewhere meanwhile',
    lengthMs: 4 * (SHORT_PAUSE_MS + 1_500),
    async run(stage) {
      for (const index of [0, 1, 0, 1]) {
        const devices = stage.at(index);
        await stage.disturb(`SIGSTOP edge ${index + 1}`, { blurs: true, devices }, () =>
          stopped(stage.rig.edge(index), async () => {
            await stage.pause(SHORT_PAUSE_MS / 2);
            for (const device of devices) if (stage.chance.is(0.3)) device.move(1 - index);
            await stage.pause(SHORT_PAUSE_MS / 2);
          }),
        );
        await stage.pause(1_500);
      }
    },
  },
  {
    name: 'edge-drain',
    about: 'an edge leaves on purpose and comes back',
    lengthMs: 8_000,
    async run(stage) {
      await stage.disturb('SIGTERM edge 1', { blurs: false, devices: stage.at(0) }, async () => {
        await stage.rig.edge(0).stop();
        await stage.pause(2_000);
        await stage.rig.restartEdge(0);
      });
    },
  },
  {
    name: 'command-kill',
    about: 'kill -9 of one command service while commands are out, back after 2 s; then of the other one',
    lengthMs: 9_000,
    async run(stage) {
      await killCommand(stage, 0, 2_000);
      await stage.pause(2_000);
      await killCommand(stage, 1, 2_000);
    },
  },
  {
    name: 'command-pause',
    about: 'a command service is stopped for longer than the lock of a BullMQ job',
    lengthMs: LOCK_PAUSE_MS,
    async run(stage) {
      await stage.disturb('SIGSTOP command service 1', { blurs: false }, () =>
        stopped(stage.rig.command(0), () => stage.pause(LOCK_PAUSE_MS)),
      );
    },
  },
  {
    name: 'redis-restart',
    about: 'kill -9 of Redis with an append-only file, back at once; then back after 4 s',
    lengthMs: 12_000,
    async run(stage) {
      for (const awayMs of [0, 4_000]) {
        await stage.disturb(`kill -9 Redis for ${awayMs} ms`, { blurs: true }, async () => {
          await standalone(stage).kill('SIGKILL');
          await stage.pause(awayMs);
          await standalone(stage).restart();
        });
        await stage.pause(4_000);
      }
    },
  },
  {
    name: 'redis-hang',
    about: 'Redis is stopped for longer than nodes may write without it, and goes on',
    lengthMs: HANG_MS + 2_000,
    async run(stage) {
      const redis = standalone(stage);
      await stage.disturb('SIGSTOP Redis', { blurs: true }, () =>
        stopped({ signal: (signal) => void redis.kill(signal) }, () => stage.pause(HANG_MS)),
      );
    },
  },
  {
    name: 'cluster-kill',
    about: 'kill -9 of one master of a cluster; its replica takes over; it comes back as a replica',
    store: 'cluster',
    lengthMs: 12_000,
    async run(stage) {
      const redis = cluster(stage);
      const [master] = redis.masters;
      if (master === undefined) throw new TypeError('a cluster has masters');
      await stage.disturb('kill -9 master', { blurs: true }, async () => {
        await master.kill('SIGKILL');
        await redis.settled(FAILOVER_MS);
        await stage.pause(3_000);
        await master.restart();
        await redis.settled(FAILOVER_MS);
      });
    },
  },
  {
    name: 'sentinel-kill',
    about: 'kill -9 of the master; a replica takes over; the old master comes back as its replica',
    store: 'sentinel',
    lengthMs: 12_000,
    async run(stage) {
      const redis = sentinel(stage);
      await stage.disturb('kill -9 master', { blurs: true }, async () => {
        await redis.master.kill('SIGKILL');
        await untilFailedOver(redis);
        await stage.pause(3_000);
        await redis.master.restart();
        await untilWhole(redis);
      });
    },
  },
  {
    name: 'sentinel-hang',
    about: 'the master is stopped, a replica takes over, the old master goes on',
    store: 'sentinel',
    lengthMs: 14_000,
    async run(stage) {
      const redis = sentinel(stage);
      await stage.disturb('SIGSTOP master', { blurs: true }, async () => {
        await stopped({ signal: (signal) => void redis.master.kill(signal) }, async () => {
          await untilFailedOver(redis);
          await stage.pause(5_000);
        });
        await untilWhole(redis);
      });
    },
  },
  {
    name: 'device-moves',
    about: 'devices open a session at the other edge while a command is out; the old socket stays open',
    lengthMs: MOVES * MOVE_INTERVAL_MS,
    async run(stage) {
      const moved = new Map<string, number>();
      for (let i = 0; i < MOVES; i++) {
        await stage.pause(MOVE_INTERVAL_MS);
        const device = stage.devices[stage.chance.between(0, stage.devices.length - 1)];
        const times = moved.get(device?.code ?? '') ?? 0;
        if (device === undefined || !device.online || times >= MOVES_PER_DEVICE) continue;
        moved.set(device.code, times + 1);
        await stage.disturb(`${device.code} moves`, { blurs: true, devices: [device] }, () =>
          device.move(1 - device.edge),
        );
      }
    },
  },
  {
    name: 'late-answers',
    about: 'two of five answers come after the timeout',
    lengthMs: 6_000,
    mix: { late: 0.4 },
    run: async ({ pause }) => await pause(6_000),
  },
  {
    name: 'mute-device',
    about: 'some devices answer nothing at all',
    lengthMs: 6_000,
    mutes: 3,
    run: async ({ pause }) => await pause(6_000),
  },
  {
    name: 'inbox-loss',
    about: 'every subscriber connection is cut, again and again, so that hints are lost',
    lengthMs: PUBSUB_KILLS * 700,
    async run(stage) {
      await stage.disturb('CLIENT KILL TYPE pubsub', { blurs: false }, async () => {
        for (let i = 0; i < PUBSUB_KILLS; i++) {
          await standalone(stage).command('CLIENT', 'KILL', 'TYPE', 'pubsub');
          await stage.pause(700);
        }
      });
    },
  },
];
