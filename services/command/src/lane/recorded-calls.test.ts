import type { CommandRecord, DirectEnd, SettleResult, SubmitResult } from '@lapi-broker/lane';
import { BrokerError, type CommandId, type DeviceCode } from '@lapi-broker/protocol';
import { afterEach, beforeEach, describe, expect, it, vi } from 'vitest';
import type { CommandEnd, CommandError } from '../dispatch/dispatch.ts';
import type { LaneHints } from './hints.ts';
import type { Submitted } from './queued-commands.ts';
import { type CallOutcome, type RecordedCall, RecordedCalls } from './recorded-calls.ts';

beforeEach(() => {
  vi.useFakeTimers();
});
afterEach(() => {
  vi.useRealTimers();
});

const ID = '00aaaaaaaaaaaaaaaaaaaa' as CommandId;
const NOW_MS = 1_800_000_000_000;
const RECORD = { id: ID, state: 'succeeded', expiresAtMs: NOW_MS + 15_000 } as CommandRecord;
const ANSWERED: CommandEnd = { status: 'answered', success: true, responseCode: 0, body: Buffer.from('{}') };
const refused = (error: CommandError, written: boolean): CommandEnd => ({
  status: 'refused',
  error,
  written,
  detail: '',
});
const AWAY = new BrokerError('broker_unavailable', 'away');

function fixture(end: CommandEnd) {
  const settled: DirectEnd[] = [];
  const state = {
    calls: 0,
    nowMs: NOW_MS,
    times: {},
    submitted: { status: 'accepted', id: ID, state: 'sent', record: RECORD } as Submitted,
    queued: { status: 'accepted', state: 'queued', owner: undefined, timerAtMs: undefined, ended: [] } as SubmitResult,
    queueings: 0,
    away: false,
    confirmed: true,
  };
  const hints = { tell: () => undefined } as unknown as LaneHints; // the one method it uses
  const calls = new RecordedCalls({
    commands: {
      submitAs: async () => state.submitted,
      noteAccepted: () => undefined,
      read: async () => RECORD,
    },
    intake: {
      settleDirect: async (_code, _id, how): Promise<SettleResult> => {
        if (state.away) throw AWAY;
        settled.push(how);
        const to = how.kind === 'answered' ? 'succeeded' : how.kind === 'refused' ? 'failed' : 'timed_out';
        return { status: 'settled', ended: { id: ID, state: to, replyTo: undefined }, late: false };
      },
      queueDirect: async () => {
        if (state.away) throw AWAY;
        state.queueings += 1;
        return state.queued;
      },
    },
    dispatch: {
      call: async ({ timeoutMs, connectTimeoutMs }) => {
        state.calls += 1;
        state.times = { timeoutMs, connectTimeoutMs };
        return end;
      },
    },
    hints,
    waiters: { whenEnded: async () => undefined },
    lane: { commands: 5, bytes: 100 },
    time: { known: true, nowMs: () => state.nowMs },
    confirm: async () => state.confirmed,
  });
  const call = (mode: RecordedCall['mode'], times: Partial<RecordedCall> = {}): Promise<CallOutcome> =>
    calls.call({
      mode,
      connectTimeoutMs: 0,
      withdrawn: () => false,
      code: 'CAM' as DeviceCode,
      method: 'PUT',
      url: '/LAPI/V1.0/X',
      body: Buffer.alloc(0),
      lane: 'normal',
      timeoutMs: 1_000,
      expires: { afterMs: 1_000 },
      maxAttempts: 1,
      backoffMs: 1_000,
      keyId: 'k',
      awaited: true,
      ...times,
    });
  return { settled, state, calls, call };
}

it.each<[CommandEnd, string]>([
  [ANSWERED, 'answered'],
  [refused('timeout', true), 'timed_out'],
  [refused('outcome_unknown', true), 'lost'],
  [refused('device_busy', false), 'refused'],
  [refused('timeout_not_sent', false), 'refused'],
])('a direct call ends in its record as it ended: %o', async (end, kind) => {
  const { settled, state, call } = fixture(end);
  expect(await call('direct')).toMatchObject({ status: 'ended', id: ID, end });
  expect(settled).toMatchObject([{ kind }]);
  expect(state.queueings).toBe(0);
});

it('the end of a direct call is told again until a replica has it, so that a failover does not make it a guess (I4)', async () => {
  const { settled, state, calls, call } = fixture(ANSWERED);
  state.confirmed = false;
  expect(await call('direct')).toMatchObject({ status: 'ended', state: 'succeeded' });
  await vi.waitFor(() => expect(settled.length).toBeGreaterThan(1), { timeout: 10_000 });
  state.confirmed = true;
  const told = settled.length;
  await vi.waitFor(() => expect(settled.length).toBe(told + 1), { timeout: 10_000 });
  calls.stop();
  expect(settled.every(({ kind }) => kind === 'answered')).toBe(true);
});

