/** Cases that random steps do not meet: a store that came back with an older lane than its records, or without some of them, and numbers that are
 *  too large for a model run. Each damages keys by hand, on scripts whose time the case sets. They are tests of the contract, and witnesses for
 *  damaged scripts; hence plain assertions, which need no test around them. */

import assert from 'node:assert/strict';
import { type CommandId, type DeviceCode, type Epoch, type NodeId, newCommandId } from '@lapi-broker/protocol';
import { createKeyspace, type Keyspace, type RedisConnection } from '@lapi-broker/redis';
import type { CommandRecord, NewCommand } from '../command-record.ts';
import type { AttemptEnd, BeginResult, LaneLimits, SubmitResult } from '../lane-store.ts';
import { RedisLaneStore } from '../redis/redis-lane-store.ts';
import { clockFields, clockKey } from './model-scripts.ts';

const KEEP_MS = 86_400_000;
const FOREVER_MS = 8.64e15;
const CODE = 'D' as DeviceCode;
const ROOMY: LaneLimits = { commands: 1_000, bytes: 1_000_000 };
const OK: AttemptEnd = { kind: 'answered', success: true, responseCode: 0, body: Buffer.from('{}') };

class Bench {
  readonly connection: RedisConnection;
  readonly keyspace: Keyspace;
  readonly store: RedisLaneStore;
  node = 'edge.1' as NodeId;
  epoch = 1_700_000_000_000_001 as Epoch;
  private nowMs = 1_800_000_000_000;
  private numbers = 0;

  constructor(connection: RedisConnection, scripts: URL, prefix: string) {
    this.connection = connection;
    this.keyspace = createKeyspace(prefix, 1);
    this.store = new RedisLaneStore(connection, this.keyspace, { keepMs: KEEP_MS, scripts });
  }

  async start(): Promise<void> {
    await this.pass(0);
    await this.connection.hset(this.keyspace.device(CODE), { rev: 1, enabled: '1' });
    await this.own(this.epoch);
  }

  async own(epoch: number): Promise<void> {
    this.epoch = epoch as Epoch;
    await this.connection.hset(this.keyspace.device(CODE), { node: this.node, epoch: String(epoch) });
  }

  async pass(ms: number): Promise<void> {
    this.nowMs += ms;
    await this.connection.hset(clockKey(this.keyspace.prefixOf(CODE)), clockFields(this.nowMs));
  }

  submit(
    change: Partial<NewCommand> = {},
    livesMs = 3_600_000,
    limits = ROOMY,
  ): { id: CommandId; result: Promise<SubmitResult> } {
    const id = newCommandId(0, (36 ** 10 - ++this.numbers).toString(36).padStart(20, '0'));
    const command: NewCommand = {
      id,
      code: CODE,
      mode: 'queue',
      lane: 'normal',
      method: 'PUT',
      url: '/LAPI/x',
      body: Buffer.from('{}'),
      timeoutMs: 10_000,
      expiresAtMs: this.nowMs + livesMs,
      directUntilMs: undefined,
      notBeforeMs: undefined,
      maxAttempts: 1,
      backoffMs: 1_000,
      coalesceKey: undefined,
      idempotency: undefined,
      keyId: 'k',
      job: undefined,
      retryOf: undefined,
      replyTo: undefined,
      ...change,
    };
    return { id, result: this.store.submit(command, limits, FOREVER_MS) };
  }

  async add(change: Partial<NewCommand> = {}): Promise<CommandId> {
    const { id, result } = this.submit(change);
    assert.equal((await result).status, 'accepted');
    return id;
  }

  async begin(window = 1): Promise<BeginResult> {
    const { node, epoch } = this;
    return await this.store.begin({ code: CODE, lane: 'normal', node, epoch, window, notAfterMs: FOREVER_MS });
  }

  async begun(window = 1): Promise<{ id: CommandId; attempt: number }> {
    const result = await this.begin(window);
    assert(result.status === 'begun', `expected begun, got ${result.status}`);
    return result.command;
  }

