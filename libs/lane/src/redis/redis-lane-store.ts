/** LaneIntake and LaneLine on Redis: each change is one Lua script on the shard of the device; what they guarantee stands in their heads.
 *  Redis away: every method rejects with `broker_unavailable`, and the script may have run all the same; running it again does no harm.
 *  Near full: `submit` and `queueDirect` are refused by Redis itself, everything that ends or sends a command goes on (D12). */

import { isUtf8 } from 'node:buffer';
import {
  BrokerError,
  type CommandId,
  type DeviceCode,
  type Epoch,
  type InstanceId,
  type LapiMethod,
  type NodeId,
  shardOfCommand,
} from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import type {
  CommandMode,
  CommandRecord,
  CommandState,
  EndedCommand,
  Executed,
  NewCommand,
} from '../command-record.ts';
import type {
  AttemptEnd,
  BeginRequest,
  BeginResult,
  CancelResult,
  DirectEnd,
  HistoryPage,
  LaneIntake,
  LaneLimits,
  LaneLine,
  LaneOwner,
  SettleResult,
  SubmitResult,
  TendResult,
} from '../lane-store.ts';
import { decodeCursor, encodeCursor } from './history-cursor.ts';

export interface RedisLaneStoreOptions {
  /** How long a record is kept after its end, ms. At least as long as an Idempotency-Key holds. */
  readonly keepMs: number;
  /** Folder of the scripts, for tests of the scripts themselves. */
  readonly scripts?: URL;
}

/** An Idempotency-Key holds for a day, and as long as its command may wait (I4.3). */
const IDEMPOTENCY_MS = 86_400_000;
/** A late answer is taken for so long (protocol E13). */
const LATE_MS = 600_000;
const INLINE_RESPONSE_BYTES = 64 * 1_024;
const LARGE_RESPONSE_MS = 600_000;
/** Commands of a device that its history names. */
const HISTORY_LENGTH = 1_000;
/** Longest life of a command that waits; its place in the history must outlive it. */
const LONGEST_WAIT_MS = 8 * 86_400_000;
/** A lane that somebody took to tend is not handed to others for so long. */
const TURN_MS = 2_000;
/** Commands accepted in one millisecond that a page may have to skip. */
const SAME_MS_SLACK = 64;

/** Fields of a record, and the lines of its `rq`, as lane.lua names them. */
const FIELDS = ['st', 'rq', 'n', 'ep', 'sa', 'ea', 'ex', 'rc', 'lt', 'cd', 'rb'] as const;
const CORE = [
  'md', 'ln', 'm', 'u', 'bb', 'at', 'exp', 'nb', 'to', 'ma', 'bo', 'ck', 'ik', 'by', 'job', 'of', 'rp', 'code',
] as const; // biome-ignore format: one word per line of `rq`
type Field = (typeof FIELDS)[number] | (typeof CORE)[number];

/** ioredis has these for every command and leaves them out of its types. */
type BufferReads = RedisConnection & {
  hmgetBuffer(key: string, ...fields: string[]): Promise<(Buffer | null)[]>;
  getBuffer(key: string): Promise<Buffer | null>;
};

const COMMON_KEYS = 8;

export class RedisLaneStore implements LaneIntake, LaneLine {
  readonly #connection: BufferReads;
  readonly #keyspace: Keyspace;
  readonly #options: RedisLaneStoreOptions;
  readonly #submit: Script;
  readonly #queueDirect: Script;
  readonly #begin: Script;
  readonly #settle: Script;
  readonly #giveBack: Script;
  readonly #cancel: Script;
  readonly #tend: Script;
  readonly #due: Script;

  /** A state connection; the caller opens and closes it. What is issued on it in order runs in order. */
  constructor(connection: RedisConnection, keyspace: Keyspace, options: RedisLaneStoreOptions) {
    this.#connection = connection as BufferReads;
    this.#keyspace = keyspace;
    this.#options = options;
    const folder = options.scripts ?? new URL('./', import.meta.url);
    const script = (name: string, keys = COMMON_KEYS): Script =>
      createScript(connection, new URL(`${name}.lua`, folder), keys, { replies: 'buffer' });
    this.#submit = script('submit', COMMON_KEYS + 1);
    this.#queueDirect = script('queue-direct');
    this.#begin = script('begin');
    this.#settle = script('settle');
    this.#giveBack = script('give-back');
    this.#cancel = script('cancel');
    this.#tend = script('tend');
    this.#due = script('due', 1);
  }

