import type {
  CancelResult,
  CommandRecord,
  EndedCommand,
  LaneIntake,
  NewCommand,
  SubmitResult,
} from '@lapi-broker/lane';
import {
  BrokerError,
  type CommandId,
  type DeviceCode,
  type Epoch,
  type InstanceId,
  type NodeId,
} from '@lapi-broker/protocol';
import { beforeEach, describe, expect, it } from 'vitest';
import type { LaneHints } from './hints.ts';
import type { QueuedRequest } from './new-command.ts';
import { QueuedCommands } from './queued-commands.ts';
import { Waiters } from './waiters.ts';

const REQUEST: QueuedRequest = {
  code: 'CAM' as DeviceCode,
  method: 'PUT',
  url: '/LAPI/V1.0/X',
  body: Buffer.from('{"a":1}'),
  lane: 'urgent',
  timeoutMs: 10_000,
  expires: { afterMs: 60_000 },
  maxAttempts: 1,
  backoffMs: 1_000,
  keyId: 'key-1',
  awaited: false,
};
const OWNER = { node: 'e.1' as NodeId, epoch: 1 as Epoch };
const ACCEPTED: SubmitResult = { status: 'accepted', state: 'queued', owner: OWNER, timerAtMs: undefined, ended: [] };
const ENDED = {
  ...REQUEST,
  id: '03aaaaaaaaaaaaaaaaaaaa' as CommandId,
  state: 'timed_out',
  executed: 'maybe',
} as unknown as CommandRecord; // what is left out is not read

const NO_ROOM = { commands: 0, bytes: 0 };

const submitted: NewCommand[] = [];
const hinted: unknown[] = [];
const told: EndedCommand[] = [];
const results: string[] = [];
const withdrawn: unknown[] = [];
const limits: unknown[] = [];
const state = {
  result: ACCEPTED as SubmitResult | Error,
  cancelled: { status: 'cancelled', ended: [] } as CancelResult,
  record: ENDED as CommandRecord | undefined,
  confirmed: true,
  full: false,
  known: true,
  waiting: 0,
};
const INITIAL = { ...state };

beforeEach(() => {
  Object.assign(state, INITIAL);
  for (const list of [submitted, hinted, told, results, withdrawn, limits]) list.length = 0;
});

const intake: Partial<LaneIntake> = {
  submit: async (command, room) => {
    submitted.push(command);
    limits.push(room);
    if (state.result instanceof Error) throw state.result;
    return state.result;
  },
  settleDirect: async (_code, id, end) => {
    withdrawn.push(end);
    return { status: 'settled', late: false, ended: { id, state: 'failed', replyTo: undefined } };
  },
  cancel: async () => state.cancelled,
  read: async () => state.record,
  readBody: async () => Buffer.from('{"kept":1}'),
};

const hints: Partial<LaneHints> = {
  send: (code, { owner }, wake) => hinted.push({ code, owner, wake }),
  tell: (ended) => told.push(...ended),
};

const commands = new QueuedCommands({
  intake: intake as LaneIntake,
  keyspace: { shardOf: () => 3, device: (code) => `device:${code}` },
  time: {
    get known() {
      return state.known;
    },
    nowMs: () => 1_000_000,
  },
  instance: 'c1' as InstanceId,
  confirm: async (key) => key === 'device:CAM' && state.confirmed,
  hints: hints as LaneHints,
  waiters: new Waiters({
    read: async () => undefined,
    readStates: async () => [],
    monotonicMs: () => 0,
    limit: 1,
  }),
  storeFull: () => state.full,
  waiting: {
    get value() {
      return state.waiting;
    },
    add: () => {
      state.waiting += 1;
    },
  },
  limits: { lane: { commands: 5, bytes: 100 }, waitingCommands: 2 },
  random: () => 'z'.repeat(20),
  onSubmitted: (result) => results.push(result),
});