describe('direct-then-queue', () => {
  it.each<CommandError>(['device_offline', 'device_busy', 'node_draining', 'timeout_not_sent', 'broker_unavailable'])(
    'what was not written because of %s waits in its lane',
    async (error) => {
      const { settled, call } = fixture(refused(error, false));
      expect(await call('direct-then-queue')).toMatchObject({
        status: 'queued',
        id: ID,
        record: { state: 'queued', attempts: 0 },
      });
      expect(settled).toEqual([]);
    },
  );

  it.each<[CommandError, boolean]>([
    ['timeout', true],
    ['outcome_unknown', true],
    ['broker_unavailable', true],
    ['request_too_large', false],
    ['device_unknown', false],
  ])('%s, written %s, never enters a lane (I7)', async (error, written) => {
    const { state, settled, call } = fixture(refused(error, written));
    expect(await call('direct-then-queue')).toMatchObject({ status: 'ended' });
    expect(state.queueings).toBe(0);
    expect(settled).toHaveLength(1);
  });

  it('without a replica that has it, nobody is told that it waits', async () => {
    const { state, call, calls } = fixture(refused('device_offline', false));
    state.confirmed = false;
    expect(await call('direct-then-queue')).toMatchObject({ error: 'broker_unavailable', mayExist: true });
    state.confirmed = true;
    state.away = true;
    expect(await call('direct-then-queue')).toMatchObject({ error: 'broker_unavailable', mayExist: true });
    calls.stop();
  });

  it('is neither written nor awaited beyond its deadline: the lane waits for the device in its place (I4)', async () => {
    const { state, call } = fixture(refused('device_offline', false));
    const asked = { timeoutMs: 10_000, connectTimeoutMs: 8_000 };
    await call('direct-then-queue', asked);
    expect(state.times).toEqual({ timeoutMs: 10_000, connectTimeoutMs: 5_000 });
    state.nowMs += 14_000;
    await call('direct-then-queue', asked);
    expect(state.times).toEqual({ timeoutMs: 1_000, connectTimeoutMs: 0 });
    state.nowMs += 1_000;
    state.queued = { status: 'expired' };
    expect(await call('direct-then-queue', asked)).toMatchObject({ status: 'ended', state: 'expired' });
    expect(state.calls).toBe(2);
  });

  it('what ended before it could wait is answered as it ended', async () => {
    const { state, call } = fixture(refused('device_offline', false));
    state.queued = { status: 'repeated', id: ID, state: 'cancelled' };
    expect(await call('direct-then-queue')).toEqual({ status: 'queued', id: ID, record: RECORD });
  });

  it('a full lane is named', async () => {
    const { state, call } = fixture(refused('device_offline', false));
    state.queued = { status: 'lane_full', limit: 'commands' };
    expect(await call('direct-then-queue')).toMatchObject({ status: 'refused', error: 'lane_full' });
  });
});

it('what was made before is not made again: the record is the answer', async () => {
  const { state, call } = fixture(ANSWERED);
  state.submitted = { status: 'repeated', id: ID, state: 'sent' };
  expect(await call('direct')).toEqual({ status: 'repeated', id: ID, record: RECORD });
  expect(state.calls).toBe(0);
});

it('what was refused is not called', async () => {
  const { state, call } = fixture(ANSWERED);
  state.submitted = { status: 'refused', error: 'broker_unavailable', detail: 'away' };
  expect(await call('direct')).toMatchObject({ status: 'refused' });
  expect(state.calls).toBe(0);
});

it('an end that the store does not take is told to the caller, and recorded when the store is back', async () => {
  const { settled, state, call } = fixture(ANSWERED);
  state.away = true;
  expect(await call('direct')).toMatchObject({ status: 'ended', state: 'succeeded', end: ANSWERED });
  await vi.advanceTimersByTimeAsync(1_000);
  expect(settled).toEqual([]);
  state.away = false;
  await vi.advanceTimersByTimeAsync(500);
  expect(settled).toMatchObject([{ kind: 'answered' }]);
  expect(vi.getTimerCount()).toBe(0);
});

it('a stop gives up what the store does not take', async () => {
  const { state, call, calls } = fixture(ANSWERED);
  state.away = true;
  await call('direct');
  calls.stop();
  await vi.advanceTimersByTimeAsync(0);
  expect(vi.getTimerCount()).toBe(0);
});
