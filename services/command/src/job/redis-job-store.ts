/** JobCatalogue and JobBench on Redis: one slot per job, and one for the list of jobs.
 *  A job is a hash:
 *    spec (JSON of JobSpec)  data  total  created  notBefore  deadline        written once, the last two again by a retry
 *    state stopTo reason retry started ended wave waveStarted roundEnded roundFailed tokens tokensAt rate rateAt
 *    n:<state of a target> how many        fence until (the runner's lease)        times in ms of Redis time
 *  a list of codes with their groups, and a hash from index to what became of the target; absent = untouched, so that creating 10,000 targets
 *  writes one list. Between the list of jobs and a job there is no transaction: a job is reserved first and opened last, and leaves the active
 *  ones after its end, so whatever dies in between leaves something that the sweeper finds. */

import { BrokerError, type DeviceCode } from '@lapi-broker/protocol';
import {
  createScript,
  guarded,
  type Keyspace,
  type RedisConnection,
  type Script,
  type ScriptArgument,
} from '@lapi-broker/redis';
import {
  decodeTarget,
  encodeTarget,
  isJobState,
  type JobProgress,
  type JobRecord,
  type JobSpec,
  RETRYABLE_STATES,
  type RetryableState,
  TARGET_STATES,
  type TargetCounts,
  type TargetState,
  type TargetStatus,
  UNTOUCHED,
} from './job.ts';
import { JOB_LIMITS } from './job-limits.ts';
import type {
  Applied,
  Change,
  DueJob,
  Earlier,
  IdempotencyHashes,
  JobBench,
  JobCatalogue,
  JobChange,
  JobPage,
  LeaseResult,
  LoadedTarget,
  NewJob,
  Reserved,
  Steered,
  StoredTarget,
  TargetPage,
} from './job-store.ts';

export interface RedisJobStoreOptions {
  readonly activeJobs: number;
  readonly keptJobs: number;
  /** How long a runner keeps a job without a word. */
  readonly leaseMs?: number;
}

const script = (name: string): URL => new URL(`./${name}.lua`, import.meta.url);

const LEASE_MS = 5_000;
/** Between the reservation of a job and its opening. */
const OPEN_MS = 60_000;
/** Values per command, and rows per read. */
const CHUNK = 1_000;
/** Jobs that one page looks at, ended and forgotten ones included. */
const MAX_WALK = 2_000;
const PROGRESS = [
  'state',
  'stopTo',
  'reason',
  'wave',
  'waveStarted',
  'roundEnded',
  'roundFailed',
  'tokens',
  'tokensAt',
  'retry',
] as const;
const REST = ['spec', 'total', 'created', 'notBefore', 'deadline', 'started', 'ended', 'rate', 'rateAt'] as const;
const COUNTS = TARGET_STATES.map((state) => `n:${state}`);
const CURSOR = /^(\d{1,15})-([0-9a-z]{20})$/;

/** Is it one that `list` made? */
export function isListCursor(text: string): boolean {
  return CURSOR.test(text);
}

type Values = readonly (string | null | undefined)[];

export class RedisJobStore implements JobCatalogue, JobBench {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #options: RedisJobStoreOptions;
  readonly #leaseMs: number;
  readonly #scripts: Readonly<
    Record<'reserve' | 'open' | 'activate' | 'deactivate' | 'lease' | 'apply' | 'steer', Script>
  >;

