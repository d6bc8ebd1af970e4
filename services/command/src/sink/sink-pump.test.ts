import { waitFor } from '@lapi-broker/fixture';
import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import type { Sink, SinkConnection, SinkMessage, SinkResult } from '@lapi-broker/sink';
import { afterEach, describe, expect, test } from 'vitest';
import { FakeGroups } from '../testing/fake-groups.ts';
import { SinkPump, type SinkPumpParts } from './sink-pump.ts';

const GROUP = 'sink:s';
const DEADLINE_MS = 10_000;

/** A message broker whose answers are chosen by the test. */
class FakeSink implements Sink {
  /** Of confirmed messages, in their order. */
  readonly stored: SinkMessage[] = [];
  connects = 0;
  away: string | undefined;
  answer: (message: SinkMessage) => SinkResult = () => ({ status: 'confirmed' });
  /** While it is set, nothing is answered. */
  gate: Promise<void> | undefined;
  publishing = 0;
  lose: (reason: string) => void = () => undefined;

  async connect(): Promise<SinkConnection> {
    this.connects += 1;
    if (this.away !== undefined) throw new Error(this.away);
    const lost = new Promise<string>((resolve) => {
      this.lose = resolve;
    });
    return {
      lost,
      publish: async (messages) => {
        this.publishing += 1;
        const ended = await Promise.race([this.gate, lost]);
        this.publishing -= 1;
        if (ended !== undefined) return messages.map(() => ({ status: 'unconfirmed', reason: ended }));
        return messages.map((message) => {
          const result = this.answer(message);
          if (result.status === 'confirmed') this.stored.push(message);
          return result;
        });
      },
      close: async () => this.lose('closed'),
    };
  }
}

const pumps: SinkPump[] = [];
afterEach(async () => {
  await Promise.all(pumps.splice(0).map((pump) => pump.stop()));
});

async function rig(parts: Partial<SinkPumpParts> = {}, groups = new FakeGroups()) {
  const sink = new FakeSink();
  const told: string[] = [];
  const results: string[] = [];
  const pump = new SinkPump({
    sinkName: 's',
    filter: { kinds: ['alarm.*'] },
    start: { from: 'now' },
    groups,
    sink,
    meter: {
      published: (statuses) => results.push(...statuses),
      connected: () => undefined,
      storeFailed: () => results.push('store_failed'),
    },
    log: { info: (_, event) => told.push(event), warn: (_, event) => told.push(event) },
    random: () => 0.5,
    monotonicMs: () => performance.now(),
    limits: { pauseMs: { first: 1, most: 2 }, refusedMs: { first: 1, most: 2 }, batch: 10 },
    ...parts,
  });
  pumps.push(pump);
  pump.start();
  await waitFor(() => groups.groups.has(GROUP), { deadlineMs: DEADLINE_MS, what: 'the group' });
  return { groups, sink, pump, told, results };
}

const done = (groups: FakeGroups, count: number) =>
  waitFor(() => groups.numbers(GROUP, 'done').length === count, { deadlineMs: DEADLINE_MS, what: `${count} done` });

/** All that the group was told, by verdict. */
const verdicts = (groups: FakeGroups, type: string) =>
  groups.settlings.filter(({ verdict }) => verdict.type === type).flatMap(({ ackIds }) => ackIds);