  async settle({ id, attempt }: { id: CommandId; attempt: number }): Promise<void> {
    assert.equal((await this.store.settle(CODE, id, this.epoch, attempt, OK)).status, 'settled');
  }

  async state(id: CommandId): Promise<CommandRecord['state'] | undefined> {
    return (await this.store.read(id))?.state;
  }
}

export interface ExactCase {
  readonly name: string;
  readonly run: (bench: Bench) => Promise<void>;
}

export const EXACT_CASES: readonly ExactCase[] = [
  {
    name: 'a lane that came back older than its records hands out nothing that was sent before (I7)',
    async run(bench) {
      const [first, second] = [await bench.add(), await bench.add()];
      const out = await bench.begun();
      assert.equal(out.id, first);
      const lane = bench.keyspace.waitingIn('normal', CODE);
      await bench.connection.zadd(lane, 0, first);
      assert.equal((await bench.begun(2)).id, second);
      await bench.settle(out);
      await bench.connection.zadd(lane, 0, first);
      assert.notEqual((await bench.begin(3)).status, 'begun');
      assert.equal(await bench.state(first), 'succeeded');
    },
  },
  {
    name: 'a record that is gone does not stop the others of its lane',
    async run(bench) {
      const [lost, next] = [await bench.add(), await bench.add()];
      await bench.connection.del(bench.keyspace.command(lost));
      const out = await bench.begun();
      assert.equal(out.id, next);
      await bench.settle(out);
      await bench.pass(4_000_000);
      await bench.store.tend(CODE);
      assert.equal(await bench.connection.exists(bench.keyspace.lane(CODE)), 0);
    },
  },
  {
    name: 'a clock that came back older than its records ends nothing that is out and lets in nothing that has ended',
    async run(bench) {
      const [id, next] = [await bench.add(), await bench.add()];
      const clock = bench.keyspace.clock(CODE);
      const out = await bench.begun();
      await bench.connection.zadd(clock, 1, `x${id}`);
      await bench.store.tend(CODE);
      assert.equal(await bench.state(id), 'sent');
      await bench.settle(out);
      for (const kind of ['f', 'x', 'n', 'r']) await bench.connection.zadd(clock, 1, `${kind}${id}`);
      await bench.store.tend(CODE);
      assert.equal(await bench.state(id), 'succeeded');
      assert.equal((await bench.begun()).id, next);
      assert.deepEqual(await bench.connection.zrange(bench.keyspace.waitingIn('normal', CODE), 0, '-1'), []);
    },
  },
  {
    name: 'a list of what is out that came back older than its records lapses nothing that has ended',
    async run(bench) {
      const id = await bench.add();
      await bench.add();
      await bench.settle(await bench.begun());
      await bench.connection.hset(bench.keyspace.lane(CODE), 'out', `n:${bench.epoch}:${id} `);
      await bench.own(bench.epoch + 1);
      await bench.store.tend(CODE);
      assert.equal(await bench.state(id), 'succeeded');
      assert.equal((await bench.begin()).status, 'begun');
    },
  },
  {
    name: 'a late answer counts for ten minutes after the end, and not a millisecond longer',
    async run(bench) {
      const ids = [await bench.add(), await bench.add()];
      const outs = [await bench.begun(2), await bench.begun(2)] as const;
      for (const { id, attempt } of outs)
        await bench.store.settle(CODE, id, bench.epoch, attempt, { kind: 'lost', reason: 'session_lost' });
      await bench.pass(600_000);
      await bench.settle(outs[0]);
      await bench.pass(1);
      const { id, attempt } = outs[1];
      assert.deepEqual(await bench.store.settle(CODE, id, bench.epoch, attempt, OK), { status: 'stale' });
      assert.deepEqual(
        (await bench.store.readStates(ids)).map((each) => each?.state),
        ['succeeded', 'unknown'],
      );
    },
  },
  {
    name: 'bodies and URLs fill a device to the byte, and not beyond',
    async run(bench) {
      const limits = { commands: 10, bytes: 100 };
      const sized = (bytes: number) => ({ url: '/', body: Buffer.alloc(bytes - 1, 'x') });
      assert.equal((await bench.submit(sized(60), 1_000, limits).result).status, 'accepted');
      assert.deepEqual(await bench.submit(sized(41), 1_000, limits).result, { status: 'lane_full', limit: 'bytes' });
      assert.equal((await bench.submit(sized(40), 1_000, limits).result).status, 'accepted');
    },
  },
  {
    name: 'of two commands with one coalesceKey the newer stays, whichever comes back into the lane last',
    async run(bench) {
      const older = await bench.add({ coalesceKey: 'k' });
      const first = await bench.begun();
      const newer = await bench.add({ coalesceKey: 'k' });
      await bench.store.giveBack(CODE, older, bench.epoch, first.attempt);
      assert.deepEqual([await bench.state(older), await bench.state(newer)], ['cancelled', 'queued']);
      const second = await bench.begun();
      const newest = await bench.add({ coalesceKey: 'k' });
      const third = await bench.begun(2);
      await bench.store.giveBack(CODE, newer, bench.epoch, second.attempt);
      await bench.store.giveBack(CODE, newest, bench.epoch, third.attempt);
      assert.deepEqual([await bench.state(newer), await bench.state(newest)], ['cancelled', 'queued']);
    },
  },
  {
    name: 'a backoff holds its lane only from the head of it',
    async run(bench) {
      const [first, second] = [await bench.add(), await bench.add({ maxAttempts: 2 })];
      const outs = [await bench.begun(2), await bench.begun(2)] as const;
      await bench.store.giveBack(CODE, first, bench.epoch, outs[0].attempt);
      const end = await bench.store.settle(CODE, second, bench.epoch, outs[1].attempt, { kind: 'timed_out' });
      assert.deepEqual(end, { status: 'requeued', nextMs: 1_000 });
      assert.equal((await bench.store.tend(CODE)).startable, true);
      assert.equal((await bench.begun()).id, first);
    },
  },
  {
    name: 'a lane whose head waits for its next attempt is not said to be startable, until its time has come',
    async run(bench) {
      const id = await bench.add({ maxAttempts: 2 });
      const { attempt } = await bench.begun();
      await bench.store.settle(CODE, id, bench.epoch, attempt, { kind: 'timed_out' });
      assert.equal((await bench.store.tend(CODE)).startable, false);
      await bench.pass(1_000);
      assert.equal((await bench.store.tend(CODE)).startable, true);
    },
  },
  {
    name: 'whoever gives back, settles or cancels after a take-over lapses what else is out under the older epoch (D19)',
    async run(bench) {
      for (const act of ['giveBack', 'settle', 'cancel'] as const) {
        for (let i = 0; i < 2; i++) await bench.add();
        const waiting = await bench.add();
        const [{ id, attempt }, other] = [await bench.begun(2), await bench.begun(2)];
        const { epoch, store } = bench;
        await bench.own(epoch + 1);
        if (act === 'giveBack') await store.giveBack(CODE, id, epoch, attempt);
        else if (act === 'settle') await store.settle(CODE, id, epoch, attempt, OK);
        else await store.cancel(CODE, waiting, FOREVER_MS);
        assert.equal(await bench.state(other.id), 'unknown', act);
      }
    },
  },
  {
    name: 'more commands than one call ends at a time expire, too, and none of them is handed out (I4)',
    async run(bench) {
      const all = Array.from({ length: 205 }, () => bench.submit({}, 5_000));
      await Promise.all(all.map(({ result }) => result));
      await bench.pass(5_000);
      const result = await bench.begin();
      assert.equal(result.status, 'idle');
      const states = await bench.store.readStates(all.map(({ id }) => id));
      assert(states.every((each) => each?.state === 'expired'));
    },
  },
  {
    name: 'an Idempotency-Key that another command holds by now is not freed by the one that had it before',
    async run(bench) {
      const idempotency = { key: 'a'.repeat(64), request: 'b'.repeat(64) };
      const first = await bench.add({ mode: 'direct', idempotency });
      await bench.connection.del(bench.keyspace.idempotency(CODE, idempotency.key));
      const second = await bench.add({ mode: 'direct', idempotency });
      await bench.store.settleDirect(CODE, first, { kind: 'refused', reason: 'device_offline' });
      const { result } = bench.submit({ mode: 'direct', idempotency });
      assert.deepEqual(await result, { status: 'repeated', id: second, state: 'sent' });
    },
  },
  {
    name: 'a direct call is queued once: what is out from its lane is not queued again (I7)',
    async run(bench) {
      const id = await bench.add({ mode: 'direct-then-queue' });
      assert.equal((await bench.store.queueDirect(CODE, id, ROOMY)).status, 'accepted');
      const out = await bench.begun();
      assert.deepEqual(await bench.store.queueDirect(CODE, id, ROOMY), { status: 'repeated', id, state: 'sent' });
      await bench.settle(out);
    },
  },
  {
    name: 'a direct call that finds no room in its lane leaves its Idempotency-Key free',
    async run(bench) {
      const idempotency = { key: 'a'.repeat(64), request: 'b'.repeat(64) };
      const id = await bench.add({ mode: 'direct-then-queue', idempotency });
      const refused = await bench.store.queueDirect(CODE, id, { commands: 0, bytes: 100 });
      assert.deepEqual(refused, { status: 'lane_full', limit: 'commands' });
      assert.equal((await bench.submit({ idempotency }).result).status, 'accepted');
    },
  },
  {
    name: 'an Idempotency-Key whose command is gone is free',
    async run(bench) {
      const idempotency = { key: 'a'.repeat(64), request: 'b'.repeat(64) };
      const first = await bench.add({ idempotency });
      await bench.connection.del(bench.keyspace.command(first));
      assert.equal((await bench.submit({ idempotency }).result).status, 'accepted');
    },
  },
  {
    name: 'an Idempotency-Key holds for a day, and as long as its command may wait',
    async run(bench) {
      const dayMs = 86_400_000;
      for (const [letter, waitMs] of [
        ['a', dayMs / 2],
        ['b', 3 * dayMs],
      ] as const) {
        const idempotency = { key: letter.repeat(64), request: 'b'.repeat(64) };
        assert.equal((await bench.submit({ idempotency }, waitMs).result).status, 'accepted');
        const lifeMs = await bench.connection.pttl(bench.keyspace.idempotency(CODE, idempotency.key));
        assert(Math.abs(lifeMs - Math.max(dayMs, waitMs)) < 60_000);
      }
    },
  },
  {
    name: 'for a device that is not provisioned nothing is accepted',
    async run(bench) {
      await bench.connection.hdel(bench.keyspace.device(CODE), 'rev');
      assert.deepEqual(await bench.submit().result, { status: 'device_unknown' });
    },
  },
  {
    name: 'a record lives while its command is open and for its time after the end',
    async run(bench) {
      const id = await bench.add();
      const ttl = (): Promise<number> => bench.connection.pttl(bench.keyspace.command(id));
      assert.equal(await ttl(), -1);
      const out = await bench.begun();
      assert.equal(await ttl(), -1);
      await bench.settle(out);
      assert(Math.abs((await ttl()) - KEEP_MS) < 60_000);
      const cancelled = await bench.add();
      await bench.store.cancel(CODE, cancelled, FOREVER_MS);
      assert(Math.abs((await bench.connection.pttl(bench.keyspace.command(cancelled))) - KEEP_MS) < 60_000);
    },
  },
];

export async function runExactCase(
  { run }: ExactCase,
  connection: RedisConnection,
  scripts: URL,
  prefix: string,
): Promise<void> {
  const bench = new Bench(connection, scripts, prefix);
  await bench.start();
  await run(bench);
}
