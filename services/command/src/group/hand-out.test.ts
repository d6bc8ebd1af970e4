import { BrokerError } from '@lapi-broker/protocol';
import { expect, it } from 'vitest';
import { parseFilter } from '../event/filter.ts';
import type { Look } from './group-store.ts';
import { HandOuts } from './hand-out.ts';

const NOTHING: Look = { place: '0-0', number: 0, last: '0-0', ready: 0, out: 0, open: 0, dueMs: undefined };

it('a shard that did not answer is left alone for a while, unless there is no other', async () => {
  let nowMs = 0;
  let allAway = false;
  const looks: number[] = [];
  const filter = parseFilter({});
  if (filter.status === 'invalid') throw new Error(filter.detail);
  const handOuts = new HandOuts(
    {
      store: {
        shards: 3,
        permit: async (_, wanted) => ({ given: wanted, againMs: 0 }),
        giveBack: async () => undefined,
        look: async (shard) => {
          looks.push(shard);
          if (shard === 1 || allAway) throw new BrokerError('broker_unavailable', 'away');
          return NOTHING;
        },
        take: async () => [],
        bodies: async () => [],
        settle: async () => [],
      },
      stream: { read: async () => [] },
      newPermit: () => 'permit',
      monotonicMs: () => nowMs,
    },
    {
      ...{ name: 'g', key: 'g.12345678', owner: 'platform', createdAtMs: 0, revision: 0, filter: {} },
      ...{ ackDeadlineMs: 30_000, maxInFlight: 10, maxAttempts: 5, ordered: true },
    },
    filter.filter,
  );
  const looksOf = async (): Promise<number[]> => {
    looks.length = 0;
    await handOuts.next(1).catch(() => undefined);
    return looks.sort((a, b) => a - b);
  };
  expect(await looksOf()).toEqual([0, 1, 2]);
  expect(await looksOf()).toEqual([0, 2]);
  nowMs = 60_000;
  expect(await looksOf()).toEqual([0, 1, 2]);
  allAway = true;
  expect(await looksOf()).toEqual([0, 2]);
  expect(await looksOf()).toEqual([0, 1, 2]);
  await expect(handOuts.next(1)).rejects.toMatchObject({ code: 'broker_unavailable' });
});
