/** The faults under a flow of events, by name. Each leaves behind what it found: everything runs again, everybody may send. */

import { type RedisSentinels, type RedisServer, waitFor } from '@lapi-broker/fixture';
import { cluster, FAILOVER_MS, sentinel, standalone, stopped, untilWhole } from '../fault/faults.ts';
import type { EventFault, EventStage } from './fault.ts';

const AWAY_MS = 700;
const KILLS = 3;
const HANDED_OUT_MS = 150;
/** Longer than an event may wait for the store (5 s). */
const HANG_MS = 7_000;
/** Shorter than sentinels wait before they give up on a server (1 s). */
const LAG_MS = 800;
const SLOW_MS = 4_000;
const LATENCY_MS = 250;
/** The least that can be set. */
const RETENTION_BYTES = 1024 * 1024;
const RETENTION_SECONDS = 60;
/** Of the bytes of all events of a round to those that one shard keeps: what is sent while somebody is away passes twice of it. */
const OVERFLOW = 4;

/** The edge that has the last event; its devices come back at the other one. */
export async function killEdgeOf(stage: EventStage): Promise<void> {
  const { rig } = stage;
  const { edge } = stage.sending;
  await stage.disturb(`kill -9 edge ${edge + 1}`, async () => {
    await rig.edge(edge).kill();
    await stage.pause(AWAY_MS);
    await rig.restartEdge(edge);
  });
}

export async function killCommandOf(stage: EventStage): Promise<void> {
  const service = stage.chance.between(0, stage.rig.commands.length - 1);
  // While the last events are at its consumers.
  await stage.pause(stage.chance.between(0, HANDED_OUT_MS));
  await stage.disturb(`kill -9 command service ${service + 1}`, async () => {
    await stage.rig.command(service).kill();
    await stage.pause(AWAY_MS);
    await stage.rig.restartCommand(service);
  });
}

/** By now: an earlier round may have made it one. */
async function masterOf(redis: RedisSentinels): Promise<RedisServer> {
  const port = await redis.masterPort();
  const master = [redis.master, ...redis.replicas].find((server) => server.port === port);
  if (master === undefined) throw new TypeError(`no server at port ${port}`);
  return master;
}

async function untilAnother(redis: RedisSentinels, master: RedisServer): Promise<void> {
  await waitFor(async () => (await redis.masterPort()) !== master.port, {
    deadlineMs: FAILOVER_MS,
    what: 'another master',
    intervalMs: 50,
  });
}

/** Answers the server that was the master, and is down. */
export async function failOver(stage: EventStage): Promise<RedisServer> {
  const redis = sentinel(stage);
  const master = await masterOf(redis);
  await stage.disturb('kill -9 master', async () => {
    await master.kill('SIGKILL');
    await untilAnother(redis, master);
  });
  return master;
}

