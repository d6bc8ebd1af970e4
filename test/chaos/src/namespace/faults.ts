/** Faults of the network between the parties, made of real packets that do not arrive. What is sent into a drop arrives seconds after its end or
 *  never, nobody is told, and each side may believe what it likes meanwhile; that is what sets them apart from a proxy that closes. Skipped where
 *  there are no network namespaces. */

import {
  type Disturbance,
  missingNamespaces,
  type Place,
  type RedisSentinels,
  type RedisServer,
  type Treatment,
  waitFor,
} from '@lapi-broker/fixture';
import type { Fault, Stage } from '../fault/fault.ts';
import { Witness } from '../traffic/witness.ts';
import { NamespaceGround, namespacesOf } from './ground.ts';

/** Longer than a lease (10 s), and than a failover with the confirmation of it. */
const SPLIT_MS = 30_000;
const CUT_MS = 45_000;
const ONE_WAY_MS = 15_000;
const RESET_MS = 12_000;
const LOSSY_MS = 20_000;
const HALF_OPEN_MS = 30_000;
/** Devices with a dead line are back after so long. */
const BACK_MS = 3_000;
/** For which replicas hear nothing before their master dies. */
const LAG_MS = 3_000;
/** Between the loss of the line of a master and its death: what its kernel still holds must not reach a replica. */
const UNPLUGGED_MS = 200;
/** Of packets. */
const LOSS = 0.05;
const DELAY_MS = { from: 50, to: 150 };
const DELAY_CHANGES_MS = 100;
/** Of the devices of a node that is cut off. */
const MOVERS = 0.4;

/** Sentinels on a busy machine vote more than once, 10 s apart, and distrust their own clock for 30 s when they were held up. */
const FAILOVER_MS = 45_000;

const DROP = { kind: 'drop' } as const;

const net = {
  target: 'network',
  needs: { ground: () => NamespaceGround.start() },
  skip: () => Promise.resolve(missingNamespaces()),
} as const;

function moveSome(stage: Stage, devices: readonly unknown[], share: number, edge: number): void {
  for (const device of devices) if (device instanceof Witness && stage.chance.is(share)) device.move(edge);
}

function sentinel({ rig: { store } }: Stage): RedisSentinels {
  if (store.kind !== 'sentinel') throw new TypeError('this fault wants sentinels');
  return store.redis;
}

/** By all sentinels but the first, which may be cut off with the master. */
async function untilReplaced(redis: RedisSentinels, master: RedisServer): Promise<void> {
  const [, ...others] = redis.sentinels;
  await waitFor(
    async () => {
      const told = await Promise.all(
        others.map((each) => each.command('SENTINEL', 'get-master-addr-by-name', 'broker')),
      );
      return told.every((answer) => Array.isArray(answer) && Number(answer[1]) !== master.port);
    },
    { deadlineMs: FAILOVER_MS, what: 'another master', intervalMs: 50 },
  );
}

/** All servers agree on a master, and it has all the others as replicas. */
async function untilOneMaster(redis: RedisSentinels): Promise<void> {
  await waitFor(
    async () => {
      const told = await Promise.all(
        [redis.master, ...redis.replicas].map(async (each) => String(await each.command('INFO', 'replication'))),
      );
      const masters = told.filter((facts) => facts.includes('role:master'));
      const online = masters[0]?.match(/state=online/g)?.length ?? 0;
      return masters.length === 1 && online >= redis.replicas.length;
    },
    { deadlineMs: FAILOVER_MS, what: 'one master with all replicas', intervalMs: 50 },
  );
}

type Lost = 'both' | 'requests' | 'replies';

