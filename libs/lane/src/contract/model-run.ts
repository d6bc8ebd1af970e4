/** Drives the lane store with seeded random steps of several nodes and services and compares it after each step with the model, with a log of
 *  what simulated devices received, and with the promises themselves (I1–I4, I6, I7). What a run does depends on its seed alone: time is a key
 *  that the run sets, so each deadline is met exactly, one before and one after.
 *
 *  - Nodes act on the epoch they believe in, long after they lost it; they pause between begin and write, repeat what they said, come late.
 *  - At the end every command must reach an end and every key of an open lane must be gone: a store that stands still fails, too.
 *  Redis away: the run fails. Not here: replication, the edge's own fence, several commands at the same instant. */

import { isDeepStrictEqual } from 'node:util';
import {
  type CommandId,
  type DeviceCode,
  type Epoch,
  type InstanceId,
  type NodeId,
  newCommandId,
} from '@lapi-broker/protocol';
import { createKeyspace, isCluster, type Keyspace, type RedisConnection } from '@lapi-broker/redis';
import { isEnded, type LaneName, type NewCommand } from '../command-record.ts';
import type { AttemptEnd, BeginRequest, LaneLimits, TendResult } from '../lane-store.ts';
import { RedisLaneStore } from '../redis/redis-lane-store.ts';
import { DeviceModel, type ModelCommand, sameEnded } from './lane-model.ts';
import { clockFields, clockKey } from './model-scripts.ts';

const SHARDS = 2;
const DEVICES = 4;
const NODES = 3;
const LIMITS: LaneLimits = { commands: 5, bytes: 900 };
const FOREVER_MS = 8.64e15;
/** What a node remembers of its attempts, to say it late or twice. */
const REMEMBERED = 60;
const TURN_MS = 2_000;
const WAKE_MS = 2_000;
/** Answers of operations that have looked at the whole lane. */
const HAS_LOOKED: ReadonlySet<string> = new Set([
  'accepted',
  'begun',
  'busy',
  'cancelled',
  'idle',
  'requeued',
  'settled',
  'tended',
]);
const DRAIN_STEPS = 4_000;
const KEPT_KINDS = /:(device|history|command|result|idem|events|waiting|testclock)(:|$)/;

export interface RunOptions {
  readonly connection: RedisConnection;
  readonly scripts: URL;
  /** Keys of no other run. */
  readonly prefix: string;
  readonly seed: number;
  readonly steps: number;
}

/** The store did something that it must not do. `step` is the first that shows it: the shortest prefix of this seed that fails. */
export class ModelFailure extends Error {
  readonly seed: number;
  readonly step: number;
  /** What was done with the device in question, and what it answered. */
  readonly trace: readonly string[];

  constructor(seed: number, step: number, message: string, trace: readonly string[]) {
    super(`seed ${seed}, step ${step}: ${message}`);
    this.seed = seed;
    this.step = step;
    this.trace = trace;
  }
}

export interface RunReport {
  readonly steps: number;
  readonly commands: number;
  readonly written: number;
  /** How often each kind of step answered what; shows that the run reaches what it is about. */
  readonly answers: ReadonlyMap<string, number>;
}

/** One attempt in the hands of a node. */
interface Held {
  readonly device: Device;
  readonly id: CommandId;
  readonly epoch: Epoch;
  readonly attempt: number;
  fate: 'held' | 'written' | 'unwritten';
  /** How the device answers, once it does. */
  answer: 'success' | 'error' | undefined;
}

interface Device {
  readonly code: DeviceCode;
  readonly model: DeviceModel;
  /** Every ownership so far. */
  readonly owners: { readonly node: NodeId; readonly epoch: Epoch }[];
  readonly held: Held[];
  /** Ids in the order in which the device received them. */
  readonly received: Map<CommandId, { readonly attempts: Set<string>; success: boolean; error: boolean }>;
  readonly ids: CommandId[];
  /** Direct calls whose service has not said how they ended. */
  readonly direct: CommandId[];
  /** Start order of what began so far, per lane: when it was let in, and its number. */
  readonly lastStart: Map<LaneName, readonly [number, number]>;
  readonly letIn: Map<CommandId, readonly [number, number]>;
  readonly timers: number[];
  /** Keys by which consumers drop repeated events. */
  readonly announced: Set<string>;
  lastEvent: string;
}

export async function runModel(options: RunOptions): Promise<RunReport> {
  const run = new Run(options);
  await run.start();
  for (let i = 0; i < options.steps; i++) await run.step();
  await run.drain();
  return run.report();
}