describe('a pump', () => {
  test('acknowledges what the broker has confirmed, events and gaps', async () => {
    const { groups, sink, told } = await rig();
    for (let i = 0; i < 50; i++) groups.add(GROUP, { code: `cam-${i}` as DeviceCode });
    groups.addGap(GROUP, { shard: 1, from: '01-1-1', to: '01-5-5', count: 3 });
    await done(groups, 51);
    expect(sink.stored).toHaveLength(51);
    expect(new Set(sink.stored.map(({ id }) => id)).size).toBe(51);
    expect(sink.stored.find(({ type }) => type === 'gap')?.id).toBe('gap:01-1-1:01-5-5');
    expect(told).toEqual(['sink.working']);
    expect(verdicts(groups, 'nack')).toEqual([]);
  });

  test('makes its group where there is none, with the filter that is set, and changes one of another filter', async () => {
    const { groups, sink } = await rig();
    expect((await groups.get(GROUP)).filter).toEqual({ kinds: ['alarm.*'] });
    expect(await groups.list('sink')).toHaveLength(1);
    await groups.change(GROUP, { filter: { kinds: ['old'] } });
    sink.lose('gone');
    await waitFor(async () => (await groups.get(GROUP)).filter.kinds?.[0] === 'alarm.*', {
      deadlineMs: DEADLINE_MS,
      what: 'the filter',
    });
    await groups.remove(GROUP);
    await waitFor(() => groups.groups.has(GROUP), { deadlineMs: DEADLINE_MS, what: 'the group again' });
  });

  test('a broker that is away wears out no attempts, is told once, and gets everything when it is back', async () => {
    const { groups, sink, told } = await rig();
    groups.add(GROUP);
    await done(groups, 1);
    sink.away = 'connection refused';
    sink.answer = () => ({ status: 'unconfirmed', reason: 'connection refused' });
    for (let i = 0; i < 20; i++) groups.add(GROUP);
    await waitFor(() => sink.connects > 120, { deadlineMs: DEADLINE_MS, what: 'many attempts' });
    expect(told).toEqual(['sink.working', 'sink.away']);
    sink.away = undefined;
    sink.answer = () => ({ status: 'confirmed' });
    await done(groups, 21);
    expect(told).toEqual(['sink.working', 'sink.away', 'sink.working']);
    expect(verdicts(groups, 'nack')).toEqual([]);
  });

  test('so does one that is there and takes nothing', async () => {
    const { groups, sink, told } = await rig();
    sink.answer = () => ({ status: 'unavailable', reason: 'no stream' });
    for (let i = 0; i < 20; i++) groups.add(GROUP);
    await waitFor(() => sink.connects > 120, { deadlineMs: DEADLINE_MS, what: 'many connections' });
    expect(told).toEqual(['sink.away']);
    sink.answer = () => ({ status: 'confirmed' });
    await done(groups, 20);
    expect(verdicts(groups, 'nack')).toEqual([]);
  });

  test('a message that the broker refuses waits, and does not hold up the others', async () => {
    const { groups, sink, told } = await rig();
    const bad = groups.add(GROUP);
    sink.answer = ({ id }) => (id === bad ? { status: 'refused', reason: 'not this one' } : { status: 'confirmed' });
    for (let i = 0; i < 30; i++) groups.add(GROUP);
    await done(groups, 30);
    expect(sink.connects).toBe(1);
    expect(told.filter((event) => event === 'sink.refused')).toHaveLength(1);
    // The group of this test knows no delays; its bound of attempts ends the rounds.
    await waitFor(() => groups.numbers(GROUP, 'dead').length === 1, { deadlineMs: DEADLINE_MS, what: 'a dead letter' });
  });

  test('what was refused to the end is tried again when a process starts', async () => {
    const groups = new FakeGroups();
    const { sink, pump } = await rig({}, groups);
    sink.answer = () => ({ status: 'refused', reason: 'not now' });
    groups.add(GROUP);
    await waitFor(() => groups.numbers(GROUP, 'dead').length === 1, { deadlineMs: DEADLINE_MS, what: 'a dead letter' });
    await pump.stop();
    await rig({}, groups);
    await done(groups, 1);
  });

  test('an event that is too large is announced in its place', async () => {
    const { groups, sink, results } = await rig();
    sink.answer = ({ type, kind }) =>
      type === 'event' && kind === 'large' ? { status: 'too_large', reason: 'size' } : { status: 'confirmed' };
    const id = groups.add(GROUP, { kind: 'large' });
    groups.add(GROUP);
    await done(groups, 2);
    expect(sink.stored.find(({ type }) => type === 'omitted')?.id).toBe(id);
    expect(results.toSorted((a, b) => a.localeCompare(b))).toEqual(['confirmed', 'omitted']);
  });

  test('goes on by itself when the store was away', async () => {
    const { groups, results } = await rig();
    groups.failure = new BrokerError('broker_unavailable', 'away');
    groups.wake();
    await waitFor(() => results.includes('store_failed'), { deadlineMs: DEADLINE_MS, what: 'a failure' });
    groups.failure = undefined;
    groups.add(GROUP);
    await done(groups, 1);
  });

  test('has no more under way than its bound', async () => {
    const { groups, sink } = await rig({ limits: { pulls: 3, batch: 10, pauseMs: { first: 1, most: 2 } } });
    let open: () => void = () => undefined;
    sink.gate = new Promise((resolve) => {
      open = resolve;
    });
    for (let i = 0; i < 100; i++) groups.add(GROUP);
    await waitFor(() => sink.publishing === 3, { deadlineMs: DEADLINE_MS, what: 'three batches' });
    expect(groups.numbers(GROUP, 'out')).toHaveLength(30);
    open();
    await done(groups, 100);
  });

  test('a drain takes nothing more and waits for what the broker has', async () => {
    const { groups, sink, pump } = await rig();
    let open: () => void = () => undefined;
    sink.gate = new Promise((resolve) => {
      open = resolve;
    });
    groups.add(GROUP);
    await waitFor(() => sink.publishing === 1, { deadlineMs: DEADLINE_MS, what: 'a publish' });
    const drained = pump.drain();
    groups.add(GROUP);
    open();
    await drained;
    expect(groups.numbers(GROUP, 'done')).toHaveLength(1);
    expect(groups.numbers(GROUP, 'waiting')).toHaveLength(1);
  });

  test('a stop gives back what is not confirmed, as if never tried', async () => {
    const { groups, sink, pump } = await rig();
    sink.gate = new Promise(() => undefined);
    for (let i = 0; i < 5; i++) groups.add(GROUP);
    await waitFor(() => groups.numbers(GROUP, 'out').length === 5, { deadlineMs: DEADLINE_MS, what: 'events out' });
    await Promise.all([pump.stop(), pump.stop()]);
    expect(groups.numbers(GROUP, 'waiting')).toHaveLength(5);
    expect(verdicts(groups, 'release')).toHaveLength(5);
    expect(verdicts(groups, 'nack')).toEqual([]);
  });
});
