/** What every lane store promises, as tests. A test names the guarantee and the rule. Written from the ports, not from the scripts: guards are
 *  tried at their limit and one beyond. Time is the store's own; a test that needs it to pass asks for milliseconds and waits for the state.
 *  Random interleavings are not tried here but by the model beside this file. */

import { waitFor } from '@lapi-broker/fixture';
import {
  type CommandId,
  type DeviceCode,
  type Epoch,
  type EventRecord,
  type InstanceId,
  type NodeId,
  newCommandId,
} from '@lapi-broker/protocol';
import type { Keyspace } from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { CommandRecord, LaneName, NewCommand } from '../command-record.ts';
import type {
  AttemptEnd,
  BeginResult,
  BegunCommand,
  LaneIntake,
  LaneLimits,
  LaneLine,
  SubmitResult,
} from '../lane-store.ts';

export interface LaneStoreHarness {
  readonly store: LaneIntake & LaneLine;
  readonly keyspace: Keyspace;
  provision(code: DeviceCode): Promise<void>;
  /** Makes a node the owner, as a claim does. */
  own(code: DeviceCode, node: NodeId, epoch: Epoch): Promise<void>;
  /** The session is over; the row keeps its epoch. */
  disown(code: DeviceCode): Promise<void>;
  /** No longer provisioned; the row keeps its epoch and its owner. */
  remove(code: DeviceCode): Promise<void>;
  /** Events of this device, oldest first. */
  events(code: DeviceCode): Promise<readonly EventRecord[]>;
  /** Which keys of an open lane there are, in alphabetical order: clock, due, flight, lane, normal, urgent. */
  traces(code: DeviceCode): Promise<readonly string[]>;
  /** The clock of the store. */
  nowMs(): Promise<number>;
  close(): Promise<void>;
}

const LIMITS: LaneLimits = { commands: 100, bytes: 1_000_000 };
const FOREVER_MS = 8.64e15;
const HOUR_MS = 3_600_000;
/** Long enough that a busy machine gets through what a test does before it, short enough to wait for. */
const SOON_MS = 250;
const OK: AttemptEnd = { kind: 'answered', success: true, responseCode: 0, body: Buffer.from('{"Response":{}}') };
const REFUSAL: AttemptEnd = { kind: 'answered', success: false, responseCode: 7, body: Buffer.from('{"no":7}') };
const SILENCE: AttemptEnd = { kind: 'timed_out' };
const LOSS: AttemptEnd = { kind: 'lost', reason: 'session_lost' };
const FOREIGN_EPOCH = 4_000_000_000_000_000 as Epoch;

let names = 0;
/** Falls from call to call, so that nothing is in order by its id. */
const random = (): string => (36 ** 10 - ++names).toString(36).padStart(20, '0');
const newCode = (): DeviceCode => `DEVICE-${++names}` as DeviceCode;
const newNode = (): NodeId => `edge.${String(++names).padStart(9, '0')}` as NodeId;
const newEpoch = (): Epoch => (1_700_000_000_000_000 + ++names) as Epoch;
const hashOf = (word: string): string => Buffer.from(word).toString('hex').padStart(64, '0');