  async submit(command: NewCommand, limits: LaneLimits, notAfterMs: number): Promise<SubmitResult> {
    const { code } = command;
    const reply = await this.#submit(
      [...this.#keys(code), this.#keyspace.history(code)],
      [
        ...this.#args(code, notAfterMs),
        command.id,
        command.mode,
        command.lane === 'urgent' ? 'u' : 'n',
        command.method,
        command.url,
        argumentOf(command.body),
        command.timeoutMs,
        Math.floor(command.expiresAtMs),
        command.notBeforeMs === undefined ? '' : Math.ceil(command.notBeforeMs),
        command.maxAttempts,
        command.backoffMs,
        command.coalesceKey ?? '',
        command.idempotency?.key ?? '',
        command.idempotency?.request ?? '',
        command.keyId,
        command.job ?? '',
        command.retryOf ?? '',
        command.replyTo ?? '',
        limits.commands,
        limits.bytes,
        HISTORY_LENGTH,
        this.#options.keepMs + LONGEST_WAIT_MS,
        IDEMPOTENCY_MS,
        command.mode === 'queue' ? '' : Math.ceil(command.directUntilMs ?? command.expiresAtMs),
      ],
    );
    return submitResult(reply);
  }

  async settleDirect(code: DeviceCode, id: CommandId, end: DirectEnd): Promise<SettleResult> {
    return await this.settle(code, id, DIRECT_EPOCH, 1, end);
  }

