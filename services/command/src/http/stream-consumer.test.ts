import { waitFor } from '@lapi-broker/fixture';
import { BrokerError } from '@lapi-broker/protocol';
import { describe, expect, it } from 'vitest';
import type { Settled, Verdict } from '../group/group.ts';
import { FakeGroups } from '../testing/fake-groups.ts';
import { ConsumerTable, StreamConsumer } from './stream-consumer.ts';

const SPEC = {
  name: 'g',
  filter: {},
  ackDeadlineMs: 30_000,
  maxInFlight: 100,
  maxAttempts: 2,
  ordered: false,
};

class FakeSocket {
  readonly texts: string[] = [];
  waiting = 0;
  flushes = 0;

  give(message: string | Buffer): void {
    this.texts.push(message.toString());
  }

  flush(): void {
    this.flushes += 1;
  }

  waitingBytes(): number {
    return this.waiting;
  }
}

interface Rig {
  readonly groups: FakeGroups;
  readonly socket: FakeSocket;
  readonly consumer: StreamConsumer;
  readonly table: ConsumerTable;
  readonly ended: Promise<{ readonly error: unknown }>;
  readonly clock: { nowMs: number };
  /** Answers, in their order. */
  readonly answers: unknown[];
  ackIds(): string[];
  settle(ackIds: readonly string[], verdict?: Verdict): boolean;
}

async function rig(maxInFlight = 10, prepare: (groups: FakeGroups) => void = () => undefined): Promise<Rig> {
  const groups = new FakeGroups();
  const made = await groups.create(SPEC, 'platform');
  if (made.status !== 'created') throw new TypeError('the first');
  prepare(groups);
  const socket = new FakeSocket();
  const clock = { nowMs: 0 };
  const monotonicMs = (): number => clock.nowMs;
  const consumer = new StreamConsumer({
    id: 'c"1',
    group: made.group,
    maxInFlight,
    groups,
    socket,
    waitingBytes: () => 1_000,
    monotonicMs,
  });
  const table = new ConsumerTable(1);
  const answers: unknown[] = [];
  return {
    groups,
    socket,
    consumer,
    table,
    clock,
    answers,
    ended: table.run(consumer),
    ackIds: () => socket.texts.map((text) => JSON.parse(text).ackId as string),
    settle: (ackIds, verdict = { type: 'ack' }) =>
      consumer.settle({
        ackIds,
        verdict,
        onSettled: (results: readonly Settled[]) => answers.push(results),
        onRefused: (error) => answers.push(error),
      }),
  };
}

const until = (what: string, condition: () => boolean): Promise<unknown> =>
  waitFor(condition, { deadlineMs: 5_000, what, intervalMs: 1 });

/** Long enough for everything that needs no clock. */
async function settleDown(): Promise<void> {
  for (let i = 0; i < 20; i++) await new Promise<void>((resolve) => setImmediate(resolve));
}