class Run {
  private readonly connection: RedisConnection;
  private readonly keyspace: Keyspace;
  private readonly store: RedisLaneStore;
  private readonly seed: number;
  private readonly random: () => number;
  private readonly devices: Device[] = [];
  private readonly answers = new Map<string, number>();
  private readonly trace: { readonly code: DeviceCode; readonly line: string }[] = [];
  private nowMs = 1_800_000_000_000;
  private epochs = 1_800_000_000_000_000;
  private numbers = 0;
  private steps = 0;
  private line = '';
  private last: (() => Promise<void>) | undefined;
  private readonly warm = new Set<string>();

  constructor({ connection, scripts, prefix, seed }: RunOptions) {
    this.connection = connection;
    this.keyspace = createKeyspace(prefix, SHARDS);
    this.store = new RedisLaneStore(connection, this.keyspace, { keepMs: 86_400_000, scripts });
    this.seed = seed;
    this.random = mulberry(seed);
  }

  async start(): Promise<void> {
    await this.setClock();
    for (let i = 0; i < DEVICES; i++) {
      const code = `D${i}` as DeviceCode;
      this.devices.push({
        code,
        model: new DeviceModel(code),
        owners: [],
        held: [],
        received: new Map(),
        ids: [],
        direct: [],
        lastStart: new Map(),
        letIn: new Map(),
        timers: [],
        announced: new Set(),
        lastEvent: '-',
      });
      await this.connection.hset(this.keyspace.device(code), { rev: 1, enabled: '1' });
    }
    for (const device of this.devices) await this.claim(device);
  }

  report(): RunReport {
    const commands = this.devices.reduce((sum, { ids }) => sum + ids.length, 0);
    const written = this.devices.reduce((sum, { received }) => sum + received.size, 0);
    return { steps: this.steps, commands, written, answers: this.answers };
  }

  async step(): Promise<void> {
    this.steps++;
    const device = this.pick(this.devices);
    await this.weighted<() => Promise<void>>([
      [26, () => this.submit(device, this.newCommand(device))],
      [2, () => this.submitAgain(device)],
      [30, () => this.begin(device)],
      [10, () => this.write(device)],
      [24, () => this.tell(device)],
      [2, () => this.tellNonsense(device)],
      [6, () => this.endDirect(device)],
      [5, () => this.cancel(device)],
      [5, async () => void (await this.tend(device))],
      [2, () => this.sweep()],
      [10, () => this.advance(device)],
      [3, () => this.claim(device)],
      [0.7, () => this.release(device)],
      [2, () => this.last?.() ?? Promise.resolve()],
    ])();
  }

  /** Nodes serve what is left, then time passes: nothing may stay open. */
  async drain(): Promise<void> {
    for (const device of this.devices) await this.claim(device);
    for (let i = 0; i < DRAIN_STEPS; i++) {
      this.steps++;
      const device = this.devices.find(({ model }) => model.open.size > 0);
      if (device === undefined) break;
      await this.serve(device);
      if (device.model.open.size > 0) {
        await this.moveTo(Math.max(this.nowMs, Math.min(...device.model.times())));
        await this.tend(device);
      }
    }
    for (const { code, model } of this.devices)
      if (model.open.size > 0) this.fail(code, `${model.open.size} commands never end`);
    const servers = isCluster(this.connection) ? this.connection.nodes('master') : [this.connection];
    const keys = await Promise.all(servers.map((server) => server.keys(`${this.keyspace.prefix}:*`)));
    const left = keys.flat().filter((key) => !KEPT_KINDS.test(key));
    if (left.length > 0) this.fail(undefined, `keys are left although nothing is open: ${left.join(' ')}`);
    for (const { code, model, ids } of this.devices) await this.compareRecords(code, model, ids);
  }

  private async serve(device: Device): Promise<void> {
    for (const lane of ['urgent', 'normal'] as const) {
      for (let i = 0; i < LIMITS.commands + 2; i++) {
        const owner = device.owners.at(-1) as { node: NodeId; epoch: Epoch };
        const held = await this.beginAs(device, { lane, ...owner, window: 1, notAfterMs: FOREVER_MS });
        if (held === undefined) break;
        this.writeHeld(held);
        await this.settle(device, held, this.answerOf(held, 'success'));
      }
    }
  }

  // ——— what services do ———