export function laneStoreContract(name: string, open: () => Promise<LaneStoreHarness>): void {
  describe(`LaneStore: ${name}`, () => {
    let at: LaneStoreHarness;
    let store: LaneIntake & LaneLine;
    beforeAll(async () => {
      at = await open();
      store = at.store;
    });
    afterAll(async () => {
      await at.close();
    });

    /** A device with an owner, and the short words of the tests for it. */
    async function device() {
      const [code, node, epoch] = [newCode(), newNode(), newEpoch()];
      await at.provision(code);
      await at.own(code, node, epoch);
      const command = async (change: Partial<NewCommand> = {}): Promise<NewCommand> => ({
        id: newCommandId(at.keyspace.shardOf(code), random()),
        code,
        mode: 'queue',
        lane: 'normal',
        method: 'PUT',
        url: '/LAPI/V1.0/System/Time',
        body: Buffer.from('{"Time":1}'),
        timeoutMs: 10_000,
        expiresAtMs: (await at.nowMs()) + HOUR_MS,
        directUntilMs: undefined,
        notBeforeMs: undefined,
        maxAttempts: 1,
        backoffMs: 1_000,
        coalesceKey: undefined,
        idempotency: undefined,
        keyId: 'key-1',
        job: undefined,
        retryOf: undefined,
        replyTo: undefined,
        ...change,
      });
      const add = async (change: Partial<NewCommand> = {}, limits: LaneLimits = LIMITS): Promise<CommandId> => {
        const request = await command(change);
        const result = await store.submit(request, limits, FOREVER_MS);
        if (result.status !== 'accepted') throw new Error(`expected accepted, got ${JSON.stringify(result)}`);
        return request.id;
      };
      /** The ids, in the order of acceptance. */
      const addAll = async (count: number, change: Partial<NewCommand> = {}): Promise<CommandId[]> => {
        const ids: CommandId[] = [];
        for (let i = 0; i < count; i++) ids.push(await add(change));
        return ids;
      };
      const begin = (change: Partial<Parameters<LaneLine['begin']>[0]> = {}): Promise<BeginResult> =>
        store.begin({ code, lane: 'normal', node, epoch, window: 1, notAfterMs: FOREVER_MS, ...change });
      const begun = async (change: Partial<Parameters<LaneLine['begin']>[0]> = {}): Promise<BegunCommand> => {
        const result = await begin(change);
        if (result.status !== 'begun') throw new Error(`expected begun, got ${JSON.stringify(result)}`);
        return result.command;
      };
      const record = async (id: CommandId): Promise<CommandRecord> => {
        const found = await store.read(id);
        if (found === undefined) throw new Error(`no record of ${id}`);
        return found;
      };
      const settle = (command: BegunCommand, end: AttemptEnd) =>
        store.settle(code, command.id, epoch, command.attempt, end);
      /** `command.*` kinds of one command, oldest first, without their family. */
      const kinds = async (id: CommandId): Promise<string[]> =>
        (await at.events(code))
          .filter((event) => eventOf(event).id === id)
          .map((event) => event.kind.slice('command.'.length));
      return { code, node, epoch, command, add, addAll, begin, begun, record, settle, kinds };
    }

    const until = (what: string, condition: () => Promise<boolean>): Promise<boolean> =>
      waitFor(condition, { deadlineMs: 5_000, what });
    const pass = async (ms: number): Promise<void> => {
      const end = (await at.nowMs()) + ms;
      await until(`${ms} ms to pass`, async () => (await at.nowMs()) > end);
    };
    const idsOf = (ended: readonly { readonly id: CommandId }[]): CommandId[] => ended.map(({ id }) => id);

    describe('submit', () => {
      test('an accepted command waits in its lane, and its record says all that was asked for', async () => {
        const { code, node, epoch, command, record, kinds } = await device();
        const retryOf = newCommandId(at.keyspace.shardOf(code), random());
        const before = await at.nowMs();
        const request = await command({
          lane: 'urgent',
          method: 'GET',
          url: '/LAPI/V1.0/Ä?a=1',
          body: Buffer.from('{"näme":"\u0001"}'),
          timeoutMs: 5_000,
          maxAttempts: 4,
          backoffMs: 700,
          coalesceKey: 'key:1',
          keyId: 'key-7',
          job: 'job-1',
          retryOf,
        });
        const result = await store.submit(request, LIMITS, FOREVER_MS);
        expect(result).toMatchObject({ status: 'accepted', state: 'queued', owner: { node, epoch }, ended: [] });
        const { body, idempotency, replyTo, directUntilMs, ...asked } = request;
        expect([idempotency, replyTo, directUntilMs]).toEqual([undefined, undefined, undefined]);
        const found = await record(request.id);
        expect(found).toMatchObject({ ...asked, state: 'queued', attempts: 0, late: false, reason: '' });
        expect(found.executed).toBeUndefined();
        expect(found.acceptedAtMs).toBeGreaterThanOrEqual(before);
        expect(found.acceptedAtMs).toBeLessThanOrEqual(await at.nowMs());
        expect([found.sentAtMs, found.epoch, found.endedAtMs, found.responseCode, found.response]).toEqual(
          new Array(5).fill(undefined),
        );
        expect(Buffer.from((await store.readBody(request.id)) ?? [])).toEqual(body);
        expect(await kinds(request.id)).toEqual(['queued']);
      });

      test('for a device without owner the command waits all the same, and the answer names nobody to wake', async () => {
        const { code, command, begin } = await device();
        await at.disown(code);
        const result = await store.submit(await command(), LIMITS, FOREVER_MS);
        expect(result).toMatchObject({ status: 'accepted', state: 'queued', owner: undefined });
        expect(await begin()).toEqual({ status: 'fenced' });
      });

      test('of an unknown device, after its deadline, or after notAfterMs nothing is kept (D7, I4)', async () => {
        const { code, command } = await device();
        const unknown = await command({ code: newCode() });
        const foreign = { ...unknown, id: newCommandId(at.keyspace.shardOf(unknown.code), random()) };
        expect(await store.submit(foreign, LIMITS, FOREVER_MS)).toEqual({ status: 'device_unknown' });
        const nowMs = await at.nowMs();
        const idempotency = { key: hashOf('k'), request: hashOf('r') };
        const over = await command({ expiresAtMs: nowMs, idempotency });
        expect(await store.submit(over, LIMITS, FOREVER_MS)).toEqual({ status: 'expired' });
        const late = await command({ idempotency });
        expect(await store.submit(late, LIMITS, nowMs - 1)).toEqual({ status: 'late' });
        for (const { id } of [foreign, over, late]) expect(await store.read(id)).toBeUndefined();
        expect(await at.events(code)).toEqual([]);
        expect(await at.traces(code)).toEqual([]);
        expect((await store.history(code, undefined, 10)).items).toEqual([]);
        expect((await store.submit(late, LIMITS, FOREVER_MS)).status).toBe('accepted');
      });

      test('a command with an id that exists is that command: a submit may run twice', async () => {
        const { command, begun, settle, kinds } = await device();
        const request = await command();
        await store.submit(request, LIMITS, FOREVER_MS);
        const again = () => store.submit(request, LIMITS, FOREVER_MS);
        expect(await again()).toEqual({ status: 'repeated', id: request.id, state: 'queued' });
        const out = await begun();
        expect(await again()).toEqual({ status: 'repeated', id: request.id, state: 'sent' });
        await settle(out, OK);
        expect(await again()).toEqual({ status: 'repeated', id: request.id, state: 'succeeded' });
        expect(await kinds(request.id)).toEqual(['queued', 'sent', 'succeeded']);
      });

      test('concurrent submits with one Idempotency-Key make one command (I4.3)', async () => {
        const { code, command } = await device();
        const idempotency = { key: hashOf('k'), request: hashOf('r') };
        const requests = await Promise.all(Array.from({ length: 20 }, () => command({ idempotency })));
        const results = await Promise.all(requests.map((each) => store.submit(each, LIMITS, FOREVER_MS)));
        const winner = requests[results.findIndex(({ status }) => status === 'accepted')] as NewCommand;
        expect(results.filter(({ status }) => status === 'accepted')).toHaveLength(1);
        for (const result of results.filter(({ status }) => status !== 'accepted'))
          expect(result).toEqual({ status: 'repeated', id: winner.id, state: 'queued' });
        expect((await store.history(code, undefined, 50)).items.map(({ id }) => id)).toEqual([winner.id]);
      });

      test('without room for any it still tells what was accepted before, of all modes', async () => {
        const { command } = await device();
        const none: LaneLimits = { commands: 0, bytes: 0 };
        for (const mode of ['queue', 'direct-then-queue'] as const) {
          const idempotency = { key: hashOf(mode), request: hashOf('r') };
          const request = await command({ mode, idempotency });
          expect(await store.submit(request, none, FOREVER_MS)).toEqual({ status: 'lane_full', limit: 'commands' });
          await store.submit(request, LIMITS, FOREVER_MS);
          const again = await command({ mode, idempotency });
          expect(await store.submit(again, none, FOREVER_MS)).toMatchObject({ status: 'repeated', id: request.id });
        }
      });

      test('one key with another request is a conflict that names the first command; each device has keys of its own (I4.3)', async () => {
        const [first, other] = [await device(), await device()];
        const idempotency = { key: hashOf('k'), request: hashOf('r') };
        const id = await first.add({ idempotency });
        const changed = await first.command({ idempotency: { ...idempotency, request: hashOf('else') } });
        expect(await store.submit(changed, LIMITS, FOREVER_MS)).toEqual({ status: 'key_conflict', id });
        expect(await store.read(changed.id)).toBeUndefined();
        await other.add({ idempotency });
        await store.cancel(first.code, id, FOREVER_MS);
        const again = await first.command({ idempotency });
        expect(await store.submit(again, LIMITS, FOREVER_MS)).toEqual({ status: 'repeated', id, state: 'cancelled' });
      });

      test('a lane takes as many commands as its limit; what is out or ended does not count, the other lane counts alone', async () => {
        const { code, command, add, begun, settle } = await device();
        const limits = { commands: 3, bytes: 1_000_000 };
        const ids = [await add({}, limits), await add({}, limits), await add({}, limits)];
        const idempotency = { key: hashOf('k'), request: hashOf('r') };
        const fourth = await command({ idempotency });
        const submit = (): Promise<SubmitResult> => store.submit(fourth, limits, FOREVER_MS);
        expect(await submit()).toEqual({ status: 'lane_full', limit: 'commands' });
        expect(await store.read(fourth.id)).toBeUndefined();
        await add({ lane: 'urgent' }, limits);
        const out = await begun();
        expect(out.id).toBe(ids[0]);
        // A refused command used up no key.
        expect((await submit()).status).toBe('accepted');
        const fifth = await command();
        expect(await store.submit(fifth, limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
        await settle(out, OK);
        expect(await store.submit(fifth, limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
        await store.cancel(code, ids[1] as CommandId, FOREVER_MS);
        expect((await store.submit(fifth, limits, FOREVER_MS)).status).toBe('accepted');
      });

      test('a command that waits for its notBefore counts as waiting', async () => {
        const { command, add } = await device();
        const limits = { commands: 2, bytes: 1_000_000 };
        await add({ notBeforeMs: (await at.nowMs()) + HOUR_MS / 2 }, limits);
        await add({}, limits);
        expect(await store.submit(await command(), limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
      });

      test('bodies and URLs of both lanes share one limit of bytes, exact to the byte', async () => {
        const { code, command, add } = await device();
        const limits = { commands: 100, bytes: 100 };
        const sized = (bytes: number) => ({
          url: '/LAPI/Ä',
          body: Buffer.alloc(bytes - Buffer.byteLength('/LAPI/Ä'), 'x'),
        });
        const first = await add({ ...sized(60) }, limits);
        const over = await command({ ...sized(41), lane: 'urgent' });
        expect(await store.submit(over, limits, FOREVER_MS)).toEqual({ status: 'lane_full', limit: 'bytes' });
        await add({ ...sized(40), lane: 'urgent' }, limits);
        expect(await store.submit(await command(sized(12)), limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
        await store.cancel(code, first, FOREVER_MS);
        await add(sized(60), limits);
        expect(await store.submit(await command(sized(12)), limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
      });

      test('bytes of what was begun, given back, retried and ended are counted right', async () => {
        const { command, add, begun, settle, code, epoch, begin } = await device();
        const limits = { commands: 100, bytes: 100 };
        const sized = (bytes: number) => ({
          url: '/x',
          body: Buffer.alloc(bytes - 2, 'x'),
          maxAttempts: 2,
          backoffMs: 1,
        });
        await add(sized(50), limits);
        const given = await begun();
        await store.giveBack(code, given.id, epoch, given.attempt);
        const next = await command(sized(51));
        expect(await store.submit(next, limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
        const first = await begun();
        await settle(first, SILENCE);
        expect(await store.submit(next, limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
        await until('the second attempt', async () => (await begin()).status === 'begun');
        await add(sized(100), limits);
        expect(await store.submit(await command(sized(3)), limits, FOREVER_MS)).toMatchObject({ status: 'lane_full' });
      });

      test('a newer command with the same coalesceKey ends the waiting one as superseded, and stands at the end', async () => {
        const { code, command, add, begun, record, kinds, settle } = await device();
        const replyTo = 'cmd.1' as InstanceId;
        const old = await add({ coalesceKey: 'ptz', replyTo });
        const between = await add();
        const newer = await command({ coalesceKey: 'ptz' });
        const limits = { ...LIMITS, commands: 2 };
        expect(await store.submit(newer, limits, FOREVER_MS)).toMatchObject({
          status: 'accepted',
          ended: [{ id: old, state: 'cancelled', replyTo }],
        });
        expect(await record(old)).toMatchObject({ state: 'cancelled', executed: 'no', reason: 'superseded' });
        expect(await kinds(old)).toEqual(['queued', 'cancelled']);
        const first = await begun();
        expect(first.id).toBe(between);
        await settle(first, OK);
        expect((await begun()).id).toBe(newer.id);
        // What is out is not replaced, nor what waits in the other lane or under another key.
        const [third, urgent, other] = [
          await add({ coalesceKey: 'ptz' }),
          await add({ coalesceKey: 'ptz', lane: 'urgent' }),
          await add({ coalesceKey: 'ptz:2' }),
        ];
        for (const id of [third, urgent, other]) expect((await record(id)).state).toBe('queued');
        expect((await record(newer.id)).state).toBe('sent');
        expect(await store.cancel(code, third, FOREVER_MS)).toMatchObject({ status: 'cancelled' });
        // A key whose command has ended replaces nothing.
        expect(await store.submit(await command({ coalesceKey: 'ptz' }), LIMITS, FOREVER_MS)).toMatchObject({
          ended: [],
        });
      });

      test('the number of waiting commands follows every change', async () => {
        const { code, add, addAll, begun, settle, epoch } = await device();
        const before = await store.waiting();
        const waiting = async (): Promise<number> => (await store.waiting()) - before;
        const [, second] = await addAll(3);
        await add({ notBeforeMs: (await at.nowMs()) + HOUR_MS / 2, coalesceKey: 'a' });
        expect(await waiting()).toBe(4);
        const out = await begun();
        expect(await waiting()).toBe(3);
        await store.giveBack(code, out.id, epoch, out.attempt);
        expect(await waiting()).toBe(4);
        await settle(await begun(), OK);
        await store.cancel(code, second as CommandId, FOREVER_MS);
        expect(await waiting()).toBe(2);
        await add({ coalesceKey: 'a' });
        expect(await waiting()).toBe(2);
      });
    });

    describe('begin', () => {
      test('hands out the commands of a lane in the order of acceptance, one at a time (I6)', async () => {
        const { addAll, begin, settle } = await device();
        const ids = await addAll(3);
        for (const id of ids) {
          const result = await begin();
          expect(result).toMatchObject({ status: 'begun', command: { id }, isLast: id === ids[2] });
          if (result.status !== 'begun') return;
          const out = result.command;
          expect(await begin()).toEqual({ status: 'busy', ended: [] });
          await settle(out, OK);
        }
        expect(await begin()).toEqual({ status: 'idle', nextMs: undefined, ended: [] });
      });

      test('with a window of three, three are out, and the next begins when one of them ends', async () => {
        const { addAll, begin, begun, settle } = await device();
        const ids = await addAll(5);
        const out = [await begun({ window: 3 }), await begun({ window: 3 }), await begun({ window: 3 })];
        expect(idsOf(out)).toEqual(ids.slice(0, 3));
        expect((await begin({ window: 3 })).status).toBe('busy');
        await settle(out[1] as BegunCommand, OK);
        expect((await begun({ window: 3 })).id).toBe(ids[3]);
        expect((await begin({ window: 3 })).status).toBe('busy');
        expect((await begin({ window: 1 })).status).toBe('busy');
      });

      test('the urgent lane does not wait for the normal one, nor the other way round', async () => {
        const { add, begin, begun } = await device();
        const normal = await add();
        const urgent = await add({ lane: 'urgent' });
        expect(await begun()).toMatchObject({ id: normal, lane: 'normal' });
        expect(await begun({ lane: 'urgent' })).toMatchObject({ id: urgent, lane: 'urgent' });
        expect((await begin({ lane: 'urgent' })).status).toBe('busy');
      });

      test('what is begun is everything that is to be written, and the record says who has it', async () => {
        const { epoch, add, begun, record, kinds } = await device();
        const body = Buffer.from([0x7b, 0x22, 0xff, 0x00, 0x22, 0x7d]);
        const before = await at.nowMs();
        const id = await add({ method: 'POST', url: '/LAPI/Ä', body, timeoutMs: 7_000 });
        const out = await begun();
        expect(out).toMatchObject({ id, lane: 'normal', method: 'POST', url: '/LAPI/Ä' });
        expect(Buffer.from(out.body)).toEqual(body);
        expect(out.leftMs).toBe(7_000);
        const found = await record(id);
        expect(found).toMatchObject({ state: 'sent', attempts: 1, epoch });
        expect(found.sentAtMs).toBeGreaterThanOrEqual(before);
        expect(await kinds(id)).toEqual(['queued', 'sent']);
      });

      test('an answer is never awaited beyond the deadline of the command (I4)', async () => {
        const { add, begun } = await device();
        await add({ timeoutMs: 60_000, expiresAtMs: (await at.nowMs()) + 20_000 });
        const { leftMs } = await begun();
        expect(leftMs).toBeGreaterThan(0);
        expect(leftMs).toBeLessThanOrEqual(20_000);
      });

      test('only the owner gets anything: another node, a lower or a higher epoch, nobody (I3)', async () => {
        const { code, node, epoch, add, begin, record } = await device();
        const id = await add();
        expect(await begin({ node: newNode() })).toEqual({ status: 'fenced' });
        expect(await begin({ epoch: (epoch - 1) as Epoch })).toEqual({ status: 'fenced' });
        expect(await begin({ epoch: (epoch + 1) as Epoch })).toEqual({ status: 'fenced' });
        await at.disown(code);
        expect(await begin()).toEqual({ status: 'fenced' });
        expect(await record(id)).toMatchObject({ state: 'queued', attempts: 0 });
        await at.own(code, node, epoch);
        expect((await begin()).status).toBe('begun');
      });

      test('after notAfterMs nothing is handed out (D7)', async () => {
        const { add, begin, record } = await device();
        const id = await add();
        expect(await begin({ notAfterMs: (await at.nowMs()) - 1 })).toEqual({ status: 'late' });
        expect(await record(id)).toMatchObject({ state: 'queued', attempts: 0 });
      });

      test('what expired is ended unsent and never handed out; the next one is (I4)', async () => {
        const { add, begun, begin, record, kinds } = await device();
        const soon = await add({ expiresAtMs: (await at.nowMs()) + SOON_MS, replyTo: 'cmd.1' as InstanceId });
        const next = await add();
        await pass(SOON_MS);
        const result = await begin();
        expect(result).toMatchObject({
          status: 'begun',
          command: { id: next },
          ended: [{ id: soon, state: 'expired', replyTo: 'cmd.1' }],
        });
        expect(await record(soon)).toMatchObject({ state: 'expired', executed: 'no', attempts: 0 });
        expect(await kinds(soon)).toEqual(['queued', 'expired']);
        await expect(begun()).rejects.toThrow('busy');
      });

      test('a notBefore command takes its place when it is due, behind those that were accepted until then', async () => {
        const { add, begin, begun, settle } = await device();
        const later = await add({ notBeforeMs: (await at.nowMs()) + SOON_MS });
        expect(await begin()).toMatchObject({ status: 'idle' });
        const first = await add();
        await pass(SOON_MS);
        const last = await add();
        const order: CommandId[] = [];
        for (let i = 0; i < 3; i++) {
          const out = await begun();
          order.push(out.id);
          await settle(out, OK);
        }
        expect(order).toEqual([first, later, last]);
      });

      test('commands that become due together take their places in the order of their times, then of acceptance', async () => {
        const { add, begun, settle } = await device();
        const dueMs = (await at.nowMs()) + SOON_MS;
        const second = await add({ notBeforeMs: dueMs });
        const third = await add({ notBeforeMs: dueMs });
        const first = await add({ notBeforeMs: dueMs - 1 });
        await pass(SOON_MS);
        const order: CommandId[] = [];
        for (let i = 0; i < 3; i++) {
          const out = await begun();
          order.push(out.id);
          await settle(out, OK);
        }
        expect(order).toEqual([first, second, third]);
      });
    });

    describe('settle', () => {
      test('a success ends a command as succeeded, executed, with the answer byte by byte', async () => {
        const { add, begun, settle, record, kinds, code } = await device();
        const id = await add({ replyTo: 'cmd.1' as InstanceId, job: 'job-9' });
        const body = Buffer.from([0x7b, 0x22, 0xff, 0x00, 0x22, 0x7d]);
        const result = await settle(await begun(), { kind: 'answered', success: true, responseCode: 0, body });
        expect(result).toEqual({
          status: 'settled',
          ended: { id, state: 'succeeded', replyTo: 'cmd.1' },
          late: false,
        });
        const found = await record(id);
        expect(found).toMatchObject({ state: 'succeeded', executed: 'yes', late: false, responseCode: 0 });
        expect(Buffer.from(found.response ?? [])).toEqual(body);
        expect(found.responseBytes).toBe(6);
        expect(found.endedAtMs).toBeGreaterThanOrEqual(found.sentAtMs ?? Number.POSITIVE_INFINITY);
        expect(await kinds(id)).toEqual(['queued', 'sent', 'succeeded']);
        const last = (await at.events(code)).at(-1) as EventRecord;
        expect(last).toMatchObject({ kind: 'command.succeeded', url: found.url, code });
        expect(eventOf(last)).toMatchObject({
          id,
          state: 'succeeded',
          lane: 'normal',
          attempt: 1,
          executed: 'yes',
          job: 'job-9',
          responseCode: 0,
        });
      });

      test('an error of the device is failed and executed, and is not tried again', async () => {
        const { add, begun, settle, record } = await device();
        const id = await add({ maxAttempts: 3 });
        expect(await settle(await begun(), REFUSAL)).toMatchObject({ status: 'settled', ended: { state: 'failed' } });
        expect(await record(id)).toMatchObject({
          state: 'failed',
          executed: 'yes',
          reason: 'device_error',
          responseCode: 7,
        });
      });

      test('silence is timed_out, a lost session is unknown, and both say maybe (I4)', async () => {
        const { addAll, begun, settle, record, kinds } = await device();
        const [silent, lost] = (await addAll(2)) as [CommandId, CommandId];
        await settle(await begun(), SILENCE);
        await settle(await begun(), LOSS);
        expect(await record(silent)).toMatchObject({ state: 'timed_out', executed: 'maybe' });
        expect(await record(lost)).toMatchObject({ state: 'unknown', executed: 'maybe', reason: 'session_lost' });
        expect(await kinds(silent)).toEqual(['queued', 'sent', 'timed_out']);
        expect(await kinds(lost)).toEqual(['queued', 'sent', 'unknown']);
      });

      test('a command that was refused unwritten is failed and certainly not executed', async () => {
        const { add, begun, settle, record } = await device();
        const id = await add({ maxAttempts: 3 });
        await settle(await begun(), { kind: 'refused', reason: 'request_too_large' });
        expect(await record(id)).toMatchObject({ state: 'failed', executed: 'no', reason: 'request_too_large' });
      });

      test('refused unwritten after an attempt that was written is maybe (I4)', async () => {
        const { add, begin, begun, settle, record } = await device();
        const id = await add({ maxAttempts: 3, backoffMs: 1 });
        await settle(await begun(), SILENCE);
        let result = await begin();
        await until('the second attempt', async () => {
          if (result.status !== 'begun') result = await begin();
          return result.status === 'begun';
        });
        if (result.status !== 'begun') return;
        await settle(result.command, { kind: 'refused', reason: 'request_too_large' });
        expect(await record(id)).toMatchObject({ state: 'failed', executed: 'maybe' });
      });

      test('another epoch, another attempt, a second end: nothing changes (I3)', async () => {
        const { code, epoch, add, begun, settle, record, kinds } = await device();
        const id = await add();
        const out = await begun();
        const wrong = [
          [epoch + 1, out.attempt],
          [epoch - 1, out.attempt],
          [epoch, out.attempt + 1],
          [epoch, out.attempt - 1],
        ] as const;
        for (const [e, attempt] of wrong) {
          for (const end of [OK, SILENCE, LOSS])
            expect(await store.settle(code, id, e as Epoch, attempt, end)).toEqual({ status: 'stale' });
          expect(await store.giveBack(code, id, e as Epoch, attempt)).toEqual({ status: 'stale' });
        }
        expect((await record(id)).state).toBe('sent');
        expect(await settle(out, OK)).toMatchObject({ status: 'settled' });
        for (const end of [OK, REFUSAL, SILENCE, LOSS]) expect(await settle(out, end)).toEqual({ status: 'stale' });
        expect(await record(id)).toMatchObject({ state: 'succeeded', executed: 'yes' });
        expect(await kinds(id)).toEqual(['queued', 'sent', 'succeeded']);
        const ghost = newCommandId(at.keyspace.shardOf(code), random());
        expect(await store.settle(code, ghost, epoch, 1, OK)).toEqual({ status: 'stale' });
        expect(await store.giveBack(code, ghost, epoch, 1)).toEqual({ status: 'stale' });
      });

      test('a repeatable command is tried again at its place, after a backoff that doubles, maxAttempts times (I6, I7)', async () => {
        const { addAll, begin, begun, settle, record, kinds } = await device();
        const [first, second] = (await addAll(2, { maxAttempts: 3, backoffMs: 20 })) as [CommandId, CommandId];
        let out = await begun();
        expect(await settle(out, SILENCE)).toEqual({ status: 'requeued', nextMs: 20 });
        expect(await record(first)).toMatchObject({ state: 'queued', reason: 'retry', attempts: 1 });
        // Its place is kept: the one behind it does not overtake during the backoff.
        const waiting = await begin();
        if (waiting.status !== 'begun') expect(waiting).toMatchObject({ status: 'idle', nextMs: expect.any(Number) });
        else expect(waiting.command.id).toBe(first);
        const next = async (): Promise<BegunCommand> => {
          let found = waiting.status === 'begun' ? waiting.command : undefined;
          await until('the next attempt', async () => {
            if (found !== undefined) return true;
            const result = await begin();
            if (result.status === 'begun') found = result.command;
            return found !== undefined;
          });
          return found as BegunCommand;
        };
        const sentAt = (await record(first)).sentAtMs as number;
        out = await next();
        expect(out.id).toBe(first);
        expect((await record(first)).sentAtMs).toBeGreaterThanOrEqual(sentAt + 20);
        expect(await settle(out, LOSS)).toEqual({ status: 'requeued', nextMs: 40 });
        let third: BegunCommand | undefined;
        await until('the third attempt', async () => {
          const result = await begin();
          if (result.status === 'begun') third = result.command;
          return third !== undefined;
        });
        expect(third?.id).toBe(first);
        expect(await settle(third as BegunCommand, SILENCE)).toMatchObject({
          status: 'settled',
          ended: { state: 'timed_out' },
        });
        expect(await record(first)).toMatchObject({ state: 'timed_out', executed: 'maybe', attempts: 3 });
        expect(await kinds(first)).toEqual(['queued', 'sent', 'queued', 'sent', 'queued', 'sent', 'timed_out']);
        expect((await begun()).id).toBe(second);
      });

      test('what may not be repeated is never handed out again (I7)', async () => {
        const { add, begin, begun, settle } = await device();
        await add();
        await settle(await begun(), LOSS);
        expect(await begin()).toMatchObject({ status: 'idle' });
      });

      test('an answer after the end is recorded as late, of the same epoch and attempt only, and once', async () => {
        const { code, epoch, addAll, begun, settle, record, kinds } = await device();
        const [silent, lost] = (await addAll(2)) as [CommandId, CommandId];
        const first = await begun();
        await settle(first, SILENCE);
        const second = await begun();
        await settle(second, LOSS);
        expect(await store.settle(code, silent, (epoch + 1) as Epoch, first.attempt, OK)).toEqual({ status: 'stale' });
        expect(await store.settle(code, silent, epoch, first.attempt + 1, OK)).toEqual({ status: 'stale' });
        expect(await settle(first, SILENCE)).toEqual({ status: 'stale' });
        expect(await settle(first, OK)).toMatchObject({
          status: 'settled',
          ended: { id: silent, state: 'succeeded' },
          late: true,
        });
        expect(await settle(second, REFUSAL)).toMatchObject({
          status: 'settled',
          ended: { state: 'failed' },
          late: true,
        });
        expect(await record(silent)).toMatchObject({ state: 'succeeded', executed: 'yes', late: true });
        expect(await record(lost)).toMatchObject({
          state: 'failed',
          executed: 'yes',
          late: true,
          reason: 'device_error',
        });
        expect(await settle(first, REFUSAL)).toEqual({ status: 'stale' });
        expect(await kinds(silent)).toEqual(['queued', 'sent', 'timed_out', 'succeeded']);
        expect(eventOf((await at.events(code)).at(-1) as EventRecord)).toMatchObject({ late: true });
      });

      test('an answer above 64 KiB is kept whole beside the record', async () => {
        const { add, begun, settle, record } = await device();
        const body = Buffer.alloc(300_000, 'y');
        const id = await add();
        await settle(await begun(), { kind: 'answered', success: true, responseCode: 0, body });
        const found = await record(id);
        expect(found.responseBytes).toBe(300_000);
        expect(Buffer.from(found.response ?? []).equals(body)).toBe(true);
      });
    });

    describe('giveBack', () => {
      test('what was not written is queued again at its place, and the attempt does not count', async () => {
        const { code, epoch, addAll, begun, settle, record } = await device();
        const [first, second] = await addAll(2);
        for (let i = 0; i < 3; i++) {
          const out = await begun();
          expect(out.id).toBe(first);
          expect(await store.giveBack(code, out.id, epoch, out.attempt)).toMatchObject({ status: 'requeued' });
          expect(await record(out.id)).toMatchObject({ state: 'queued', attempts: 0 });
        }
        await settle(await begun(), OK);
        expect(await record(first as CommandId)).toMatchObject({ state: 'succeeded', attempts: 1 });
        expect((await begun()).id).toBe(second);
      });

      test('a giveBack that runs twice never takes back a later attempt (I7)', async () => {
        const { code, epoch, add, begin, begun, record } = await device();
        const id = await add();
        const first = await begun();
        await store.giveBack(code, id, epoch, first.attempt);
        const second = await begun();
        expect(await store.giveBack(code, id, epoch, first.attempt)).toEqual({ status: 'stale' });
        expect(await store.settle(code, id, epoch, first.attempt, LOSS)).toEqual({ status: 'stale' });
        expect((await record(id)).state).toBe('sent');
        expect((await begin()).status).toBe('busy');
        expect(await store.settle(code, id, epoch, second.attempt, OK)).toMatchObject({ status: 'settled' });
      });

      test('what was given back and then cancelled or expired was not executed (I4)', async () => {
        const { code, epoch, add, begun, record } = await device();
        const id = await add();
        const out = await begun();
        await store.giveBack(code, id, epoch, out.attempt);
        await store.cancel(code, id, FOREVER_MS);
        expect(await record(id)).toMatchObject({ state: 'cancelled', executed: 'no' });
        const soon = await add({ expiresAtMs: (await at.nowMs()) + SOON_MS });
        const next = await begun();
        await store.giveBack(code, soon, epoch, next.attempt);
        await pass(SOON_MS);
        await store.tend(code);
        expect(await record(soon)).toMatchObject({ state: 'expired', executed: 'no' });
      });

      test('given back after its deadline it ends, and lets the next one in (I4)', async () => {
        const { code, epoch, add, begun, record } = await device();
        const id = await add({ expiresAtMs: (await at.nowMs()) + SOON_MS });
        const next = await add();
        const out = await begun();
        await pass(SOON_MS);
        await store.giveBack(code, id, epoch, out.attempt);
        await store.tend(code);
        const { state, executed } = await record(id);
        // The sweep may have come first: then nobody knew yet that it was not written.
        expect(['expired no', 'timed_out maybe', 'unknown maybe']).toContain(`${state} ${executed}`);
        expect((await begun()).id).toBe(next);
      });
    });

    describe('a direct call with a record', () => {
      test('is out from the start, in no lane, and ends once with what its caller says', async () => {
        const { code, add, begin, record, kinds } = await device();
        const replyTo = 'cmd.1' as InstanceId;
        const id = await add({ mode: 'direct', replyTo });
        expect(await record(id)).toMatchObject({ state: 'sent', mode: 'direct' });
        const queued = await add();
        expect(await begin()).toMatchObject({ status: 'begun', command: { id: queued } });
        expect(await store.settleDirect(code, id, OK)).toEqual({
          status: 'settled',
          ended: { id, state: 'succeeded', replyTo },
          late: false,
        });
        expect(await record(id)).toMatchObject({ state: 'succeeded', executed: 'yes' });
        expect(await store.settleDirect(code, id, REFUSAL)).toEqual({ status: 'stale' });
        expect((await kinds(id)).at(-1)).toBe('succeeded');
      });

      test('keeps its Idempotency-Key whatever its end, and loses it when it was certainly not written', async () => {
        const { code, add, command, record } = await device();
        const idempotency = { key: hashOf('k'), request: hashOf('r') };
        const again = async () =>
          await store.submit(await command({ mode: 'direct', idempotency }), LIMITS, FOREVER_MS);
        const first = await add({ mode: 'direct', idempotency });
        expect(await again()).toEqual({ status: 'repeated', id: first, state: 'sent' });
        await store.settleDirect(code, first, { kind: 'refused', reason: 'device_offline' });
        expect(await record(first)).toMatchObject({ state: 'failed', executed: 'no', reason: 'device_offline' });
        const second = await add({ mode: 'direct', idempotency });
        await store.settleDirect(code, second, SILENCE);
        expect(await again()).toEqual({ status: 'repeated', id: second, state: 'timed_out' });
      });

      test('a key that was freed and taken again is not freed by the first command', async () => {
        const { code, add, command } = await device();
        const idempotency = { key: hashOf('k'), request: hashOf('r') };
        const refused: AttemptEnd = { kind: 'refused', reason: 'device_offline' };
        const first = await add({ mode: 'direct', idempotency });
        await store.settleDirect(code, first, refused);
        const second = await add({ mode: 'direct', idempotency });
        expect(await store.settleDirect(code, first, refused)).toEqual({ status: 'stale' });
        expect(await store.submit(await command({ mode: 'direct', idempotency }), LIMITS, FOREVER_MS)).toMatchObject({
          status: 'repeated',
          id: second,
        });
      });

      test('whose process never says how it ended becomes unknown after its deadline (I4)', async () => {
        const { code, add, record } = await device();
        const id = await add({ mode: 'direct', directUntilMs: (await at.nowMs()) + 1 });
        await until('the end of the call', async () => {
          await store.tend(code);
          return (await record(id)).state !== 'sent';
        });
        expect(await record(id)).toMatchObject({ state: 'unknown', executed: 'maybe', reason: 'service_lost' });
        expect(await at.traces(code)).toEqual([]);
        expect(await store.settleDirect(code, id, OK)).toMatchObject({ status: 'settled', late: true });
        expect(await record(id)).toMatchObject({ state: 'succeeded', executed: 'yes', late: true });
      });

      test('survives a take-over: its caller knows how it ends', async () => {
        const { code, add, begin, record } = await device();
        const id = await add({ mode: 'direct' });
        const [node, epoch] = [newNode(), newEpoch()];
        await at.own(code, node, epoch);
        await begin({ node, epoch });
        await store.tend(code);
        expect((await record(id)).state).toBe('sent');
        expect(await store.settleDirect(code, id, OK)).toMatchObject({ status: 'settled', late: false });
      });

      test('not written, it goes to the end of its lane if it may, once', async () => {
        const { code, node, add, begun, settle, record, kinds } = await device();
        const id = await add({ mode: 'direct-then-queue' });
        const queued = await add();
        expect(await store.queueDirect(code, id, LIMITS)).toMatchObject({
          status: 'accepted',
          state: 'queued',
          owner: { node },
        });
        expect(await record(id)).toMatchObject({ state: 'queued', attempts: 0 });
        expect(await store.queueDirect(code, id, LIMITS)).toEqual({ status: 'repeated', id, state: 'queued' });
        expect(await store.settleDirect(code, id, SILENCE)).toEqual({ status: 'stale' });
        const first = await begun();
        expect(first.id).toBe(queued);
        await settle(first, OK);
        const second = await begun();
        expect(second.id).toBe(id);
        expect(await store.settleDirect(code, id, SILENCE)).toEqual({ status: 'stale' });
        expect(await store.queueDirect(code, id, LIMITS)).toEqual({ status: 'repeated', id, state: 'sent' });
        await settle(second, OK);
        expect((await kinds(id)).slice(-3)).toEqual(['queued', 'sent', 'succeeded']);
      });

      test('it replaces what was accepted before it under its coalesceKey, and gives way to what came later', async () => {
        const { code, add, record } = await device();
        const superseded = { state: 'cancelled', executed: 'no', reason: 'superseded' };
        const older = await add({ coalesceKey: 'a' });
        await pass(1);
        const direct = await add({ mode: 'direct-then-queue', coalesceKey: 'a' });
        expect(await store.queueDirect(code, direct, LIMITS)).toMatchObject({ status: 'accepted' });
        expect(await record(older)).toMatchObject(superseded);
        const outdated = await add({ mode: 'direct-then-queue', coalesceKey: 'a' });
        await pass(1);
        const newer = await add({ coalesceKey: 'a' });
        const refused = { status: 'repeated', id: outdated, state: 'cancelled' };
        expect(await store.queueDirect(code, outdated, LIMITS)).toEqual(refused);
        expect(await record(outdated)).toMatchObject(superseded);
        expect(await record(newer)).toMatchObject({ state: 'queued' });
      });

      test('of a device that was removed it does not wait', async () => {
        const { code, add, record } = await device();
        const id = await add({ mode: 'direct-then-queue' });
        await at.remove(code);
        expect(await store.queueDirect(code, id, LIMITS)).toEqual({ status: 'repeated', id, state: 'cancelled' });
        expect(await record(id)).toMatchObject({ state: 'cancelled', executed: 'no', reason: 'device_removed' });
      });

      test('refused by a full lane it ends as failed and not executed', async () => {
        const { code, add, record } = await device();
        const id = await add({ mode: 'direct-then-queue' });
        await add();
        const limits = { commands: 1, bytes: 1_000_000 };
        expect(await store.queueDirect(code, id, limits)).toEqual({ status: 'lane_full', limit: 'commands' });
        expect(await record(id)).toMatchObject({ state: 'failed', executed: 'no' });
      });
    });

    describe('cancel', () => {
      test('ends what waits, and nothing else', async () => {
        const { code, add, addAll, begun, settle, record, kinds } = await device();
        const [out, waiting] = (await addAll(2)) as [CommandId, CommandId];
        const later = await add({ notBeforeMs: (await at.nowMs()) + HOUR_MS / 2, replyTo: 'cmd.1' as InstanceId });
        const first = await begun();
        expect(await store.cancel(code, out, FOREVER_MS)).toEqual({ status: 'not_queued', state: 'sent' });
        expect(await store.cancel(code, waiting, FOREVER_MS)).toMatchObject({
          status: 'cancelled',
          ended: [{ id: waiting, state: 'cancelled' }],
        });
        expect(await store.cancel(code, waiting, FOREVER_MS)).toEqual({ status: 'not_queued', state: 'cancelled' });
        expect(await store.cancel(code, later, FOREVER_MS)).toMatchObject({
          ended: [{ id: later, state: 'cancelled', replyTo: 'cmd.1' }],
        });
        expect(await record(waiting)).toMatchObject({ state: 'cancelled', executed: 'no', reason: 'cancelled' });
        await settle(first, OK);
        expect(await store.cancel(code, out, FOREVER_MS)).toEqual({ status: 'not_queued', state: 'succeeded' });
        expect(await record(out)).toMatchObject({ state: 'succeeded' });
        expect(await kinds(waiting)).toEqual(['queued', 'cancelled']);
      });

      test('knows only commands of the device, and does nothing after notAfterMs (D7)', async () => {
        const { code, add, record } = await device();
        const id = await add();
        const other = await device();
        expect(await store.cancel(code, newCommandId(at.keyspace.shardOf(code), random()), FOREVER_MS)).toEqual({
          status: 'not_found',
        });
        if (at.keyspace.shardOf(other.code) === at.keyspace.shardOf(code))
          expect(await store.cancel(other.code, id, FOREVER_MS)).toEqual({ status: 'not_found' });
        expect(await store.cancel(code, id, (await at.nowMs()) - 1)).toEqual({ status: 'late' });
        expect((await record(id)).state).toBe('queued');
      });

      test('a command that was written once and waits for a retry is cancelled as maybe (I4)', async () => {
        const { code, add, begun, settle, record } = await device();
        const id = await add({ maxAttempts: 3 });
        await settle(await begun(), SILENCE);
        await store.cancel(code, id, FOREVER_MS);
        expect(await record(id)).toMatchObject({ state: 'cancelled', executed: 'maybe' });
      });

      test('a retry is superseded or expires as maybe, too (I4)', async () => {
        const { code, add, begun, settle, record } = await device();
        const replaced = await add({ maxAttempts: 3, coalesceKey: 'a' });
        await settle(await begun(), SILENCE);
        const newer = await add({ coalesceKey: 'a' });
        expect(await record(replaced)).toMatchObject({ state: 'cancelled', executed: 'maybe', reason: 'superseded' });
        await store.cancel(code, newer, FOREVER_MS);
        const soon = await add({ maxAttempts: 3, expiresAtMs: (await at.nowMs()) + SOON_MS, backoffMs: 30 });
        const settled = await settle(await begun(), SILENCE);
        await pass(SOON_MS);
        await store.tend(code);
        const found = await record(soon);
        expect(found.executed).toBe('maybe');
        expect(found.state).toBe(settled.status === 'requeued' ? 'expired' : 'timed_out');
      });
    });

    describe('time and take-over', () => {
      test('an answer that nobody reports is given up when it is overdue, and the lane goes on (D19)', async () => {
        const { code, addAll, begin, record } = await device();
        const [mute, next] = (await addAll(2, { timeoutMs: 20 })) as [CommandId, CommandId];
        await begin();
        await until('the mute command to be given up', async () => {
          await store.tend(code);
          return (await record(mute)).state !== 'sent';
        });
        const { state, executed } = await record(mute);
        expect(['timed_out', 'unknown']).toContain(state);
        expect(executed).toBe('maybe');
        expect(await begin()).toMatchObject({ status: 'begun', command: { id: next } });
      });

      test('begin itself gives up what is overdue', async () => {
        const { addAll, begin } = await device();
        const [mute, next] = (await addAll(2, { timeoutMs: 20 })) as [CommandId, CommandId];
        await begin();
        let result = await begin();
        await until('the next command', async () => {
          if (result.status !== 'begun') result = await begin();
          return result.status === 'begun';
        });
        expect(result).toMatchObject({ status: 'begun', command: { id: next }, ended: [{ id: mute }] });
      });

      test('a new owner lapses what is out under older epochs: once stays unknown, a retry keeps its place (D19, I7)', async () => {
        const { code, epoch, add, addAll, begun, record, settle } = await device();
        const once = await add();
        const [repeatable, last] = (await addAll(2, { maxAttempts: 2, backoffMs: 1 })) as [CommandId, CommandId];
        const first = await begun({ window: 2 });
        const second = await begun({ window: 2 });
        expect([first.id, second.id]).toEqual([once, repeatable]);
        const owner = { node: newNode(), epoch: newEpoch() };
        await at.own(code, owner.node, owner.epoch);
        const began: CommandId[] = [];
        const ended: CommandId[] = [];
        await until('the new owner to get the retry', async () => {
          const result = await store.begin({ code, lane: 'normal', ...owner, window: 1, notAfterMs: FOREVER_MS });
          if (result.status !== 'fenced' && result.status !== 'late') ended.push(...idsOf(result.ended));
          if (result.status === 'begun') began.push(result.command.id);
          return began.length === 1;
        });
        expect([began, ended]).toEqual([[repeatable], [once]]);
        expect(await record(once)).toMatchObject({ state: 'unknown', executed: 'maybe', reason: 'session_lost' });
        expect(await record(repeatable)).toMatchObject({ state: 'sent', attempts: 2, epoch: owner.epoch });
        // What the old owner still says is about its own attempt: a late answer counts, anything else does not.
        expect(await settle(second, SILENCE)).toEqual({ status: 'stale' });
        expect(await settle(second, OK)).toEqual({ status: 'stale' });
        expect(await store.giveBack(code, repeatable, epoch, second.attempt)).toEqual({ status: 'stale' });
        expect(await settle(first, OK)).toMatchObject({ status: 'settled', late: true });
        expect((await record(repeatable)).state).toBe('sent');
        expect((await record(last)).state).toBe('queued');
      });

      test('tend lapses what is out under an older epoch, and says that a command may start', async () => {
        const { code, addAll, begun, record } = await device();
        const [once] = (await addAll(2)) as [CommandId, CommandId];
        await begun();
        expect(await store.tend(code)).toMatchObject({ startable: false, ended: [] });
        const owner = { node: newNode(), epoch: newEpoch() };
        await at.own(code, owner.node, owner.epoch);
        expect(await store.tend(code)).toMatchObject({
          owner,
          startable: true,
          ended: [{ id: once, state: 'unknown' }],
        });
        expect(await record(once)).toMatchObject({ state: 'unknown', executed: 'maybe' });
      });

      test('a session that ended without a successor lets its answers come until they are overdue', async () => {
        const { code, add, begun, settle, record } = await device();
        const id = await add();
        const out = await begun();
        await at.disown(code);
        await store.tend(code);
        expect((await record(id)).state).toBe('sent');
        expect(await settle(out, OK)).toMatchObject({ status: 'settled', late: false });
      });

      test('due names the devices that somebody must look at, only those, the most overdue first', async () => {
        const [soon, sooner, far] = [await device(), await device(), await device()];
        const nowMs = await at.nowMs();
        await soon.add({ expiresAtMs: nowMs + 2 * SOON_MS });
        await sooner.add({ expiresAtMs: nowMs + SOON_MS });
        await far.add({ expiresAtMs: nowMs + HOUR_MS });
        for (const { code } of [soon, sooner, far]) await at.disown(code);
        await pass(2 * SOON_MS + 5);
        const shards = new Set([soon, sooner, far].map(({ code }) => at.keyspace.shardOf(code)));
        const due = (await Promise.all([...shards].map((shard) => store.due(shard, 1000)))).flat();
        expect(due).toContain(soon.code);
        expect(due).toContain(sooner.code);
        expect(due).not.toContain(far.code);
        if (shards.size === 1) expect(due.indexOf(sooner.code)).toBeLessThan(due.indexOf(soon.code));
      });

      test('a timer is asked for when the next thing is to happen, and not again for the same or a later one', async () => {
        const { code, command } = await device();
        const nowMs = await at.nowMs();
        const submit = async (change: Partial<NewCommand>): Promise<number | undefined> => {
          const result = await store.submit(await command(change), LIMITS, FOREVER_MS);
          if (result.status !== 'accepted') throw new Error(result.status);
          return result.timerAtMs;
        };
        const first = await submit({ notBeforeMs: nowMs + 20_000, expiresAtMs: nowMs + 60_000 });
        expect(first).toBeGreaterThanOrEqual(nowMs + 20_000);
        expect(first).toBeLessThanOrEqual(nowMs + 21_000);
        expect(await submit({ notBeforeMs: nowMs + 20_000, expiresAtMs: nowMs + 60_000 })).toBeUndefined();
        expect(await submit({ notBeforeMs: nowMs + 30_000, expiresAtMs: nowMs + 60_000 })).toBeUndefined();
        const earlier = await submit({ notBeforeMs: nowMs + 10_000, expiresAtMs: nowMs + 60_000 });
        expect(earlier).toBeGreaterThanOrEqual(nowMs + 10_000);
        expect(earlier).toBeLessThanOrEqual(nowMs + 11_000);
        expect((await store.tend(code)).timerAtMs).toBeUndefined();
      });

      test('tend of a device without commands does nothing', async () => {
        const { code, node, epoch } = await device();
        expect(await store.tend(code)).toEqual({
          owner: { node, epoch },
          startable: false,
          timerAtMs: undefined,
          ended: [],
        });
        expect(await at.traces(code)).toEqual([]);
        expect(await store.tend(newCode())).toMatchObject({ owner: undefined, startable: false, ended: [] });
      });
    });

    describe('history', () => {
      test('lists the commands of a device, newest first, page by page, each once', async () => {
        const { code, addAll, add } = await device();
        const ids = await addAll(5);
        ids.push(await add({ lane: 'urgent' }), await add({ mode: 'direct' }));
        const seen: CommandId[] = [];
        let cursor: string | undefined;
        for (let pages = 0; pages < 5; pages++) {
          const page = await store.history(code, cursor, 3);
          expect(page.items.length).toBeLessThanOrEqual(3);
          seen.push(...page.items.map(({ id }) => id));
          cursor = page.cursor;
          if (cursor === undefined) break;
        }
        expect(new Set(seen)).toEqual(new Set(ids));
        expect(seen).toHaveLength(ids.length);
        const times = (await store.history(code, undefined, 10)).items.map(({ acceptedAtMs }) => acceptedAtMs);
        expect(times).toEqual([...times].sort((a, b) => b - a));
        expect((await store.history(newCode(), undefined, 3)).items).toEqual([]);
      });

      test('commands accepted while somebody pages neither hide nor repeat older ones', async () => {
        const { code, addAll, add } = await device();
        const ids = await addAll(4);
        const first = await store.history(code, undefined, 2);
        await pass(1);
        await add();
        const second = await store.history(code, first.cursor, 2);
        const seen = [...first.items, ...second.items].map(({ id }) => id);
        expect(new Set(seen)).toEqual(new Set(ids));
      });

      test('states of several commands are answered in the order asked, with gaps', async () => {
        const { code, addAll, begun } = await device();
        const [first, second] = (await addAll(2)) as [CommandId, CommandId];
        const other = await device();
        const foreign = await other.add();
        await begun();
        const gone = newCommandId(at.keyspace.shardOf(code), random());
        const states = await store.readStates([second, gone, foreign, first]);
        expect(states.map((each) => each && [each.id, each.state])).toEqual([
          [second, 'queued'],
          undefined,
          [foreign, 'queued'],
          [first, 'sent'],
        ]);
        expect(await store.readStates([])).toEqual([]);
        expect(await store.read(gone)).toBeUndefined();
        expect(await store.readBody(gone)).toBeUndefined();
      });
    });

    test.each<[string, LaneName]>([
      ['normal', 'normal'],
      ['urgent', 'urgent'],
    ])('a device whose commands have all ended leaves no key but records, history and keys (%s)', async (_, lane) => {
      const { code, epoch, add, begun, settle } = await device();
      const nowMs = await at.nowMs();
      const idempotency = { key: hashOf('k'), request: hashOf('r') };
      await add({ lane, idempotency, coalesceKey: 'a' });
      const given = await begun({ lane });
      await store.giveBack(code, given.id, epoch, given.attempt);
      expect(await at.traces(code)).not.toEqual([]);
      await settle(await begun({ lane }), OK);
      expect(await at.traces(code)).toEqual([]);
      const direct = await add({ lane, mode: 'direct' });
      await store.settleDirect(code, direct, OK);
      expect(await at.traces(code)).toEqual([]);
      await store.cancel(code, await add({ lane, notBeforeMs: nowMs + 60_000 }), FOREVER_MS);
      expect(await at.traces(code)).toEqual([]);
      await add({ lane });
      await settle(await begun({ lane }), LOSS);
      expect(await at.traces(code)).toEqual([]);
      const soon = await add({ lane, expiresAtMs: (await at.nowMs()) + SOON_MS });
      await pass(SOON_MS);
      expect(idsOf((await store.tend(code)).ended)).toEqual([soon]);
      expect(await at.traces(code)).toEqual([]);
      expect((await store.history(code, undefined, 10)).items).toHaveLength(5);
    });

    test('whatever runs for a device that was removed ends its commands, so that none meets the next one under its code (I4)', async () => {
      const { code, epoch, add, begun, record } = await device();
      const [written, given, later, urgent] = [
        await add({ maxAttempts: 2 }),
        await add(),
        await add({ notBeforeMs: (await at.nowMs()) + HOUR_MS / 2 }),
        await add({ lane: 'urgent' }),
      ];
      const first = await begun();
      const second = await begun({ window: 2 });
      expect([first.id, second.id]).toEqual([written, given]);
      await at.remove(code);
      expect(new Set(idsOf((await store.tend(code)).ended))).toEqual(new Set([later, urgent]));
      expect(await store.settle(code, written, epoch, first.attempt, SILENCE)).toMatchObject({ status: 'settled' });
      expect(await store.giveBack(code, given, epoch, second.attempt)).toMatchObject({ status: 'settled' });
      const gone = { state: 'cancelled', reason: 'device_removed' };
      expect(await record(written)).toMatchObject({ ...gone, executed: 'maybe' });
      for (const id of [given, later, urgent]) expect(await record(id)).toMatchObject({ ...gone, executed: 'no' });
      expect(await at.traces(code)).toEqual([]);
    });

    test('of a device without an owner nothing is left beyond its deadline (I4)', async () => {
      const { code, add, record } = await device();
      const id = await add({ expiresAtMs: (await at.nowMs()) + SOON_MS });
      await at.disown(code);
      await pass(SOON_MS);
      await store.tend(code);
      expect(await record(id)).toMatchObject({ state: 'expired', executed: 'no' });
      expect(await store.settle(code, id, FOREIGN_EPOCH, 1, OK)).toEqual({ status: 'stale' });
    });
  });
}

/** What a `command.*` event says. */
function eventOf(event: EventRecord): { readonly id?: string; readonly [name: string]: unknown } {
  return JSON.parse(Buffer.from(event.data).toString()) as { id?: string };
}
