import type { CommandRecord, CommandState } from '@lapi-broker/lane';
import { BrokerError, type CommandId } from '@lapi-broker/protocol';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { Waiters } from './waiters.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const id = (name: string): CommandId => `00${name.padEnd(20, '0')}` as CommandId;
const A = id('a');

function fixture(limit = 10) {
  const states = new Map<CommandId, CommandState>();
  const store = { away: false, reads: 0, looks: 0 };
  const record = (each: CommandId): CommandRecord | undefined => {
    if (store.away) throw new BrokerError('broker_unavailable', 'away');
    const state = states.get(each);
    return state === undefined ? undefined : ({ id: each, state } as CommandRecord);
  };
  const waiters = new Waiters({
    read: async (each) => {
      store.reads += 1;
      return record(each);
    },
    readStates: async (ids) => {
      store.looks += 1;
      return ids.map(record);
    },
    monotonicMs: () => Date.now(),
    limit,
  });
  return { states, store, waiters };
}

it('a hint ends the wait at once, with the record', async () => {
  const { states, store, waiters } = fixture();
  states.set(A, 'queued');
  const both = [waiters.whenEnded(A, 10_000), waiters.whenEnded(A, 10_000)];
  states.set(A, 'succeeded');
  waiters.ended(A);
  expect(await Promise.all(both)).toMatchObject([{ state: 'succeeded' }, { state: 'succeeded' }]);
  expect(store.looks).toBe(0);
  expect(vi.getTimerCount()).toBe(0);
});

it('without a hint the end is found within a little more than a second', async () => {
  const { states, store, waiters } = fixture();
  states.set(A, 'queued');
  const waiting = waiters.whenEnded(A, 10_000);
  await vi.advanceTimersByTimeAsync(100);
  expect(store.looks).toBe(1);
  states.set(A, 'expired');
  await vi.advanceTimersByTimeAsync(1_050);
  expect(await waiting).toMatchObject({ state: 'expired' });
  expect(store.looks).toBe(2);
  expect(vi.getTimerCount()).toBe(0);
});

it('nobody waits longer than asked, also while the store is away', async () => {
  const { states, store, waiters } = fixture();
  states.set(A, 'sent');
  const waiting = waiters.whenEnded(A, 500);
  store.away = true;
  waiters.ended(A);
  await vi.advanceTimersByTimeAsync(550);
  expect(await waiting).toBeUndefined();
  expect(waiters.size).toBe(0);
});

it('the end of a wait that the store could not tell is told when it is back', async () => {
  const { states, store, waiters } = fixture();
  states.set(A, 'succeeded');
  store.away = true;
  const waiting = waiters.whenEnded(A, 10_000);
  await vi.advanceTimersByTimeAsync(1_000);
  store.away = false;
  await vi.advanceTimersByTimeAsync(1_100);
  expect(await waiting).toMatchObject({ state: 'succeeded' });
});

it('a record that is gone ends its wait', async () => {
  const { waiters } = fixture();
  const waiting = waiters.whenEnded(A, 10_000);
  await vi.advanceTimersByTimeAsync(100);
  expect(await waiting).toBeUndefined();
});

it('at the limit a further one gets what is known now', async () => {
  const { states, waiters } = fixture(2);
  for (const name of ['a', 'b', 'c', 'd']) states.set(id(name), 'queued');
  states.set(id('d'), 'failed');
  const held = [waiters.whenEnded(id('a'), 5_000), waiters.whenEnded(id('b'), 5_000)];
  expect(waiters.size).toBe(2);
  expect(await waiters.whenEnded(id('c'), 5_000)).toBeUndefined();
  expect(await waiters.whenEnded(id('d'), 5_000)).toMatchObject({ state: 'failed' });
  waiters.stop();
  expect(await Promise.all(held)).toEqual([undefined, undefined]);
});

it('a drain answers all who wait, and nobody waits after it', async () => {
  const { states, waiters } = fixture();
  states.set(A, 'queued');
  const waiting = waiters.whenEnded(A, 10_000);
  waiters.drain();
  expect(await waiting).toBeUndefined();
  expect(await waiters.whenEnded(A, 10_000)).toBeUndefined();
  expect(vi.getTimerCount()).toBe(0);
});

it('listeners hear of every hint until they stop', () => {
  const { waiters } = fixture();
  const heard: CommandId[] = [];
  const stop = waiters.listen((each) => heard.push(each));
  waiters.ended(A);
  stop();
  waiters.ended(id('b'));
  expect(heard).toEqual([A]);
});