  private newCommand(device: Device): NewCommand {
    const { nowMs } = this;
    const mode = this.weighted<NewCommand['mode']>([
      [70, 'queue'],
      [12, 'direct'],
      [18, 'direct-then-queue'],
    ]);
    const expiresAtMs =
      nowMs +
      this.weighted([
        [1, 0],
        [1, 1],
        [6, this.upTo(8_000)],
        [6, 3_600_000],
      ]);
    const isQueue = mode === 'queue';
    const maxAttempts = this.chance(0.4) ? 2 + this.upTo(1) : 1;
    return {
      id: newCommandId(this.keyspace.shardOf(device.code), this.newRandomWord()),
      code: device.code,
      mode,
      lane: this.chance(0.25) ? 'urgent' : 'normal',
      method: 'PUT',
      url: '/LAPI/x',
      body: Buffer.alloc(this.chance(0.2) ? 200 : this.upTo(30), 'x'),
      timeoutMs: 1 + this.upTo(5_000),
      expiresAtMs,
      directUntilMs: isQueue ? undefined : nowMs + this.upTo(3_000),
      notBeforeMs: isQueue && this.chance(0.25) ? nowMs + this.upTo(3) * 500 : undefined,
      maxAttempts,
      backoffMs: this.chance(0.1) ? 40_000 : 100 + this.upTo(20) * 100,
      coalesceKey: mode !== 'direct' && this.chance(0.4) ? this.pick(['a', 'b']) : undefined,
      idempotency: this.chance(0.15)
        ? {
            key: `${Math.floor(device.ids.length / 10) + this.upTo(3)}`.padStart(64, '0'),
            request: `${this.chance(0.9) ? 0 : 1}`.padStart(64, '0'),
          }
        : undefined,
      keyId: 'k',
      job: undefined,
      retryOf: undefined,
      replyTo: this.chance(0.3) ? (`cmd.${this.upTo(3)}` as InstanceId) : undefined,
    };
  }

  private async submit(device: Device, asked: NewCommand): Promise<void> {
    const { model } = device;
    const notAfterMs = this.deadline();
    const expected = model.submit(asked, LIMITS, notAfterMs, this.nowMs);
    const actual = await this.act(device, 'submit', brief(asked), asked.id, () =>
      this.store.submit(asked, LIMITS, notAfterMs),
    );
    const { timerAtMs, ...rest } = { timerAtMs: undefined, ...actual };
    this.compareAnswer(device, expected, rest);
    if (actual.status !== 'accepted') return;
    device.ids.push(asked.id);
    if (asked.mode !== 'queue') device.direct.push(asked.id);
    else this.letIn(device, asked.id, Math.max(this.nowMs, asked.notBeforeMs ?? 0));
    this.checkTimer(device, timerAtMs, asked.notBeforeMs);
  }

  /** A service that heard no answer asks again. */
  private async submitAgain(device: Device): Promise<void> {
    const known = device.model.commands.get(this.recent(device.ids) as CommandId);
    if (known !== undefined) await this.submit(device, known.asked);
  }

  private async endDirect(some: Device): Promise<void> {
    const open = this.devices.flatMap((each) =>
      each.model.out('direct').map(({ asked: { id } }) => ({ device: each, id })),
    );
    const { device, id } =
      this.chance(0.4) && open.length > 0 ? this.pick(open) : { device: some, id: this.recent(some.direct, 6) };
    const command = id && device.model.commands.get(id);
    if (command === undefined || id === undefined) return;
    if (command.asked.mode === 'direct-then-queue' && this.chance(0.7)) {
      // A service that wrote nothing may queue it; one that did may not.
      if (device.received.has(id) && command.isDirect) return;
      const expected = device.model.queueDirect(id, LIMITS, this.nowMs);
      const actual = await this.act(device, 'queueDirect', short(id), id, () =>
        this.store.queueDirect(device.code, id, LIMITS),
      );
      const { timerAtMs, ...rest } = { timerAtMs: undefined, ...actual };
      this.compareAnswer(device, expected, rest);
      if (actual.status !== 'accepted') return;
      this.letIn(device, id, this.nowMs);
      this.checkTimer(device, timerAtMs, undefined);
      return;
    }
    const isWritten = this.chance(0.8);
    const held: Held = { device, id, epoch: 0 as Epoch, attempt: 1, fate: 'held', answer: undefined };
    // Once it was said not to be written, no service writes it.
    if (isWritten && command.isDirect && command.state === 'sent') this.writeHeld(held);
    const end = device.received.has(id) ? this.someEnd(held) : ({ kind: 'refused', reason: 'device_offline' } as const);
    const expected = device.model.settle(id, held.epoch, held.attempt, end, this.nowMs);
    const actual = await this.act(device, 'settleDirect', `${short(id)} ${end.kind}`, id, () =>
      this.store.settleDirect(device.code, id, end),
    );
    this.compareAnswer(device, expected, actual);
  }

  private async cancel(device: Device): Promise<void> {
    const foreign = this.chance(0.05) ? this.pick(this.devices) : device;
    const id = this.recent(foreign.ids, 8);
    if (id === undefined || this.keyspace.shardOf(foreign.code) !== this.keyspace.shardOf(device.code)) return;
    const notAfterMs = this.deadline();
    const expected = device.model.cancel(id, notAfterMs, this.nowMs);
    const actual = await this.act(device, 'cancel', short(id), foreign === device ? id : undefined, () =>
      this.store.cancel(device.code, id, notAfterMs),
    );
    this.compareAnswer(device, expected, actual);
  }