  async queueDirect(code: DeviceCode, id: CommandId, limits: LaneLimits): Promise<SubmitResult> {
    const args = [...this.#args(code), id, limits.commands, limits.bytes];
    return submitResult(await this.#queueDirect(this.#keys(code), args));
  }

  async cancel(code: DeviceCode, id: CommandId, notAfterMs: number): Promise<CancelResult> {
    const reply = listOf(await this.#cancel(this.#keys(code), [...this.#args(code, notAfterMs), id]));
    switch (text(reply[0])) {
      case 'CANCELLED':
        return { status: 'cancelled', ended: endedOf(reply[1]) };
      case 'NOT_QUEUED':
        return { status: 'not_queued', state: text(reply[1]) as CommandState };
      case 'GONE':
        return { status: 'not_found' };
      case 'LATE':
        return { status: 'late' };
      default:
        throw unexpected('cancel', reply);
    }
  }

  async read(id: CommandId): Promise<CommandRecord | undefined> {
    if (!this.#isOurs(id)) return undefined;
    const found = await guarded(this.#connection.hmgetBuffer(this.#keyspace.command(id), ...FIELDS, 'res'));
    const inline = found.pop();
    const record = recordOf(
      id,
      found.map((value) => value?.toString() ?? null),
    );
    if (record === undefined || record.responseBytes === 0) return record;
    const response = inline != null && inline.length > 0 ? inline : await this.#largeResponse(id);
    return response === undefined ? record : { ...record, response };
  }

  async readBody(id: CommandId): Promise<Uint8Array | undefined> {
    if (!this.#isOurs(id)) return undefined;
    const [body] = await guarded(this.#connection.hmgetBuffer(this.#keyspace.command(id), 'b'));
    return body ?? undefined;
  }

  async readStates(ids: readonly CommandId[]): Promise<readonly (CommandRecord | undefined)[]> {
    return await Promise.all(
      ids.map(async (id) => {
        if (!this.#isOurs(id)) return undefined;
        return recordOf(id, await guarded(this.#connection.hmget(this.#keyspace.command(id), ...FIELDS)));
      }),
    );
  }

  async history(code: DeviceCode, cursor: string | undefined, limit: number): Promise<HistoryPage> {
    const from = cursor === undefined ? undefined : decodeCursor(cursor);
    const found = await guarded(
      this.#connection.zrevrangebyscore(
        this.#keyspace.history(code),
        from === undefined ? '+inf' : String(from.acceptedAtMs),
        '-inf',
        'WITHSCORES',
        'LIMIT',
        0,
        limit + 1 + SAME_MS_SLACK,
      ),
    );
    const places: { acceptedAtMs: number; id: CommandId }[] = [];
    for (let i = 0; i + 1 < found.length; i += 2) {
      const place = { id: found[i] as CommandId, acceptedAtMs: Number(found[i + 1]) };
      // Equal times are in falling order of their ids.
      const isBefore = from !== undefined && place.acceptedAtMs === from.acceptedAtMs && place.id >= from.id;
      if (!isBefore) places.push(place);
    }
    const page = places.slice(0, limit);
    const last = page.at(-1);
    const records = await this.readStates(page.map(({ id }) => id));
    return {
      items: records.filter((record) => record !== undefined),
      cursor: places.length > limit && last !== undefined ? encodeCursor(last) : undefined,
    };
  }

  async tend(code: DeviceCode): Promise<TendResult> {
    const reply = listOf(await this.#tend(this.#keys(code), this.#args(code)));
    if (text(reply[0]) !== 'TENDED') throw unexpected('tend', reply);
    return {
      owner: ownerOf(reply[1], reply[2]),
      startable: text(reply[3]) === '1',
      timerAtMs: optional(reply[4]),
      ended: endedOf(reply[5]),
    };
  }

  async due(shard: number, limit: number): Promise<readonly DeviceCode[]> {
    const reply = listOf(await this.#due([this.#keyspace.due(shard)], [limit, TURN_MS]));
    return reply.map((code) => text(code) as DeviceCode);
  }

  async waiting(): Promise<number> {
    const counts = await Promise.all(
      Array.from({ length: this.#keyspace.shards }, (_, shard) =>
        guarded(this.#connection.get(this.#keyspace.waiting(shard))),
      ),
    );
    return counts.reduce((sum, count) => sum + Math.max(0, Number(count ?? 0)), 0);
  }

  async begin({ code, lane, node, epoch, window, notAfterMs }: BeginRequest): Promise<BeginResult> {
    const args = [...this.#args(code, notAfterMs), lane === 'urgent' ? 'u' : 'n', node, epoch, window];
    const reply = listOf(await this.#begin(this.#keys(code), args));
    switch (text(reply[0])) {
      case 'BEGUN':
        return {
          status: 'begun',
          command: {
            id: text(reply[1]) as CommandId,
            attempt: Number(text(reply[2])),
            writes: Number(reply[9]),
            lane,
            method: text(reply[3]) as LapiMethod,
            url: text(reply[4]),
            body: reply[5] as Buffer,
            leftMs: Number(text(reply[6])),
          },
          isLast: Number(reply[8]) === 0,
          ended: endedOf(reply[7]),
        };
      case 'IDLE':
        return { status: 'idle', nextMs: optional(reply[1]), ended: endedOf(reply[2]) };
      case 'BUSY':
        return { status: 'busy', ended: endedOf(reply[1]) };
      case 'FENCED':
        return { status: 'fenced' };
      case 'LATE':
        return { status: 'late' };
      default:
        throw unexpected('begin', reply);
    }
  }

  async giveBack(code: DeviceCode, id: CommandId, epoch: Epoch, attempt: number): Promise<SettleResult> {
    return settleResult(await this.#giveBack(this.#keys(code), [...this.#args(code), id, epoch, attempt]), id);
  }

  async settle(code: DeviceCode, id: CommandId, epoch: Epoch, attempt: number, end: AttemptEnd): Promise<SettleResult> {
    const answered = end.kind === 'answered' ? end : undefined;
    const reply = await this.#settle(this.#keys(code), [
      ...this.#args(code),
      id,
      epoch,
      attempt,
      end.kind,
      answered?.success === true ? '1' : '0',
      answered?.responseCode ?? '',
      answered === undefined ? '' : argumentOf(answered.body),
      end.kind === 'lost' || end.kind === 'refused' ? end.reason : '',
      LATE_MS,
      INLINE_RESPONSE_BYTES,
      LARGE_RESPONSE_MS,
    ]);
    return settleResult(reply, id);
  }

  async #largeResponse(id: CommandId): Promise<Buffer | undefined> {
    return (await guarded(this.#connection.getBuffer(this.#keyspace.result(id)))) ?? undefined;
  }

  /** An id from outside may name a shard that does not exist. */
  #isOurs(id: CommandId): boolean {
    const shard = shardOfCommand(id);
    return shard >= 0 && shard < this.#keyspace.shards;
  }

  #keys(code: DeviceCode): string[] {
    const keyspace = this.#keyspace;
    const shard = keyspace.shardOf(code);
    return [
      keyspace.device(code),
      keyspace.lane(code),
      keyspace.waitingIn('normal', code),
      keyspace.waitingIn('urgent', code),
      keyspace.clock(code),
      keyspace.due(shard),
      keyspace.events(shard),
      keyspace.waiting(shard),
    ];
  }

  #args(code: DeviceCode, notAfterMs?: number): (string | number)[] {
    const { keepMs } = this.#options;
    const notAfter = notAfterMs === undefined ? '' : Math.floor(notAfterMs);
    return [this.#keyspace.prefixOf(code), code, notAfter, keepMs];
  }
}

/** Direct calls belong to the process that makes them, not to an ownership. */
const DIRECT_EPOCH = 0 as Epoch;

/** Above, making text of it costs more than it saves. */
const TEXT_BYTES = 4_096;

/** As text where that is the same bytes: with one Buffer among its arguments the client takes several times as long to write a call. */
function argumentOf(body: Uint8Array): string | Buffer {
  const bytes = Buffer.from(body.buffer, body.byteOffset, body.byteLength);
  return bytes.length <= TEXT_BYTES && isUtf8(bytes) ? bytes.toString() : bytes;
}

function submitResult(raw: unknown): SubmitResult {
  const reply = listOf(raw);
  switch (text(reply[0])) {
    case 'ACCEPTED':
      return {
        status: 'accepted',
        state: text(reply[1]) as 'queued' | 'sent',
        owner: ownerOf(reply[2], reply[3]),
        timerAtMs: optional(reply[4]),
        ended: endedOf(reply[5]),
      };
    case 'REPEATED':
      return { status: 'repeated', id: text(reply[1]) as CommandId, state: text(reply[2]) as CommandState };
    case 'CONFLICT':
      return { status: 'key_conflict', id: text(reply[1]) as CommandId };
    case 'FULL':
      return { status: 'lane_full', limit: text(reply[1]) as 'commands' | 'bytes' };
    case 'UNKNOWN':
      return { status: 'device_unknown' };
    case 'EXPIRED':
      return { status: 'expired' };
    case 'LATE':
      return { status: 'late' };
    default:
      throw unexpected('submit', reply);
  }
}

function settleResult(raw: unknown, id: CommandId): SettleResult {
  const reply = listOf(raw);
  switch (text(reply[0])) {
    case 'SETTLED': {
      const ended = endedOf(reply[3]).find((each) => each.id === id);
      if (ended === undefined) throw unexpected('settle', reply);
      return { status: 'settled', ended, late: text(reply[2]) === '1' };
    }
    case 'REQUEUED':
      return { status: 'requeued', nextMs: Number(text(reply[1])) };
    case 'STALE':
      return { status: 'stale' };
    default:
      throw unexpected('settle', reply);
  }
}

function recordOf(id: CommandId, values: readonly (string | null)[]): CommandRecord | undefined {
  if (values[0] == null) return undefined;
  const lines = (values[1] ?? '').split('\n');
  const found = new Map<Field, string>();
  FIELDS.forEach((name, i) => {
    found.set(name, values[i] ?? '');
  });
  CORE.forEach((name, i) => {
    found.set(name, lines[i] ?? '');
  });
  const field = (name: Field): string => found.get(name) ?? '';
  const number = (name: Field): number | undefined => (field(name) === '' ? undefined : Number(field(name)));
  const word = (name: Field): string | undefined => (field(name) === '' ? undefined : field(name));
  return {
    id,
    code: field('code') as DeviceCode,
    mode: field('md') as CommandMode,
    lane: field('ln') === 'u' ? 'urgent' : 'normal',
    method: field('m') as LapiMethod,
    url: field('u'),
    state: field('st') as CommandState,
    executed: word('ex') as Executed | undefined,
    reason: field('rc'),
    late: field('lt') === '1',
    attempts: number('n') ?? 0,
    maxAttempts: number('ma') ?? 1,
    timeoutMs: number('to') ?? 0,
    backoffMs: number('bo') ?? 0,
    acceptedAtMs: number('at') ?? 0,
    expiresAtMs: number('exp') ?? 0,
    notBeforeMs: number('nb'),
    sentAtMs: number('sa'),
    epoch: number('ep') as Epoch | undefined,
    endedAtMs: number('ea'),
    responseCode: number('cd'),
    response: undefined,
    responseBytes: number('rb') ?? 0,
    coalesceKey: word('ck'),
    keyId: field('by'),
    job: word('job'),
    retryOf: word('of') as CommandId | undefined,
  };
}

function listOf(reply: unknown): readonly unknown[] {
  if (!Array.isArray(reply)) throw unexpected('lane script', [reply]);
  return reply;
}

function text(value: unknown): string {
  return Buffer.isBuffer(value) ? value.toString() : String(value ?? '');
}

function optional(value: unknown): number | undefined {
  const number = text(value);
  return number === '' ? undefined : Number(number);
}

function ownerOf(node: unknown, epoch: unknown): LaneOwner | undefined {
  const name = text(node);
  return name === '' ? undefined : { node: name as NodeId, epoch: Number(text(epoch)) as Epoch };
}

function endedOf(value: unknown): EndedCommand[] {
  return listOf(value).map((each) => {
    const [id, state, replyTo] = listOf(each).map(text);
    return {
      id: id as CommandId,
      state: state as CommandState,
      replyTo: replyTo === '' ? undefined : (replyTo as InstanceId),
    };
  });
}

function unexpected(script: string, reply: readonly unknown[]): BrokerError {
  return new BrokerError('internal', `${script} answered ${text(reply[0])}, which this version does not know`);
}