describe('submit', () => {
  it('mints an id that names the shard, and tells the owner', async () => {
    expect(await commands.submit(REQUEST)).toMatchObject({
      status: 'accepted',
      id: `03${'z'.repeat(20)}`,
      record: { state: 'queued', acceptedAtMs: 1_000_000, expiresAtMs: 1_060_000, lane: 'urgent' },
    });
    expect(hinted).toEqual([{ code: 'CAM', owner: OWNER, wake: true }]);
    expect(results).toEqual(['accepted']);
  });

  it('without a replica that has it nobody is told that it was accepted; it may exist, and its owner is told', async () => {
    state.confirmed = false;
    expect(await commands.submit(REQUEST)).toMatchObject({ error: 'broker_unavailable', mayExist: true });
    expect(hinted).toHaveLength(1);
    state.result = { status: 'repeated', id: ENDED.id, state: 'queued' };
    expect(await commands.submit(REQUEST)).toMatchObject({ error: 'broker_unavailable', mayExist: true });
  });

  it('whether it exists after an error of the store is not known; a defect is thrown', async () => {
    state.result = new BrokerError('broker_unavailable', 'away');
    expect(await commands.submit(REQUEST)).toMatchObject({ error: 'broker_unavailable', mayExist: true });
    state.result = new BrokerError('internal', 'defect');
    await expect(commands.submit(REQUEST)).rejects.toThrow('defect');
  });

  it('of a direct call that was not confirmed nothing was sent', async () => {
    state.confirmed = false;
    state.result = { status: 'accepted', state: 'sent', owner: OWNER, timerAtMs: undefined, ended: [] };
    const refused = await commands.submitAs({ mode: 'direct', withinMs: 1_000 }, REQUEST);
    expect(refused).toMatchObject({ error: 'broker_unavailable' });
    expect(refused).not.toHaveProperty('mayExist');
    expect(hinted).toEqual([{ code: 'CAM', owner: OWNER, wake: false }]);
    expect(withdrawn).toEqual([{ kind: 'refused', reason: 'broker_unavailable' }]);
  });

  it('whoever comes again with a key is never told that nothing was sent while nobody can look (I4)', async () => {
    const mayExist = { error: 'broker_unavailable', mayExist: true };
    const again = () => commands.submitAs({ mode: 'direct', withinMs: 1_000 }, { ...REQUEST, idempotencyKey: 'k' });
    state.result = { status: 'late' };
    expect(await again()).toMatchObject(mayExist);
    state.result = new BrokerError('broker_unavailable', 'away');
    expect(await again()).toMatchObject(mayExist);
    state.confirmed = false;
    state.result = { status: 'repeated', id: ENDED.id, state: 'timed_out' };
    expect(await again()).toMatchObject(mayExist);
    expect(withdrawn).toEqual([]);
    state.known = false;
    expect(await again()).toMatchObject(mayExist);
  });

  it('before the time of the store is known nothing is accepted', async () => {
    state.known = false;
    expect(await commands.submit(REQUEST)).toMatchObject({ status: 'refused', error: 'broker_unavailable' });
    expect(submitted).toEqual([]);
  });

  it.each<[SubmitResult, string]>([
    [{ status: 'lane_full', limit: 'commands' }, 'lane_full'],
    [{ status: 'lane_full', limit: 'bytes' }, 'lane_full'],
    [{ status: 'key_conflict', id: ENDED.id }, 'key_conflict'],
    [{ status: 'device_unknown' }, 'device_unknown'],
    [{ status: 'expired' }, 'invalid_request'],
    [{ status: 'late' }, 'broker_unavailable'],
  ])('%o is refused as %s, and nothing may exist', async (result, error) => {
    state.result = result;
    const refused = await commands.submit(REQUEST);
    expect(refused).toMatchObject({ status: 'refused', error });
    expect(refused).not.toHaveProperty('mayExist');
    expect(hinted).toEqual([]);
    expect(results).toEqual([error]);
  });

  it('the installation holds so many waiting commands, counting those since the last count; direct calls go on', async () => {
    for (const status of ['accepted', 'accepted', 'refused'])
      expect(await commands.submit(REQUEST)).toMatchObject({ status });
    expect(results.at(-1)).toBe('rate_limited');
    const direct = (mode: 'direct' | 'direct-then-queue') => commands.submitAs({ mode, withinMs: 1_000 }, REQUEST);
    expect(await direct('direct-then-queue')).toMatchObject({ error: 'rate_limited' });
    expect(await direct('direct')).toMatchObject({ status: 'accepted' });
  });

  it('a full store refuses new commands only: one that was accepted under the same key is answered', async () => {
    state.full = true;
    const keyed = { ...REQUEST, idempotencyKey: 'k' };
    state.result = { status: 'repeated', id: ENDED.id, state: 'queued' };
    expect(await commands.submit(keyed)).toEqual({ status: 'repeated', id: ENDED.id, state: 'queued' });
    state.result = { status: 'lane_full', limit: 'commands' };
    expect(await commands.submit(keyed)).toMatchObject({ error: 'store_full' });
    expect(limits).toEqual([NO_ROOM, NO_ROOM]);
  });

  it('a full store refuses before it is asked', async () => {
    state.full = true;
    expect(await commands.submit(REQUEST)).toMatchObject({ error: 'store_full' });
    expect(submitted).toEqual([]);
  });
});

describe('cancel', () => {
  it('counts once a replica has it', async () => {
    expect(await commands.cancel(ENDED.id)).toEqual({ status: 'cancelled' });
    state.confirmed = false;
    await expect(commands.cancel(ENDED.id)).rejects.toMatchObject({ code: 'broker_unavailable' });
  });

  it('says what it is when it does not wait', async () => {
    state.cancelled = { status: 'not_queued', state: 'sent' };
    expect(await commands.cancel(ENDED.id)).toEqual({ status: 'not_queued', state: 'sent' });
    state.record = undefined;
    expect(await commands.cancel(ENDED.id)).toEqual({ status: 'not_found' });
  });
});

describe('retry', () => {
  const by = { keyId: 'key-2', ttlMs: 5_000, awaited: true };

  it('makes a new command of an ended one', async () => {
    expect(await commands.retry(ENDED.id, by)).toMatchObject({ status: 'accepted' });
    expect(submitted).toMatchObject([
      { method: 'PUT', url: REQUEST.url, lane: 'urgent', keyId: 'key-2', retryOf: ENDED.id, expiresAtMs: 1_005_000 },
    ]);
    expect(String(submitted[0]?.body)).toBe('{"kept":1}');
  });

  it('not of one that has not ended, or is gone', async () => {
    state.record = { ...ENDED, state: 'sent' };
    expect(await commands.retry(ENDED.id, by)).toEqual({ status: 'not_ended', state: 'sent' });
    state.record = undefined;
    expect(await commands.retry(ENDED.id, by)).toEqual({ status: 'not_found' });
    expect(submitted).toEqual([]);
  });
});