  private async tend(device: Device): Promise<TendResult> {
    const { model } = device;
    const expected = model.tend(this.nowMs);
    const actual = await this.act(device, 'tend', '', undefined, () => this.store.tend(device.code));
    const { timerAtMs, startable, ...rest } = actual;
    // Told once too often does no harm, and may come behind a command that waits for its next attempt.
    const mayOverstate = (['normal', 'urgent'] as const).some(
      (lane) => (model.head(lane)?.retryAtMs ?? 0) > this.nowMs,
    );
    if (startable !== expected.startable && !(startable && mayOverstate))
      this.fail(device.code, `startable is ${startable}`);
    this.compareAnswer(device, { status: 'tended', ...expected, startable }, { status: 'tended', ...rest, startable });
    this.checkTimer(device, timerAtMs, undefined);
    for (const command of model.open) {
      const { state, asked, overdueAtMs } = command;
      if (state === 'queued' ? asked.expiresAtMs <= this.nowMs : overdueAtMs <= this.nowMs)
        this.fail(device.code, `${short(asked.id)} is ${state} after its time (I4)`);
    }
    return actual;
  }

  /** Finds by the index alone what is to be done. */
  private async sweep(): Promise<void> {
    const shard = this.upTo(SHARDS - 1);
    const scores = await Promise.all(this.devices.map((each) => this.dueScore(each)));
    const overdue = this.devices.filter(
      ({ code }, i) => this.keyspace.shardOf(code) === shard && (scores[i] ?? Number.POSITIVE_INFINITY) <= this.nowMs,
    );
    const codes = await this.store.due(shard, 100);
    if (codes.length !== overdue.length || overdue.some(({ code }) => !codes.includes(code)))
      this.fail(undefined, `due names ${codes.join()}, not ${overdue.map(({ code }) => code).join()}`);
    for (const device of overdue) {
      // Nobody else gets them for a while, and somebody does after it: the one who took the turn may die.
      const score = await this.dueScore(device);
      if (score === undefined || score <= this.nowMs || score > this.nowMs + TURN_MS)
        this.fail(device.code, `after its turn it is due at ${score}`);
      if (this.chance(0.7)) await this.tend(device);
    }
  }

  // ——— what nodes do ———

  private async claim(device: Device): Promise<void> {
    const node = `edge-${this.upTo(NODES - 1)}.1` as NodeId;
    this.epochs += 1 + this.upTo(3);
    const epoch = this.epochs as Epoch;
    device.owners.push({ node, epoch });
    Object.assign(device.model, { node, epoch });
    this.note(device, `claim ${node} ${epoch}`);
    await this.connection.hset(this.keyspace.device(device.code), { node, epoch: String(epoch) });
  }

  private async release(device: Device): Promise<void> {
    device.model.node = undefined;
    this.note(device, 'release');
    await this.connection.hdel(this.keyspace.device(device.code), 'node');
  }

  private async begin(device: Device): Promise<void> {
    const owner = this.chance(0.85) ? device.owners.at(-1) : this.recent(device.owners, 5);
    if (owner === undefined) return;
    // Now and then a node mixes up who it is: the epoch of one with the name of another.
    const node = this.chance(0.03) ? (`edge-${this.upTo(NODES - 1)}.1` as NodeId) : owner.node;
    const held = await this.beginAs(device, {
      lane: this.chance(0.3) ? 'urgent' : 'normal',
      node,
      epoch: owner.epoch,
      window: this.chance(0.2) ? 3 : 1,
      notAfterMs: this.deadline(),
    });
    if (held !== undefined && this.chance(0.5)) this.writeHeld(held);
  }