describe('a consumer on a socket', () => {
  it("writes each delivery with the consumer's name and the stored bytes of the event", async () => {
    const { socket, consumer, ended } = await rig(10, (groups) => {
      groups.add('g', { data: Buffer.from('{"n":9007199254740993,"x":1.50}') });
      groups.addGap('g', { shard: 1, from: '01-5-1', to: '01-9-4', count: 2 });
    });
    await until('both', () => socket.texts.length === 2);
    expect(socket.texts[0]).toMatch(/^\{"type":"delivery","consumer":"c\\"1","ackId":"a1\.1","attempt":1,"event":\{/);
    expect(socket.texts[0]).toContain('"data":{"n":9007199254740993,"x":1.50}}}');
    expect(socket.texts[1]).toBe(
      '{"type":"delivery","consumer":"c\\"1","ackId":"a2.1","attempt":1,"gap":{"shard":1,"from":"01-5-1","to":"01-9-4","count":2}}',
    );
    expect(socket.flushes).toBeGreaterThan(0);
    consumer.end('leave');
    expect(await ended).toEqual({ error: undefined });
  });

  it('gives its client no more than it may hold unsettled, and as many again as it settles', async () => {
    const { groups, ackIds, settle, answers, consumer, ended } = await rig(3);
    for (let i = 0; i < 10; i++) groups.add('g');
    await until('three', () => ackIds().length === 3);
    await settleDown();
    expect(ackIds()).toEqual(['a1.1', 'a2.1', 'a3.1']);
    settle(['a1.1', 'a3.1']);
    await until('two more', () => ackIds().length === 5);
    await settleDown();
    expect(ackIds()).toHaveLength(5);
    expect(answers).toEqual([['done', 'done']]);
    consumer.end('leave');
    await ended;
  });

  it('does not count what its client never settled for longer than the ack deadline', async () => {
    const { groups, ackIds, consumer, clock, ended } = await rig(1);
    groups.add('g');
    groups.add('g');
    await until('the first', () => ackIds().length === 1);
    consumer.sweep(29_999);
    await settleDown();
    expect(ackIds()).toHaveLength(1);
    clock.nowMs = 30_000;
    consumer.sweep(30_000);
    await until('the next', () => ackIds().length === 2);
    consumer.end('leave');
    await ended;
  });

  it('keeps counting what its client has asked more time for', async () => {
    const { groups, ackIds, settle, answers, consumer, ended } = await rig(1);
    groups.add('g');
    groups.add('g');
    await until('the first', () => ackIds().length === 1);
    settle(['a1.1'], { type: 'extend', deadlineMs: 60_000 });
    await until('its answer', () => answers.length === 1);
    consumer.sweep(59_999);
    await settleDown();
    expect(ackIds()).toEqual(['a1.1']);
    consumer.end('leave');
    await ended;
  });

  it('pulls nothing while the socket is full, and goes on when it has room', async () => {
    const { groups, socket, ackIds, consumer, ended } = await rig(10);
    await until('a pull', () => groups.pulls.length === 1);
    socket.waiting = 1_001;
    groups.add('g');
    await settleDown();
    groups.add('g');
    consumer.sweep(0);
    await settleDown();
    expect(socket.texts).toEqual([]);
    expect(groups.pulls).toHaveLength(1);
    socket.waiting = 0;
    consumer.wake();
    await until('both', () => ackIds().length === 2);
    consumer.end('leave');
    await ended;
  });

  it('gives back what its client would have heard of too late', async () => {
    const { groups, socket, consumer, clock, ended } = await rig(10);
    await until('a pull', () => groups.pulls.length === 1);
    socket.waiting = 1_001;
    groups.add('g');
    await until('it is taken', () => groups.numbers('g', 'out').length === 1);
    clock.nowMs = 5_001;
    consumer.sweep(5_001);
    await until('given back', () => groups.settlings.length === 1);
    expect(groups.settlings).toEqual([{ ackIds: ['a1.1'], verdict: { type: 'release' } }]);
    expect(socket.texts).toEqual([]);
    consumer.end('leave');
    await ended;
  });

  it('gives back all that is not settled when it is released, after the acks that came before', async () => {
    const { groups, ackIds, settle, answers, consumer, ended } = await rig(10);
    for (let i = 0; i < 3; i++) groups.add('g');
    await until('three', () => ackIds().length === 3);
    settle(['a2.1']);
    consumer.end('release');
    expect(await ended).toEqual({ error: undefined });
    expect(answers).toEqual([['done']]);
    expect(groups.settlings).toEqual([
      { ackIds: ['a2.1'], verdict: { type: 'ack' } },
      { ackIds: ['a1.1', 'a3.1'], verdict: { type: 'release' } },
    ]);
  });

  it('gives back only what was never written when the socket is gone', async () => {
    const { groups, socket, ackIds, consumer, ended } = await rig(10);
    groups.add('g');
    await until('the first', () => ackIds().length === 1);
    socket.waiting = 1_001;
    consumer.wake();
    await settleDown();
    groups.add('g');
    await settleDown();
    consumer.end('leave');
    await ended;
    expect(groups.numbers('g', 'out')).toEqual([1]);
    expect(groups.numbers('g', 'waiting')).toEqual([2]);
    expect(ackIds()).toEqual(['a1.1']);
  });

  it('settles together what asks for the same, and answers each message in its order', async () => {
    const { groups, ackIds, settle, answers, consumer, ended } = await rig(10);
    for (let i = 0; i < 6; i++) groups.add('g');
    await until('six', () => ackIds().length === 6);
    let open = (): void => undefined;
    groups.gate = new Promise((resolve) => {
      open = resolve;
    });
    settle(['a1.1']);
    settle(['a2.1']);
    settle(['a3.1', 'nothing']);
    settle(['a4.1'], { type: 'nack', delayMs: 5 });
    settle(['a5.1'], { type: 'nack', delayMs: 6 });
    settle(['a6.1', 'a1.1']);
    open();
    await until('all answers', () => answers.length === 6);
    expect(answers).toEqual([['done'], ['done'], ['done', 'invalid'], ['done'], ['done'], ['done', 'stale']]);
    expect(groups.settlings.map(({ ackIds: ids }) => ids.length)).toEqual([1, 3, 1, 1, 2]);
    consumer.end('leave');
    await ended;
  });

  it('takes no more to settle than it can keep', async () => {
    const { groups, settle, consumer, ended } = await rig(10);
    let open = (): void => undefined;
    groups.gate = new Promise((resolve) => {
      open = resolve;
    });
    const ids = Array.from({ length: 1_000 }, (_, i) => `x${i}`);
    // One call is under way, ten wait.
    const taken = Array.from({ length: 12 }, () => settle(ids));
    expect(taken).toEqual([...Array.from({ length: 11 }, () => true), false]);
    open();
    consumer.end('leave');
    await ended;
  });

  it('waits while the store is away, refuses what cannot be settled, and goes on', async () => {
    const { groups, ackIds, settle, answers, consumer, ended } = await rig(10);
    groups.add('g');
    await until('the first', () => ackIds().length === 1);
    groups.failure = new BrokerError('broker_unavailable', 'away');
    groups.wake();
    settle(['a1.1']);
    await until('an answer', () => answers.length === 1);
    expect(answers[0]).toBe(groups.failure);
    groups.add('g');
    await settleDown();
    expect(ackIds()).toHaveLength(1);
    groups.failure = undefined;
    consumer.sweep(1_000);
    await until('the second', () => ackIds().length === 2);
    settle(['a1.1']);
    await until('an answer', () => answers.length === 2);
    expect(answers[1]).toEqual(['done']);
    consumer.end('leave');
    await ended;
  });

  it.each([new BrokerError('not_found', 'gone'), new TypeError('unplanned')])(
    'ends by itself with %s',
    async (error) => {
      const { groups, table, ended } = await rig(10);
      await until('a pull', () => groups.pulls.length === 1);
      expect(table).toMatchObject({ count: 1, isFull: true });
      if (error instanceof BrokerError) await groups.remove('g');
      else groups.failure = error;
      groups.wake();
      const { error: told } = await ended;
      if (error instanceof BrokerError) expect(told).toMatchObject({ code: 'not_found' });
      else expect(told).toBe(error);
      await table.ended();
      expect(table).toMatchObject({ count: 0, isFull: false });
    },
  );
});
