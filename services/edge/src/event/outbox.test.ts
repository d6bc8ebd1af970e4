import type { DeviceCode, Epoch } from '@lapi-broker/protocol';
import { expect, test } from 'vitest';
import { STORE_ALIVE_MS } from '../limits.ts';
import { Outbox, type StoreResult } from './outbox.ts';

const LIMITS = { sessionEvents: 64, sessionBytes: 1_000_000, nodeBytes: 2_000_000, waitMs: 4_000 };

/** An outbox whose store takes an event when it is told to. */
function rig() {
  const takes: (() => void)[] = [];
  const counted: string[] = [];
  let nowMs = 0;
  const way = { append: () => new Promise<void>((resolve) => takes.push(resolve)) };
  const metrics = {
    events: {
      inc: ({ class: eventClass, result }: Record<string, string>) => void counted.push(`${eventClass} ${result}`),
    },
  };
  const outbox = new Outbox(
    way,
    metrics,
    () => nowMs,
    () => 0,
    LIMITS,
  );
  let sender = { unstoredEvents: 0 };
  return {
    counted,
    /** The device comes back in a new session. */
    reconnect: (): void => {
      sender = { unstoredEvents: 0 };
    },
    pass: (ms: number): void => {
      nowMs += ms;
    },
    offer(kind: string): StoreResult | undefined {
      let told: StoreResult | undefined;
      const event = {
        code: 'cam-1' as DeviceCode,
        kind,
        url: '',
        at: 0,
        receivedAt: 0,
        epoch: 1 as Epoch,
        session: '',
        seq: 1,
        tags: [],
        dedupKey: '',
        images: '',
        data: Buffer.from('{}'),
      } as const;
      outbox.store(sender, event, (result) => {
        told = result;
      });
      return told;
    },
    /** What waits now is never taken. */
    hold: (): void => {
      takes.length = 0;
    },
    /** The oldest `count` that wait. */
    async take(count: number): Promise<void> {
      for (const take of takes.splice(0, count)) take();
      await Promise.resolve();
      await Promise.resolve();
    },
  };
}

test('a store that takes events slower than they come gets no more than it can take in time, alarms last', async () => {
  const { offer, pass, take, counted } = rig();
  for (let i = 0; i < 4; i++) expect(offer('alarm.x')).toBeUndefined();
  pass(LIMITS.waitMs - 1);
  await take(1);
  expect([offer('objectrealtimedata'), offer('structure'), offer('alarm.x')]).toEqual(['full', 'full', undefined]);
  expect(counted).toEqual(['alarm stored', 'lossy too_slow', 'normal too_slow']);
  pass(2);
  await take(1);
  expect(offer('alarm.x')).toBe('full');
  // The rest is taken, so the queue is gone, however long the last one of it had waited.
  await take(3);
  expect([offer('objectrealtimedata'), offer('structure'), offer('alarm.x')]).toEqual([
    undefined,
    undefined,
    undefined,
  ]);
});

test('a store that takes nothing gets what its budgets hold, because it may take all at once when it is back', async () => {
  const { offer, pass, take } = rig();
  offer('alarm.x');
  offer('alarm.x');
  pass(LIMITS.waitMs);
  await take(1);
  pass(STORE_ALIVE_MS + 1);
  expect(offer('objectrealtimedata')).toBeUndefined();
});

test('an event that waits for a shard that is away is no reason to refuse others, which are taken at once', async () => {
  const { offer, pass, take, hold } = rig();
  offer('alarm.x');
  hold();
  pass(LIMITS.waitMs);
  for (let i = 0; i < 5; i++) {
    expect(offer('objectrealtimedata')).toBeUndefined();
    await take(1);
  }
});

test('a device that comes back finds the budget as it left it, and all of it once the store has taken what it had sent before', async () => {
  const { offer, take, reconnect, counted } = rig();
  for (let i = 0; i < LIMITS.sessionEvents; i++) expect(offer('alarm.x')).toBeUndefined();
  reconnect();
  expect(offer('alarm.x')).toBe('full');
  expect(counted).toEqual(['alarm session_full']);
  await take(LIMITS.sessionEvents);
  for (let i = 0; i < LIMITS.sessionEvents; i++) expect(offer('alarm.x')).toBeUndefined();
});