  private async beginAs(device: Device, request: Omit<BeginRequest, 'code'>): Promise<Held | undefined> {
    const { model } = device;
    const whole = { code: device.code, ...request };
    const expected = model.begin(whole, this.nowMs);
    const target = expected.status === 'begun' ? expected.command.asked.id : undefined;
    const what = `${request.lane} ${request.node} ${request.epoch} window ${request.window}`;
    const actual = await this.act(device, 'begin', what, target, () => this.store.begin(whole));
    if (actual.status !== 'begun' || expected.status !== 'begun') {
      this.compareAnswer(device, expected.status === 'begun' ? { status: 'begun' } : expected, actual);
      return undefined;
    }
    const { command } = actual;
    const { id, attempt } = command;
    if (request.node !== model.node || request.epoch !== model.epoch)
      this.fail(device.code, `${short(id)} given to no owner (I3)`);
    if (id !== target) this.fail(device.code, `begun ${short(id)}, expected ${short(target ?? '')} (I6)`);
    if (command.leftMs !== expected.leftMs)
      this.fail(device.code, `leftMs ${command.leftMs}, expected ${expected.leftMs}`);
    if (command.writes !== expected.command.written)
      this.fail(device.code, `${command.writes} writes, expected ${expected.command.written}`);
    const isLast = !model.waiting().some(({ asked }) => asked.lane === request.lane);
    if (actual.isLast !== isLast) this.fail(device.code, `isLast is ${actual.isLast}`);
    if (!sameEnded(actual.ended, expected.ended)) this.fail(device.code, 'begin says other ends');
    if (actual.isLast !== model.waiting().every((other) => other.asked.lane !== request.lane))
      this.fail(device.code, `begin says ${actual.isLast ? 'that nothing' : 'that more'} waits in the lane`);
    const { asked } = expected.command;
    if (command.url !== asked.url || !Buffer.from(command.body).equals(asked.body))
      this.fail(device.code, 'another request was begun');
    if (device.held.some((other) => other.id === id && other.epoch === request.epoch && other.attempt === attempt))
      this.fail(device.code, `attempt ${attempt} of ${short(id)} was handed out twice in one epoch (I7)`);
    expected.command.attempt = attempt;
    this.checkStart(device, request.lane, id);
    const held: Held = { device, id, epoch: request.epoch, attempt, fate: 'held', answer: undefined };
    device.held.push(held);
    if (device.held.length > REMEMBERED) device.held.shift();
    return held;
  }

  /** A node that paused after begin goes on. */
  private async write(device: Device): Promise<void> {
    const held = this.pick(device.held.filter(({ fate }) => fate === 'held'));
    if (held !== undefined) this.writeHeld(held);
  }

  private writeHeld(held: Held): void {
    const { device, id, epoch, attempt } = held;
    held.fate = 'written';
    this.note(device, `write ${short(id)} attempt ${attempt}`);
    const command = device.model.commands.get(id) as ModelCommand;
    const seen = device.received.get(id) ?? { attempts: new Set<string>(), success: false, error: false };
    seen.attempts.add(`${epoch}:${attempt}`);
    device.received.set(id, seen);
    if (command.asked.maxAttempts === 1 && seen.attempts.size > 1)
      this.fail(device.code, `${short(id)} is written twice (I7)`);
    if (seen.attempts.size > command.asked.maxAttempts)
      this.fail(device.code, `${short(id)} is written too often (I7)`);
    this.checkTruth(device, command);
  }

  private async tell(some: Device): Promise<void> {
    const open = this.devices.flatMap(({ held, model }) =>
      held.filter(({ id, attempt }) => {
        const command = model.commands.get(id);
        return command?.state === 'sent' && command.attempt === attempt;
      }),
    );
    const held = this.chance(0.75) && open.length > 0 ? this.pick(open) : this.recent(some.held, 12);
    if (held === undefined) return;
    const { device } = held;
    if (held.fate === 'held' && this.chance(0.5)) this.writeHeld(held);
    if (held.fate === 'written') await this.settle(device, held, this.someEnd(held));
    else if (this.chance(0.7)) {
      held.fate = 'unwritten';
      await this.giveBack(device, held.id, held.epoch, held.attempt);
    } else {
      held.fate = 'unwritten';
      await this.settle(device, held, { kind: 'refused', reason: 'request_too_large' });
    }
  }

  /** An attempt that nobody has, or that somebody else has. */
  private async tellNonsense(device: Device): Promise<void> {
    const held = this.recent(device.held, 6);
    if (held === undefined) return;
    const [epoch, attempt] = this.pick([
      [held.epoch + 1, held.attempt],
      [held.epoch - 1, held.attempt],
      [held.epoch, held.attempt + 1],
      [held.epoch, held.attempt - 1],
    ] as const);
    const isReal = device.held.some((each) => each.id === held.id && each.epoch === epoch && each.attempt === attempt);
    if (isReal) return;
    if (this.chance(0.5)) await this.giveBack(device, held.id, epoch as Epoch, attempt);
    else {
      const end: AttemptEnd = { kind: 'answered', success: true, responseCode: 0, body: Buffer.from('{}') };
      await this.settle(device, { ...held, epoch: epoch as Epoch, attempt }, end);
    }
  }

  private someEnd(held: Held): AttemptEnd {
    return this.weighted<() => AttemptEnd>([
      [4, () => this.answerOf(held, held.answer ?? 'success')],
      [1, () => this.answerOf(held, held.answer ?? 'error')],
      [2, () => ({ kind: 'timed_out' })],
      [2, () => ({ kind: 'lost', reason: 'session_lost' })],
    ])();
  }

  private answerOf(held: Held, answer: 'success' | 'error'): AttemptEnd {
    const seen = held.device.received.get(held.id);
    if (seen !== undefined) {
      held.answer = answer;
      seen[answer] = true;
    }
    const success = answer === 'success';
    return { kind: 'answered', success, responseCode: success ? 0 : 7, body: Buffer.from(`{"a":"${answer}"}`) };
  }

