/** Runs the contract suite of this package and a short model test on one Redis and on a Redis Cluster of three masters. `npm run model` runs the
 *  long one, and all mutants. */

import { startRedis, startRedisCluster } from '@lapi-broker/fixture';
import { fromStreamFields } from '@lapi-broker/protocol';
import {
  closeConnection,
  createKeyspace,
  isCluster,
  openConnection,
  type RedisConnection,
  ready,
} from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { RedisLaneStore } from '../redis/redis-lane-store.ts';
import { EXACT_CASES, runExactCase } from './exact-cases.ts';
import { type LaneStoreHarness, laneStoreContract } from './lane-store.ts';
import { ModelFailure, runModel } from './model-run.ts';
import { copyScripts, type ScriptCopy } from './model-scripts.ts';
import { MUTANTS, tryMutant } from './mutants.ts';

let prefixes = 0;

/** A handful of different kinds; a place that is not in the scripts any more fails. */
const SOME_MUTANTS: readonly string[] = [
  'begin: without the epoch test',
  'settle: without the state test',
  'begin: not the head of the lane',
  'settle: without the attempt test',
  'give-back: counts as written',
  'cancel: without the state test',
  'lane: never lapses',
  'lane: repeats what may not be repeated',
];

describe.each([
  ['standalone', startRedis],
  ['cluster', startRedisCluster],
] as const)('%s', (topology, start) => {
  let server: { readonly url: string; stop(): Promise<void> };
  let connection: RedisConnection;
  beforeAll(async () => {
    server = await start();
    connection = openConnection({ url: server.url, commandTimeoutMs: 5_000 }, 'state');
    await ready(connection, 10_000);
  });
  afterAll(async () => {
    await closeConnection(connection);
    await server.stop();
  });

  laneStoreContract(topology, async (): Promise<LaneStoreHarness> => {
    const keyspace = createKeyspace(`test${++prefixes}`);
    return {
      store: new RedisLaneStore(connection, keyspace, { keepMs: 86_400_000 }),
      keyspace,
      provision: async (code) => void (await connection.hset(keyspace.device(code), { rev: 1, enabled: '1' })),
      own: async (code, node, epoch) =>
        void (await connection.hset(keyspace.device(code), { node, epoch: String(epoch) })),
      disown: async (code) => void (await connection.hdel(keyspace.device(code), 'node')),
      remove: async (code) => void (await connection.hdel(keyspace.device(code), 'rev')),
      async events(code) {
        const entries = await connection.xrangeBuffer(keyspace.events(keyspace.shardOf(code)), '-', '+');
        return entries.map(([, fields]) => fromStreamFields(fields)).filter((event) => event.code === code);
      },
      async traces(code) {
        const keys = {
          clock: keyspace.clock(code),
          lane: keyspace.lane(code),
          normal: keyspace.waitingIn('normal', code),
          urgent: keyspace.waitingIn('urgent', code),
        };
        const found = await Promise.all(
          Object.entries(keys).map(async ([name, key]) => ((await connection.exists(key)) === 1 ? [name] : [])),
        );
        const isDue = (await connection.zscore(keyspace.due(keyspace.shardOf(code)), code)) !== null;
        return [...found.flat(), ...(isDue ? ['due'] : [])].sort();
      },
      nowMs: () => timeOf(connection),
      close: async () => undefined,
    };
  });

  describe('scripts on a clock of the test', () => {
    let copy: ScriptCopy;
    beforeAll(async () => {
      copy = await copyScripts();
    });
    afterAll(async () => {
      await copy.remove();
    });

    test.each(EXACT_CASES)('$name', async (each) => {
      await runExactCase(each, connection, copy.folder, `test${++prefixes}`);
    });

    test('random steps of nodes, zombies and services keep I1–I4, I6 and I7 and end every command', async () => {
      const [steps, seeds] = topology === 'standalone' ? [2_000, [1, 2, 3]] : [800, [4]];
      await Promise.all(
        seeds.map(async (seed) => {
          const options = { connection, scripts: copy.folder, prefix: `test${++prefixes}`, seed, steps };
          const report = await runModel(options).catch(explain);
          // A run that does nothing would find nothing.
          for (const answer of ['begin:begun', 'begin:fenced', 'settle:requeued', 'giveBack:requeued', 'settle:stale'])
            expect(report.answers.get(answer) ?? 0, answer).toBeGreaterThan(0);
        }),
      );
    });
  });

  if (topology === 'standalone') {
    test.each(MUTANTS.filter(({ name }) => SOME_MUTANTS.includes(name)))(
      'the model notices damage, $name',
      async (mutant) => {
        expect(await tryMutant(connection, mutant, { steps: 1_500, seeds: 4 })).toMatchObject({ isExplained: true });
      },
    );
  }
});

function explain(error: unknown): never {
  if (error instanceof ModelFailure)
    throw new Error([error.message, ...error.trace.slice(-60)].join('\n'), { cause: error });
  throw error;
}

/** Of any master: they share the machine's clock. */
async function timeOf(connection: RedisConnection): Promise<number> {
  const [master] = isCluster(connection) ? connection.nodes('master') : [connection];
  const [seconds = 0, micros = 0] = ((await master?.time()) ?? []).map(Number);
  return seconds * 1000 + Math.floor(micros / 1000);
}
