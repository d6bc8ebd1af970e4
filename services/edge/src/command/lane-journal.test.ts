import type { AttemptEnd, EndedCommand, SettleResult } from '@lapi-broker/lane';
import { BrokerError, type CommandId, type DeviceCode, type Epoch, type InstanceId } from '@lapi-broker/protocol';
import { createLog, createMetrics } from '@lapi-broker/telemetry';
import { expect, test } from 'vitest';
import { UNHEARD_REPEAT_MS } from '../limits.ts';
import { createEdgeMetrics } from '../metrics.ts';
import { LaneJournal } from './lane-journal.ts';

const BOUNDS = { ends: 3, bytes: 1_000, ageMs: 60_000 };
const HEARD = { ends: 2, bytes: 500, ageMs: 10_000 };
const TIMED_OUT: AttemptEnd = { kind: 'timed_out' };
const answered = (bytes: number): AttemptEnd => ({
  kind: 'answered',
  success: true,
  responseCode: 0,
  body: Buffer.alloc(bytes),
});

function rig() {
  const state = { isAway: false, nowMs: 0, tries: 0 };
  const taken: string[] = [];
  const heard: string[] = [];
  const told: EndedCommand[] = [];
  const take = async (id: CommandId): Promise<SettleResult> => {
    state.tries++;
    if (state.isAway) throw new BrokerError('broker_unavailable', 'away');
    taken.push(id);
    return { status: 'settled', ended: { id, state: 'timed_out', replyTo: 'who' as InstanceId }, late: false };
  };
  const journal = new LaneJournal({
    line: { settle: async (_code, id) => await take(id), giveBack: async (_code, id) => await take(id) },
    unheard: BOUNDS,
    heard: HEARD,
    monotonicMs: () => state.nowMs,
    ended: (command) => told.push(command),
    metrics: createEdgeMetrics(createMetrics('edge')),
    log: createLog({ service: 'edge', level: 'silent' }),
  });
  const settle = async (): Promise<void> => {
    await new Promise((resolve) => setImmediate(resolve));
  };
  return {
    state,
    taken,
    heard,
    told,
    journal,
    settle,
    report(id: string, end: AttemptEnd | 'not_written' = TIMED_OUT): void {
      journal.report({
        attempt: { code: 'DEVICE-1' as DeviceCode, id: id as CommandId, epoch: 1 as Epoch, attempt: 1 },
        end: end === 'not_written' ? undefined : end,
        heard: () => void heard.push(id),
      });
    },
    async pass(ms: number): Promise<void> {
      state.nowMs += ms;
      journal.look(state.nowMs);
      await settle();
    },
  };
}

test('an end that the store did not take is told again until it does, then whoever waits for it', async () => {
  const { state, taken, heard, told, journal, report, settle, pass } = rig();
  state.isAway = true;
  report('a');
  report('b', 'not_written');
  await settle();
  await pass(UNHEARD_REPEAT_MS);
  await pass(UNHEARD_REPEAT_MS - 1);
  expect([taken, heard, journal.size, state.tries]).toEqual([[], [], 2, 4]);
  state.isAway = false;
  await pass(UNHEARD_REPEAT_MS);
  expect([taken, heard, journal.size]).toEqual([['a', 'b'], ['a', 'b'], 0]);
  expect(told.map(({ id }) => id)).toEqual(['a', 'b']);
});

test('what waits for the store is bounded in number, bytes and time; the oldest goes first and is given up', async () => {
  const { state, heard, journal, report, settle, pass } = rig();
  state.isAway = true;
  for (let i = 0; i <= BOUNDS.ends; i++) report(`n${i}`);
  await settle();
  expect([journal.size, heard]).toEqual([BOUNDS.ends, ['n0']]);
  report('large', answered(BOUNDS.bytes - 1));
  await settle();
  expect(heard).toEqual(['n0', 'n1']);
  report('straw', answered(2));
  await settle();
  expect([journal.size, heard.at(-1)]).toEqual([1, 'large']);
  await pass(BOUNDS.ageMs);
  expect([journal.size, heard.at(-1)]).toEqual([0, 'straw']);
});

test('a stop tells the store once more what it has not heard, then lets go', async () => {
  const { state, taken, heard, journal, report, settle } = rig();
  state.isAway = true;
  report('a');
  await settle();
  state.isAway = false;
  report('b');
  await journal.stop();
  expect(taken).toEqual(['b', 'a']);
  state.isAway = true;
  report('c');
  await journal.stop();
  expect([taken, heard, journal.size]).toEqual([['b', 'a'], ['b', 'a', 'c'], 0]);
});

test('a store that may have fallen back is told again what it had taken lately, and whoever waited hears it once (I4)', async () => {
  const { state, taken, heard, journal, report, settle, pass } = rig();
  report('a');
  report('b', 'not_written');
  await settle();
  expect([taken, heard]).toEqual([
    ['a', 'b'],
    ['a', 'b'],
  ]);
  journal.tellAgain();
  state.isAway = true;
  await pass(0);
  expect(taken).toHaveLength(2);
  state.isAway = false;
  await pass(UNHEARD_REPEAT_MS);
  expect([taken, heard, journal.size]).toEqual([['a', 'b', 'a', 'b'], ['a', 'b'], 0]);
  // It may fall back once more.
  journal.tellAgain();
  await pass(0);
  expect(taken).toHaveLength(6);
});

test('what the store has taken is remembered within bounds of number, bytes and time', async () => {
  const { taken, journal, report, settle, pass } = rig();
  const again = async (): Promise<string[]> => {
    taken.length = 0;
    journal.tellAgain();
    await pass(0);
    return [...taken];
  };
  for (let i = 0; i <= HEARD.ends; i++) report(`n${i}`);
  await settle();
  expect(await again()).toEqual(['n1', 'n2']);
  report('large', answered(HEARD.bytes));
  await settle();
  expect(await again()).toEqual(['n2', 'large']);
  report('straw', answered(1));
  await settle();
  expect(await again()).toEqual(['straw']);
  await pass(HEARD.ageMs);
  expect(await again()).toEqual([]);
});