  private async settle(device: Device, { id, epoch, attempt }: Held, end: AttemptEnd): Promise<void> {
    const expected = device.model.settle(id, epoch, attempt, end, this.nowMs);
    const what = `${short(id)} ${epoch} attempt ${attempt} ${end.kind}${end.kind === 'answered' ? ` ${end.success}` : ''}`;
    const actual = await this.act(device, 'settle', what, id, () =>
      this.store.settle(device.code, id, epoch, attempt, end),
    );
    this.compareAnswer(device, expected, actual);
  }

  private async giveBack(device: Device, id: CommandId, epoch: Epoch, attempt: number): Promise<void> {
    const expected = device.model.giveBack(id, epoch, attempt, this.nowMs);
    const actual = await this.act(device, 'giveBack', `${short(id)} ${epoch} attempt ${attempt}`, id, () =>
      this.store.giveBack(device.code, id, epoch, attempt),
    );
    this.compareAnswer(device, expected, actual);
  }

  // ——— time ———

  private async advance(device: Device): Promise<void> {
    const next = this.pick(device.model.times());
    const target = this.weighted([
      [3, this.nowMs + this.upTo(2)],
      [2, this.nowMs + this.upTo(3_000)],
      [6, (next ?? 0) - 1 + this.upTo(2)],
      [0.1, this.nowMs + 600_000 - this.upTo(2_000)],
      [0.2, this.lateLimit(device) + this.upTo(1)],
    ]);
    // Not by an hour at once: most commands would only expire.
    if (target - this.nowMs < 700_000) await this.moveTo(target);
  }

  /** The last moment at which a late answer of some command counts. */
  private lateLimit(device: Device): number {
    const held = this.pick(device.held);
    const command = held && device.model.commands.get(held.id);
    return command !== undefined && isEnded(command.state) ? command.endedAtMs + 600_000 : this.nowMs;
  }

  private async moveTo(ms: number): Promise<void> {
    if (ms <= this.nowMs) return;
    this.nowMs = ms;
    this.note(undefined, `time ${ms}`);
    await this.setClock();
  }

  private async setClock(): Promise<void> {
    const shards = Array.from({ length: SHARDS }, (_, shard) => this.keyspace.due(shard).replace(/due$/, ''));
    await Promise.all(shards.map((prefix) => this.connection.hset(clockKey(prefix), clockFields(this.nowMs))));
  }

  // ——— comparing ———

  /** Runs one operation, and in the same round trip reads everything that it may have changed. */
  private async act<T extends object>(
    device: Device,
    name: string,
    what: string,
    target: CommandId | undefined,
    operation: () => Promise<T>,
  ): Promise<T> {
    const { code, model } = device;
    this.line = `${name} ${what}`;
    const events = model.take();
    const ids = new Set<CommandId>([...[...model.open].map(({ asked }) => asked.id), ...events.map(({ id }) => id)]);
    if (target !== undefined) ids.add(target);
    const known = [...ids].filter((id) => model.commands.has(id));
    const pending = operation();
    // A script that the server does not know yet would run behind the reads.
    if (!this.warm.has(name)) await pending;
    this.warm.add(name);
    const [actual, records, streamed, waiting, due, ...there] = await Promise.all([
      pending,
      this.store.readStates(known),
      this.connection.xrange(
        this.keyspace.events(this.keyspace.shardOf(code)),
        `(${device.lastEvent}`.replace('(-', '-'),
        '+',
      ),
      this.store.waiting(),
      this.dueScore(device),
      this.connection.exists(this.keyspace.lane(code)),
      this.connection.exists(this.keyspace.waitingIn('normal', code)),
      this.connection.exists(this.keyspace.waitingIn('urgent', code)),
      this.connection.exists(this.keyspace.clock(code)),
    ]);
    const status = 'status' in actual ? String(actual.status) : 'tended';
    this.note(device, `${this.line} → ${status}`);
    const answer = `${name}:${status}`;
    this.answers.set(answer, (this.answers.get(answer) ?? 0) + 1);
    for (const other of this.devices)
      if (this.keyspace.shardOf(other.code) === this.keyspace.shardOf(code))
        other.lastEvent = streamed.at(-1)?.[0] ?? other.lastEvent;
    known.forEach((id, i) => {
      this.compareRecord(device, model.commands.get(id) as ModelCommand, records[i]);
    });
    this.compareEvents(device, events, streamed);
    const all = this.devices.reduce((sum, each) => sum + each.model.waiting().length, 0);
    if (waiting !== all) this.fail(code, `${waiting} commands are said to wait, not ${all}`);
    this.checkIndexes(device, due, there);
    if (HAS_LOOKED.has(status)) this.checkWake(device, due);
    const isEnd = name === 'settle' || name === 'giveBack' || name === 'settleDirect';
    this.last = isEnd ? () => this.repeat(device, name, operation) : undefined;
    return actual;
  }

