import { BrokerError } from '@lapi-broker/protocol';
import { expect, it } from 'vitest';
import { GroupLine } from './group-line.ts';

it('a store that is away rejects all who wait at once, not one after the other by its time-out', async () => {
  let looks = 0;
  let fail: (error: unknown) => void = () => undefined;
  const line = new GroupLine({
    handOut: () => {
      looks += 1;
      return new Promise((_, reject) => {
        fail = reject;
      });
    },
    release: async () => undefined,
    listen: async () => () => undefined,
    monotonicMs: () => 0,
  });
  const pulls = [0, 0, 20_000].map((waitMs) => line.pull({ max: 1, waitMs }));
  fail(new BrokerError('broker_unavailable', 'away'));
  const ended = await Promise.allSettled(pulls);
  expect(ended.map(({ status }) => status)).toEqual(['rejected', 'rejected', 'rejected']);
  expect(looks).toBe(1);
});