  /** A state connection; the caller opens and closes it. */
  constructor(connection: RedisConnection, keyspace: Keyspace, options: RedisJobStoreOptions) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#options = options;
    this.#leaseMs = options.leaseMs ?? LEASE_MS;
    this.#scripts = {
      reserve: createScript(connection, script('reserve'), 3),
      open: createScript(connection, script('open'), 3),
      activate: createScript(connection, script('activate'), 2),
      deactivate: createScript(connection, script('deactivate'), 1),
      lease: createScript(connection, script('lease'), 1),
      apply: createScript(connection, script('apply'), 3),
      steer: createScript(connection, script('steer'), 3),
    };
  }

  async earlier({ key, request }: IdempotencyHashes): Promise<Earlier | undefined> {
    const noted = await guarded(this.#connection.get(this.#keyspace.jobKey(key)));
    const [id = '', earlierRequest = ''] = noted?.split(' ') ?? [];
    if (id === '' || (await guarded(this.#connection.zscore(this.#keyspace.jobs(), id))) === null) return undefined;
    return { status: earlierRequest === request ? 'repeated' : 'conflict', id };
  }

  async reserve(id: string, key: IdempotencyHashes | undefined): Promise<Reserved> {
    const { activeJobs, keptJobs } = this.#options;
    const keys = [this.#keyspace.jobs(), this.#keyspace.activeJobs(), this.#keyspace.jobKey(key?.key ?? '')];
    const args = [id, key?.request ?? '', JOB_LIMITS.idempotencyMs, activeJobs, keptJobs, OPEN_MS];
    const [status = '', value = '', ...pruned] = words(await this.#scripts.reserve(keys, args));
    switch (status) {
      case 'RESERVED':
        await Promise.all(pruned.map((old) => this.#forget(old)));
        return { status: 'reserved', createdAtMs: Number(value) };
      case 'REPEATED':
        return { status: 'repeated', id: value };
      case 'CONFLICT':
        return { status: 'conflict', id: value };
      case 'FULL':
        return { status: 'full' };
      default:
        throw unexpected('reserve', status);
    }
  }

  async open(job: NewJob): Promise<void> {
    const { id, targets, data, createdAtMs, notBeforeMs, deadlineMs, name, command, pace, keyId, schedule } = job;
    const codesKey = this.#keyspace.jobCodes(id);
    const targetsKey = this.#keyspace.jobTargets(id);
    const unknown = encodeTarget({
      state: 'failed',
      tries: 0,
      executed: 'no',
      reason: 'device_unknown',
      endedAtMs: createdAtMs,
    });
    // An earlier attempt of the same creation may have left a part.
    await guarded(this.#connection.del(codesKey, targetsKey));
    const writes: Promise<unknown>[] = [];
    for (let from = 0; from < targets.length; from += CHUNK) {
      const chunk = targets.slice(from, from + CHUNK);
      writes.push(this.#connection.rpush(codesKey, ...chunk.map(({ code, groups }) => [code, ...groups].join())));
      const failed = chunk.flatMap(({ known }, at) => (known ? [] : [String(from + at), unknown]));
      if (failed.length > 0) writes.push(this.#connection.hset(targetsKey, ...failed));
    }
    // Nobody opens it, nobody keeps it.
    writes.push(this.#connection.pexpire(codesKey, OPEN_MS), this.#connection.pexpire(targetsKey, OPEN_MS));
    await guarded(Promise.all(writes));
    const failed = targets.reduce((sum, { known }) => sum + (known ? 0 : 1), 0);
    const spec: JobSpec = { name, command, pace, keyId, ...(schedule === undefined ? {} : { schedule }) };
    const fields: ScriptArgument[] = ['spec', JSON.stringify(spec), 'data', Buffer.from(data), 'total', targets.length];
    fields.push(
      'created',
      createdAtMs,
      'notBefore',
      notBeforeMs,
      'deadline',
      deadlineMs,
      'state',
      'running',
      'wave',
      0,
    );
    fields.push('waveStarted', 0, 'roundEnded', 0, 'roundFailed', 0, 'tokens', 1, 'tokensAt', createdAtMs);
    fields.push('n:todo', targets.length - failed, 'n:failed', failed);
    const opened = await this.#scripts.open(this.#keys(id), [createdAtMs + OPEN_MS / 2, targets.length, ...fields]);
    if (opened !== 'OPENED' && opened !== 'EXISTS')
      throw new BrokerError('broker_unavailable', 'The store was too slow for the job, or lost a part of it.');
  }

  async read(id: string): Promise<JobRecord | undefined> {
    const values = await guarded(this.#connection.hmget(this.#keyspace.job(id), ...PROGRESS, ...REST, ...COUNTS));
    return toRecord(id, values);
  }

  async list(cursor: string | undefined, limit: number): Promise<JobPage> {
    const items: JobRecord[] = [];
    let before = cursor;
    for (let walked = 0; walked < MAX_WALK; walked += limit) {
      const rows = await this.#newest(before, limit - items.length);
      const records = await Promise.all(rows.map(({ id }) => this.read(id)));
      // One that is being created, or was forgotten after its end, is not there.
      items.push(...records.filter((record) => record !== undefined));
      const last = rows.at(-1);
      if (last === undefined) return { items, cursor: undefined };
      before = `${last.atMs}-${last.id}`;
      if (items.length >= limit) break;
    }
    return { items, cursor: before };
  }

  /** Jobs after a place in the order of creation, newest first; of one moment by id, the larger first. */
  async #newest(before: string | undefined, limit: number): Promise<readonly DueJob[]> {
    const place = before === undefined ? undefined : CURSOR.exec(before);
    const rows: DueJob[] = [];
    if (place !== null && place !== undefined) {
      const [, at = '', id = ''] = place;
      const same = await guarded(this.#connection.zrevrangebyscore(this.#keyspace.jobs(), at, at));
      rows.push(...same.filter((each) => each < id).map((each) => ({ id: each, atMs: Number(at) })));
    }
    const max = place === undefined || place === null ? '+inf' : `(${place[1]}`;
    const older = await guarded(
      this.#connection.zrevrangebyscore(this.#keyspace.jobs(), max, '-inf', 'WITHSCORES', 'LIMIT', 0, limit),
    );
    return [...rows, ...pairs(older)].slice(0, limit);
  }

  async targets(id: string, from: number, limit: number, state?: TargetState): Promise<TargetPage> {
    const items: StoredTarget[] = [];
    for (let at = from; at < JOB_LIMITS.targets; at += CHUNK) {
      const rows = await this.#rows(id, at, CHUNK);
      for (const row of rows) {
        if (state !== undefined && row.state !== state) continue;
        if (items.length === limit) return { items, next: row.index };
        items.push(row);
      }
      if (rows.length < CHUNK) break;
    }
    return { items, next: undefined };
  }

  pause(id: string): Promise<Steered> {
    return this.#steer(id, ['running'], ['state', 'paused']);
  }

  resume(id: string): Promise<Steered> {
    return this.#steer(id, ['paused'], ['state', 'running']);
  }

  cancel(id: string): Promise<Steered> {
    return this.#steer(id, ['running', 'paused'], ['state', 'stopping', 'stopTo', 'cancelled']);
  }

  async retry(
    id: string,
    states: readonly RetryableState[],
    deadlineMs: number,
  ): Promise<Steered | { readonly status: 'full' }> {
    // Active first: nobody would look at a job that runs and is not among the active ones.
    const keys = [this.#keyspace.jobs(), this.#keyspace.activeJobs()];
    const active = await this.#scripts.activate(keys, [id, this.#options.activeJobs, this.#leaseMs]);
    if (active === 'FULL') return { status: 'full' };
    if (active === 'GONE') return { status: 'not_found' };
    const fields: ScriptArgument[] = [
      'state',
      'running',
      'stopTo',
      '',
      'reason',
      '',
      'ended',
      '',
      'retry',
      states.join(),
    ];
    fields.push('deadline', Math.floor(deadlineMs), 'rate', '', 'rateAt', '');
    return await this.#steer(id, ['finished_with_failures', 'aborted', 'cancelled'], fields, true);
  }

  async due(limit: number): Promise<readonly DueJob[]> {
    const [seconds] = await guarded(this.#connection.time());
    const key = this.#keyspace.activeJobs();
    const now = Number(seconds) * 1_000;
    return pairs(await guarded(this.#connection.zrangebyscore(key, '-inf', now, 'WITHSCORES', 'LIMIT', 0, limit)));
  }

  async attend(id: string, afterMs: number): Promise<number> {
    const [seconds, micros] = await guarded(this.#connection.time());
    const atMs = Number(seconds) * 1_000 + Math.floor(Number(micros) / 1_000) + Math.max(0, Math.round(afterMs));
    await guarded(this.#connection.zadd(this.#keyspace.activeJobs(), 'XX', atMs, id));
    return atMs;
  }

  async settle({ id, atMs }: DueJob): Promise<void> {
    const left = await this.#scripts.deactivate([this.#keyspace.activeJobs()], [id, atMs]);
    if (left !== 'LEFT') return;
    const opened = await guarded(this.#connection.exists(this.#keyspace.job(id)));
    // Nobody opened it: its key is free again.
    if (opened === 0) await guarded(this.#connection.zrem(this.#keyspace.jobs(), id));
  }

  async lease(id: string): Promise<LeaseResult> {
    const [status = '', first = '', second = ''] = words(
      await this.#scripts.lease([this.#keyspace.job(id)], [this.#leaseMs]),
    );
    switch (status) {
      case 'LEASED':
        return { status: 'leased', fence: Number(first), endsAtMs: Number(second) };
      case 'BUSY':
        return { status: 'busy', untilMs: Number(first) };
      case 'ENDED':
        return { status: 'ended' };
      case 'GONE':
        return { status: 'gone' };
      default:
        throw unexpected('lease', status);
    }
  }

  async load(id: string): Promise<readonly LoadedTarget[]> {
    const chunks: Promise<LoadedTarget[]>[] = [];
    const total = await guarded(this.#connection.llen(this.#keyspace.jobCodes(id)));
    for (let from = 0; from < Math.min(total, JOB_LIMITS.targets); from += CHUNK)
      chunks.push(this.#rows(id, from, CHUNK));
    return (await Promise.all(chunks)).flat();
  }

  async data(id: string): Promise<Uint8Array> {
    return (await guarded(this.#connection.hgetBuffer(this.#keyspace.job(id), 'data'))) ?? Buffer.alloc(0);
  }

  async apply(id: string, change: Change): Promise<Applied> {
    return await this.#apply(id, change, this.#leaseMs);
  }

  async release(id: string, fence: number): Promise<Applied> {
    return await this.#apply(id, { fence }, 0);
  }

  async #apply(id: string, { fence, while: required, job, targets = [] }: Change, leaseMs: number): Promise<Applied> {
    const fields = job === undefined ? [] : fieldsOf(job);
    const keepMs = job?.state === undefined || job.state === 'stopping' ? '' : JOB_LIMITS.keepMs;
    const args: ScriptArgument[] = [fence, leaseMs, required ?? '', keepMs, fields.length / 2, ...fields];
    for (const { index, to } of targets) args.push(index, encodeTarget(to));
    const [status = '', endsAt = '', now = '', ...progress] = words(await this.#scripts.apply(this.#keys(id), args));
    if (status === 'FENCED') return { status: 'fenced' };
    if (status !== 'APPLIED' && status !== 'REFUSED') throw unexpected('apply', status);
    return {
      status: status === 'APPLIED' ? 'applied' : 'refused',
      lease: { fence, endsAtMs: Number(endsAt) },
      nowMs: Number(now),
      progress: toProgress(progress),
    };
  }

  async #steer(
    id: string,
    allowed: readonly string[],
    fields: readonly ScriptArgument[],
    persist = false,
  ): Promise<Steered> {
    const [status = '', state = ''] = words(
      await this.#scripts.steer(this.#keys(id), [allowed.join(), persist ? 1 : 0, ...fields]),
    );
    if (status === 'STEERED') return { status: 'steered' };
    if (status === 'GONE') return { status: 'not_found' };
    if (status !== 'CONFLICT' || !isJobState(state)) throw unexpected('steer', `${status} ${state}`);
    return { status: 'conflict', state };
  }

  async #rows(id: string, from: number, count: number): Promise<LoadedTarget[]> {
    const codes = await guarded(this.#connection.lrange(this.#keyspace.jobCodes(id), from, from + count - 1));
    if (codes.length === 0) return [];
    const indexes = codes.map((_, at) => String(from + at));
    const statuses = await guarded(this.#connection.hmget(this.#keyspace.jobTargets(id), ...indexes));
    return codes.map((text, at) => {
      const [code = '', ...groups] = text.split(',');
      return { index: from + at, code: code as DeviceCode, groups, ...statusOf(statuses[at]) };
    });
  }

  async #forget(id: string): Promise<void> {
    await guarded(this.#connection.del(...this.#keys(id)));
  }

  #keys(id: string): readonly [string, string, string] {
    return [this.#keyspace.job(id), this.#keyspace.jobTargets(id), this.#keyspace.jobCodes(id)];
  }
}

function statusOf(text: string | null | undefined): TargetStatus {
  return (typeof text === 'string' ? decodeTarget(text) : undefined) ?? UNTOUCHED;
}

function fieldsOf(change: JobChange): ScriptArgument[] {
  const { state, stopTo, reason, wave, waveStarted, tokens, tokensAtMs, ratePerSecond, rateAtMs } = change;
  const { startedAtMs, endedAtMs, newRound } = change;
  const named: readonly (readonly [string, ScriptArgument | undefined])[] = [
    ['state', state],
    ['stopTo', stopTo],
    ['reason', reason],
    ['wave', newRound ? 0 : wave],
    ['waveStarted', newRound ? 0 : waveStarted],
    ['tokens', tokens],
    ['tokensAt', tokensAtMs],
    ['rate', ratePerSecond],
    ['rateAt', rateAtMs],
    ['started', startedAtMs],
    ['ended', endedAtMs],
    ['retry', newRound ? '' : undefined],
    ['roundEnded', newRound ? 0 : undefined],
    ['roundFailed', newRound ? 0 : undefined],
  ];
  return named.flatMap(([name, value]) => (value === undefined ? [] : [name, value]));
}

function toProgress(values: Values): JobProgress {
  const [state, stopTo, reason, wave, waveStarted, roundEnded, roundFailed, tokens, tokensAt, retry] = values;
  if (typeof state !== 'string' || !isJobState(state)) throw unexpected('job', String(state));
  return {
    state,
    stopTo: stopTo === 'aborted' || stopTo === 'cancelled' ? stopTo : undefined,
    reason: reason ?? '',
    wave: Number(wave ?? 0),
    waveStarted: Number(waveStarted ?? 0),
    roundEnded: Number(roundEnded ?? 0),
    roundFailed: Number(roundFailed ?? 0),
    tokens: Number(tokens ?? 0),
    tokensAtMs: Number(tokensAt ?? 0),
    retry: RETRYABLE_STATES.filter((each) => (retry ?? '').split(',').includes(each)),
  };
}

function toRecord(id: string, values: Values): JobRecord | undefined {
  const progress = values.slice(0, PROGRESS.length);
  const [spec, total, created, notBefore, deadline, started, ended, rate, rateAt] = values.slice(PROGRESS.length);
  const counts = values.slice(PROGRESS.length + REST.length);
  if (typeof spec !== 'string') return undefined;
  return {
    // Written by `open`, and by nobody else.
    ...(JSON.parse(spec) as JobSpec),
    id,
    total: Number(total),
    counts: Object.fromEntries(TARGET_STATES.map((state, at) => [state, Number(counts[at] ?? 0)])) as TargetCounts,
    progress: toProgress(progress),
    createdAtMs: Number(created),
    notBeforeMs: Number(notBefore),
    deadlineMs: Number(deadline),
    startedAtMs: timeOf(started),
    endedAtMs: timeOf(ended),
    rate: rate ? { perSecond: Number(rate), atMs: Number(rateAt ?? 0) } : undefined,
  };
}

function timeOf(text: string | null | undefined): number | undefined {
  return text ? Number(text) : undefined;
}

function words(reply: unknown): string[] {
  return Array.isArray(reply) ? reply.map(String) : [];
}

function pairs(flat: readonly string[]): DueJob[] {
  const found: DueJob[] = [];
  for (let at = 0; at + 1 < flat.length; at += 2) found.push({ id: flat[at] as string, atMs: Number(flat[at + 1]) });
  return found;
}

function unexpected(what: string, reply: string): BrokerError {
  return new BrokerError('internal', `job store: ${what} answered ${reply.slice(0, 80)}`);
}