  /** Somebody who heard no answer says it again, perhaps much later: it counted the first time. */
  private async repeat(device: Device, name: string, operation: () => Promise<object>): Promise<void> {
    const again = await this.act(device, `${name} again`, '', undefined, operation);
    if (!('status' in again) || again.status !== 'stale') this.fail(device.code, `${name} counted twice`);
  }

  private compareAnswer(device: Device, expected: object, actual: object): void {
    const { ended: expectedEnds, ...wanted } = { ended: [], ...expected } as { ended: never[] };
    const { ended: actualEnds, ...got } = { ended: [], ...actual } as { ended: never[] };
    const same = isDeepStrictEqual(wanted, got) && sameEndedOrOne(expectedEnds, actualEnds);
    if (!same) this.fail(device.code, `answered ${JSON.stringify(actual)}, expected ${JSON.stringify(expected)}`);
  }

  private compareRecord(device: Device, command: ModelCommand, record: object | undefined): void {
    const { asked, state, executed, reason, late, attempts, sentAtMs } = command;
    const wanted = { state, executed, reason, late, attempts, sentAtMs };
    const got = pickFields(record ?? {}, Object.keys(wanted));
    if (!isDeepStrictEqual(got, wanted))
      this.fail(device.code, `record ${short(asked.id)} is ${JSON.stringify(got)}, expected ${JSON.stringify(wanted)}`);
    this.checkTruth(device, command);
  }

  private async compareRecords(code: DeviceCode, model: DeviceModel, ids: readonly CommandId[]): Promise<void> {
    const device = this.devices.find((each) => each.code === code) as Device;
    const records = await this.store.readStates(ids);
    ids.forEach((id, i) => {
      this.compareRecord(device, model.commands.get(id) as ModelCommand, records[i]);
    });
  }

  private compareEvents(
    device: Device,
    wanted: readonly { id: CommandId; state: string; executed: string | undefined; late: boolean }[],
    streamed: readonly [string, string[]][],
  ): void {
    for (const [, fields] of streamed) {
      const key = fields[fields.indexOf('q') + 1] ?? '';
      if (device.announced.has(key)) this.fail(device.code, `two events have the key ${key}`);
      device.announced.add(key);
    }
    const got = streamed.map(([, fields]) => {
      const kind = fields[fields.indexOf('k') + 1] ?? '';
      const data = JSON.parse(fields[fields.indexOf('d') + 1] ?? '{}') as {
        id?: string;
        executed?: string;
        late?: boolean;
      };
      return `${data.id} ${kind} ${data.executed ?? ''} ${data.late ?? false}`;
    });
    const expected = wanted.map(({ id, state, executed, late }) => `${id} command.${state} ${executed ?? ''} ${late}`);
    if (!isDeepStrictEqual(got.sort(), expected.sort()))
      this.fail(device.code, `events ${got.join('; ')}, expected ${expected.join('; ')}`);
  }

  /** Somebody will look in time, and where nothing is open nothing is left. */
  private checkIndexes({ code, model }: Device, due: number | undefined, there: readonly number[]): void {
    if (model.open.size === 0) {
      if (there.some((count) => count > 0) || due !== undefined)
        this.fail(code, 'keys are left although nothing is open');
      return;
    }
    const nextMs = Math.min(...model.times());
    if (due === undefined || due > Math.max(nextMs, this.nowMs + 2_000))
      this.fail(code, `somebody looks at ${due}, but something happens at ${nextMs}`);
  }

  /** A wake-up may be lost, so somebody looks again soon while a command could start. */
  private checkWake({ code, model }: Device, due: number | undefined): void {
    if (model.node === undefined || !model.isStartable(this.nowMs)) return;
    if (due === undefined || due > this.nowMs + WAKE_MS)
      this.fail(code, `a command could start, but somebody looks at ${due}`);
  }

  private checkTimer(device: Device, timerAtMs: number | undefined, notBeforeMs: number | undefined): void {
    const { code, model, timers } = device;
    if (timerAtMs !== undefined) timers.push(timerAtMs);
    if (timers.length > REMEMBERED) timers.shift();
    if (model.open.size === 0) return;
    const nextMs = model.node === undefined ? Math.min(...model.times()) : notBeforeMs;
    if (nextMs === undefined || nextMs <= this.nowMs) return;
    if (!timers.some((at) => at > this.nowMs && at <= nextMs)) this.fail(code, `no timer was asked for ${nextMs}`);
  }