export const EVENT_FAULTS: readonly EventFault[] = [
  {
    name: 'event-control',
    about: 'nothing happens',
    run: async () => undefined,
  },
  {
    name: 'event-edge-kill',
    about: 'kill -9 of an edge at a random event',
    async run(stage) {
      await stage.untilSent(stage.between(0.1, 0.9));
      await killEdgeOf(stage);
    },
  },
  {
    name: 'event-consumer-kill',
    about: 'kill -9 of command services with consumers, three times, at random events',
    async run(stage) {
      for (let i = 0; i < KILLS; i++) {
        await stage.untilSent(stage.between(i / KILLS, (i + 0.8) / KILLS));
        await killCommandOf(stage);
      }
    },
  },
  {
    name: 'event-redis-restart',
    about: 'kill -9 of Redis with an append-only file at a random event, back at once; then back after 3 s',
    async run(stage) {
      for (const [i, awayMs] of [0, 3_000].entries()) {
        await stage.untilSent(stage.between(i / 2, (i + 0.8) / 2));
        await stage.disturb(`kill -9 Redis for ${awayMs} ms`, async () => {
          await standalone(stage).kill('SIGKILL');
          await stage.pause(awayMs);
          await standalone(stage).restart();
        });
      }
    },
  },
  {
    name: 'event-redis-slow',
    about: `Redis answers ${LATENCY_MS} ms late, then not at all for longer than events may wait, then as before`,
    slowable: true,
    async run(stage) {
      const { line } = stage.rig;
      await stage.untilSent(stage.between(0.1, 0.5));
      await stage.disturb('slow Redis', async () => {
        line?.latency(LATENCY_MS);
        await stage.pause(SLOW_MS);
        line?.pause();
        await stage.pause(HANG_MS);
        line?.heal();
      });
    },
  },
  {
    name: 'event-redis-hang',
    about: 'Redis is stopped for longer than events may wait, and goes on',
    async run(stage) {
      await stage.untilSent(stage.between(0.1, 0.8));
      const redis = standalone(stage);
      await stage.disturb('SIGSTOP Redis', () =>
        stopped({ signal: (signal) => void redis.kill(signal) }, () => stage.pause(HANG_MS)),
      );
    },
  },
  {
    name: 'event-redis-failover',
    about: 'kill -9 of the master at a random event; sentinels make a replica the master; the old one comes back',
    store: 'sentinel',
    rewinds: true,
    async run(stage) {
      await stage.untilSent(stage.between(0.1, 0.8));
      const master = await failOver(stage);
      await stage.disturb('the old master comes back', async () => {
        await master.restart();
        await untilWhole(sentinel(stage));
      });
    },
  },
  {
    name: 'event-redis-lag',
    about: 'the replicas are cut off while events flow, then the master is killed, and a replica takes over',
    store: 'sentinel',
    rewinds: true,
    async run(stage) {
      const redis = sentinel(stage);
      await stage.untilSent(stage.between(0.2, 0.5));
      const master = await masterOf(redis);
      const replicas = [redis.master, ...redis.replicas].filter((server) => server !== master);
      const signal = (name: NodeJS.Signals): void => {
        for (const replica of replicas) void replica.kill(name);
      };
      await stage.disturb('cut off replicas, kill -9 master', async () => {
        await stopped({ signal }, async () => {
          await master.command('CLIENT', 'KILL', 'TYPE', 'replica');
          await stage.pause(LAG_MS);
          await master.kill('SIGKILL');
        });
        await untilAnother(redis, master);
        await master.restart();
        await untilWhole(redis);
      });
    },
  },
  {
    name: 'event-redis-split',
    about: 'the master is stopped, a replica takes over, the old master goes on',
    store: 'sentinel',
    rewinds: true,
    async run(stage) {
      const redis = sentinel(stage);
      await stage.untilSent(stage.between(0.1, 0.8));
      const master = await masterOf(redis);
      await stage.disturb('SIGSTOP master', async () => {
        await stopped({ signal: (signal) => void master.kill(signal) }, async () => {
          await untilAnother(redis, master);
          await stage.pause(1_000);
        });
        await untilWhole(redis);
      });
    },
  },
  {
    name: 'event-cluster-failover',
    about: 'kill -9 of a master of a cluster at a random event; its replica takes over; it comes back',
    store: 'cluster',
    rewinds: true,
    async run(stage) {
      const redis = cluster(stage);
      await stage.untilSent(stage.between(0.1, 0.8));
      const masters: RedisServer[] = [];
      for (const server of [...redis.masters, ...redis.replicas]) {
        const [role] = (await server.command('ROLE')) as [string];
        if (role === 'master') masters.push(server);
      }
      const master = masters[stage.chance.between(0, masters.length - 1)];
      if (master === undefined) throw new TypeError('a cluster has masters');
      await stage.disturb('kill -9 master', async () => {
        await master.kill('SIGKILL');
        await redis.settled(FAILOVER_MS);
        await master.restart();
        await redis.settled(FAILOVER_MS);
      });
    },
  },
  {
    name: 'event-away',
    about: 'the consumers of a subscription are away until twice the bytes of the retention have passed',
    env: { LAPI_SHARDS: '1', LAPI_EVENT_RETENTION_BYTES: String(RETENTION_BYTES) },
    leaves: true,
    dataBytes: (events) => Math.ceil((OVERFLOW * RETENTION_BYTES) / events),
    async run(stage) {
      await stage.untilSent(stage.between(0.05, 0.2));
      await stage.leave();
      stage.allow(0.9);
      await stage.untilSent(stage.between(0.9, 0.9));
      stage.comeBack();
      stage.allow(1);
    },
  },
  {
    name: 'event-away-long',
    about: 'the consumers of a subscription are away for twice the time of the retention (2 minutes)',
    env: { LAPI_EVENT_RETENTION_SECONDS: String(RETENTION_SECONDS) },
    leaves: true,
    async run(stage) {
      await stage.untilSent(stage.between(0.05, 0.2));
      await stage.leave();
      stage.allow(0.8);
      await stage.untilSent(stage.between(0.8, 0.8));
      await stage.pause(2 * RETENTION_SECONDS * 1_000);
      stage.comeBack();
      stage.allow(1);
    },
  },
];