/** Edge 1 and the store. */
async function betweenEdgeAndStore(stage: Stage, treatment: Treatment, lost: Lost, lengthMs: number): Promise<void> {
  const ground = namespacesOf(stage);
  const { edges, stores, sentinels } = ground.places;
  const edge = edges.slice(0, 1);
  const store = [...stores, ...sentinels];
  const oneWay = lost !== 'both';
  const disturbance: Disturbance =
    lost === 'replies' ? { treatment, from: store, to: edge, oneWay } : { treatment, from: edge, to: store, oneWay };
  const devices = stage.at(0);
  await stage.disturb(`edge 1 and store: ${treatment.kind} ${lost}`, { blurs: true, devices }, () =>
    ground.during([disturbance], async () => {
      await stage.pause(lengthMs / 2);
      moveSome(stage, devices, MOVERS, 1);
      await stage.pause(lengthMs / 2);
    }),
  );
}

/** The master, its sentinel, edge 1 and so many command services on one side, all others on the other one. */
async function splitBrain(stage: Stage, services: number): Promise<void> {
  const redis = sentinel(stage);
  const ground = namespacesOf(stage);
  const { stores, sentinels, edges, commands } = ground.places;
  const master = await redis.acting();
  const minority = [
    ...stores.filter(({ address }) => address === master.address),
    ...sentinels.slice(0, 1),
    ...edges.slice(0, 1),
    ...commands.slice(0, services),
  ];
  const isOther = (place: Place): boolean => !minority.includes(place);
  const majority = [...stores, ...sentinels, ...edges, ...commands].filter(isOther);
  const inside = stage.at(0);
  const outside = stage.at(1);
  await stage.disturb('master and edge 1 | all others', { blurs: true }, async () => {
    await ground.during([{ treatment: DROP, from: minority, to: majority }], async () => {
      const beganMs = performance.now();
      await stage.pause(2_000);
      moveSome(stage, inside, MOVERS / 2, 1);
      await untilReplaced(redis, master);
      await stage.pause(3_000);
      moveSome(stage, inside, MOVERS / 2, 1);
      moveSome(stage, outside, MOVERS / 2, 0);
      await stage.pause(beganMs + SPLIT_MS - performance.now());
    });
    await untilOneMaster(redis);
  });
}