  /** I4: what is said to be not executed reached no device; what is said to be executed was answered by it. */
  private checkTruth(device: Device, { asked: { id }, executed, state }: ModelCommand): void {
    const seen = device.received.get(id);
    if (executed === 'no' && seen !== undefined)
      this.fail(device.code, `${short(id)} was written, and is said not to be executed (I4)`);
    if (state === 'succeeded' && seen?.success !== true)
      this.fail(device.code, `${short(id)} succeeded without an answer (I4)`);
    if (executed === 'yes' && state === 'failed' && seen?.error !== true)
      this.fail(device.code, `${short(id)} failed without an answer (I4)`);
  }

  /** I6, told from answers alone: what starts first was let in first. */
  private letIn(device: Device, id: CommandId, atMs: number): void {
    device.letIn.set(id, [atMs, ++this.numbers]);
  }

  private checkStart(device: Device, lane: LaneName, id: CommandId): void {
    const mine = device.letIn.get(id) ?? [0, 0];
    const last = device.lastStart.get(lane) ?? [0, 0];
    const isFirst = !device.received.has(id) && !device.held.some((each) => each.id === id);
    if (isFirst && isBefore(mine, last))
      this.fail(device.code, `${short(id)} starts after one that was let in later (I6)`);
    if (isBefore(last, mine)) device.lastStart.set(lane, mine);
  }

  private async dueScore({ code }: Device): Promise<number | undefined> {
    const score = await this.connection.zscore(this.keyspace.due(this.keyspace.shardOf(code)), code);
    return score === null ? undefined : Number(score);
  }

  private note(device: Device | undefined, line: string): void {
    for (const { code } of device === undefined ? this.devices : [device])
      this.trace.push({ code, line: `${this.steps} ${code} ${line}` });
  }

  private fail(code: DeviceCode | undefined, message: string): never {
    const lines = this.trace.filter((each) => code === undefined || each.code === code).map(({ line }) => line);
    throw new ModelFailure(this.seed, this.steps, `${code ?? ''} ${this.line}: ${message}`, lines);
  }

  // ——— chance ———

  private upTo(most: number): number {
    return Math.floor(this.random() * (most + 1));
  }

  private chance(of: number): boolean {
    return this.random() < of;
  }

  /** A moment that has not passed, rarely one that just has, or this very one. */
  private deadline(): number {
    return this.weighted([
      [60, FOREVER_MS],
      [1, this.nowMs - 1],
      [1, this.nowMs],
    ]);
  }

  /** Undefined for an empty list, which the types of non-empty ones do not show. */
  private pick<T>(list: readonly T[]): T {
    return list[this.upTo(list.length - 1)] as T;
  }

  private recent<T>(list: readonly T[], depth = 20): T | undefined {
    return list.length === 0 ? undefined : list[list.length - 1 - this.upTo(Math.min(depth, list.length) - 1)];
  }

  private weighted<T>(choices: readonly (readonly [number, T])[]): T {
    let left = this.random() * choices.reduce((sum, [weight]) => sum + weight, 0);
    for (const [weight, choice] of choices) {
      left -= weight;
      if (left < 0) return choice;
    }
    return (choices.at(-1) as readonly [number, T])[1];
  }

  private newRandomWord(): string {
    const half = () =>
      Math.floor(this.random() * 36 ** 10)
        .toString(36)
        .padStart(10, '0');
    return half() + half();
  }
}

function isBefore([aMs, a]: readonly [number, number], [bMs, b]: readonly [number, number]): boolean {
  return aMs < bMs || (aMs === bMs && a < b);
}

function sameEndedOrOne(expected: unknown, actual: unknown): boolean {
  if (Array.isArray(expected) && Array.isArray(actual)) return sameEnded(expected, actual);
  return isDeepStrictEqual(expected, actual);
}

function pickFields(record: object, names: readonly string[]): Record<string, unknown> {
  const source = new Map(Object.entries(record));
  return Object.fromEntries(names.map((name) => [name, source.get(name)]));
}

function short(id: string): string {
  return id.slice(2, 8);
}

function brief({
  id,
  mode,
  lane,
  expiresAtMs,
  notBeforeMs,
  maxAttempts,
  coalesceKey,
  idempotency,
}: NewCommand): string {
  const extra = [
    notBeforeMs === undefined ? '' : `notBefore ${notBeforeMs}`,
    maxAttempts > 1 ? `attempts ${maxAttempts}` : '',
    coalesceKey === undefined ? '' : `coalesce ${coalesceKey}`,
    idempotency === undefined ? '' : `key ${Number(idempotency.key)}/${Number(idempotency.request)}`,
  ];
  return [short(id), mode, lane, `expires ${expiresAtMs}`, ...extra].filter((word) => word !== '').join(' ');
}

/** Small, fast, and the same on every machine; far from secret. */
function mulberry(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 4_294_967_296;
  };
}