export const NAMESPACE_FAULTS: readonly Fault[] = [
  {
    ...net,
    name: 'split-brain',
    about:
      'the master, its sentinel and an edge with its devices are cut off from all others; a replica takes over; the halves meet again',
    stores: ['sentinel'],
    rewinds: true,
    lengthMs: SPLIT_MS + 10_000,
    run: (stage) => splitBrain(stage, 0),
  },
  {
    ...net,
    name: 'split-brain-service',
    about: 'the same with a command service on the side of the old master',
    stores: ['sentinel'],
    rewinds: true,
    beyond: true,
    lengthMs: SPLIT_MS + 10_000,
    run: (stage) => splitBrain(stage, 1),
  },
  {
    ...net,
    name: 'net-redis-cut-drop',
    about: 'packets between an edge and the store are dropped for 45 s; some of its devices go elsewhere meanwhile',
    stores: ['standalone', 'sentinel'],
    lengthMs: CUT_MS,
    run: (stage) => betweenEdgeAndStore(stage, DROP, 'both', CUT_MS),
  },
  {
    ...net,
    name: 'net-redis-cut-rst',
    about: 'packets between an edge and the store are refused with a reset, for 12 s; then only those of the store',
    stores: ['standalone', 'sentinel'],
    lengthMs: 2 * RESET_MS + 3_000,
    async run(stage) {
      await betweenEdgeAndStore(stage, { kind: 'reset' }, 'both', RESET_MS);
      await stage.pause(3_000);
      await betweenEdgeAndStore(stage, { kind: 'reset' }, 'replies', RESET_MS);
    },
  },
  {
    ...net,
    name: 'one-way-drop',
    about: 'the store hears an edge, which gets no answers; then the edge is not heard',
    stores: ['standalone', 'sentinel'],
    lengthMs: 2 * ONE_WAY_MS + 3_000,
    async run(stage) {
      await betweenEdgeAndStore(stage, DROP, 'replies', ONE_WAY_MS);
      await stage.pause(3_000);
      await betweenEdgeAndStore(stage, DROP, 'requests', ONE_WAY_MS);
    },
  },
  {
    ...net,
    name: 'lossy-link',
    about: '5 % of the packets between edge 1 and its devices and the store are lost; devices are 100 ± 50 ms away',
    stores: ['standalone', 'sentinel'],
    needs: { ...net.needs, deviceLines: true },
    lengthMs: LOSSY_MS,
    async run(stage) {
      const ground = namespacesOf(stage);
      const { edges, stores } = ground.places;
      const treatment = { kind: 'lose', share: LOSS } as const;
      const line = stage.rig.deviceLine(0);
      await stage.disturb('edge 1, 5 % loss', { blurs: true, devices: stage.at(0) }, () =>
        namespacesOf(stage).during(
          [{ treatment, from: edges.slice(0, 1), to: [ground.machine, ...stores] }],
          async () => {
            try {
              for (let i = 0; i < LOSSY_MS / DELAY_CHANGES_MS; i++) {
                line.latency(stage.chance.between(DELAY_MS.from, DELAY_MS.to), 'up');
                line.latency(stage.chance.between(DELAY_MS.from, DELAY_MS.to), 'down');
                await stage.pause(DELAY_CHANGES_MS);
              }
            } finally {
              line.heal();
            }
          },
        ),
      );
    },
  },
  {
    ...net,
    name: 'net-half-open',
    about:
      'the line of the devices of edge 1 is dead for 30 s; after 3 s they come back through edge 2, and nobody told edge 1',
    stores: ['standalone', 'sentinel'],
    lengthMs: HALF_OPEN_MS,
    async run(stage) {
      const { machine, places } = namespacesOf(stage);
      const devices = stage.at(0);
      await stage.disturb('edge 1 | its devices', { blurs: true, devices }, () =>
        namespacesOf(stage).during([{ treatment: DROP, from: places.edges.slice(0, 1), to: [machine] }], async () => {
          await stage.pause(BACK_MS);
          for (const device of devices) device.cut();
          await stage.pause(HALF_OPEN_MS - BACK_MS);
        }),
      );
    },
  },
  {
    ...net,
    name: 'net-lagging-replica',
    about:
      'replicas hear nothing for 3 s, then their master loses its line and dies; one that lacks those seconds takes over',
    stores: ['sentinel'],
    rewinds: true,
    lengthMs: 15_000,
    async run(stage) {
      const redis = sentinel(stage);
      const ground = namespacesOf(stage);
      const master = await redis.acting();
      const from = ground.places.stores.filter(({ address }) => address === master.address);
      const to = ground.places.stores.filter(({ address }) => address !== master.address);
      await stage.disturb('replicas behind, master killed', { blurs: true }, async () => {
        await ground.during([{ treatment: DROP, from, to }], async () => {
          await stage.pause(LAG_MS);
          await unplugAndKill(stage, master);
        });
        await replaceAndRestart(stage, redis, master);
      });
    },
  },
  {
    ...net,
    name: 'net-redis-kill',
    about: 'the master loses its line and is killed; a replica takes over; it comes back as its replica',
    stores: ['sentinel'],
    rewinds: true,
    lengthMs: 15_000,
    async run(stage) {
      const redis = sentinel(stage);
      const master = await redis.acting();
      await stage.disturb('master unplugged and killed', { blurs: true }, async () => {
        await unplugAndKill(stage, master);
        await replaceAndRestart(stage, redis, master);
      });
    },
  },
];

async function unplugAndKill(stage: Stage, master: RedisServer): Promise<void> {
  const ground = namespacesOf(stage);
  const from = ground.places.stores.filter(({ address }) => address === master.address);
  await ground.during([{ treatment: DROP, from }], async () => {
    await stage.pause(UNPLUGGED_MS);
    await master.kill('SIGKILL');
  });
}

async function replaceAndRestart(stage: Stage, redis: RedisSentinels, master: RedisServer): Promise<void> {
  await untilReplaced(redis, master);
  await stage.pause(3_000);
  await master.restart();
  await untilOneMaster(redis);
}
