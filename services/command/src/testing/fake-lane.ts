/** Lanes for tests of jobs: commands in memory that are accepted once per id, begin, and end as the test says. Counts what a device would have
 *  received. Not a lane: nothing is ordered and nothing is kept. */

import type { CommandRecord, CommandState, Executed } from '@lapi-broker/lane';
import type { CommandId, DeviceCode } from '@lapi-broker/protocol';
import type { QueuedRequest } from '../lane/new-command.ts';
import type { Cancelled, CommandQueue, Submitted } from '../lane/queued-commands.ts';

export interface FakeEnd {
  readonly state: Extract<CommandState, 'succeeded' | 'failed' | 'timed_out' | 'unknown'>;
  readonly afterMs?: number;
}

export interface FakeLaneOptions {
  /** Redis time. */
  readonly nowMs: () => number;
  /** How long a command waits before it begins, and how it ends; undefined: it waits for ever. */
  readonly fate: (request: QueuedRequest) => { readonly beginsAfterMs: number; readonly end: FakeEnd } | undefined;
}

type FakeCommands = Pick<CommandQueue, 'submit' | 'readStates' | 'cancel' | 'onEnded'>;

export class FakeLane implements FakeCommands {
  /** What devices received, in order. */
  readonly sent: { readonly code: DeviceCode; readonly id: CommandId; readonly atMs: number }[] = [];
  readonly records = new Map<CommandId, CommandRecord>();
  /** Answered instead of accepting. */
  refusal: Submitted | undefined;
  readonly #options: FakeLaneOptions;
  readonly #timers = new Set<NodeJS.Timeout>();
  readonly #listeners = new Set<(id: CommandId) => void>();

  constructor(options: FakeLaneOptions) {
    this.#options = options;
  }

  async submit(request: QueuedRequest): Promise<Submitted> {
    const { id, code, notAfterMs = Number.POSITIVE_INFINITY } = request;
    if (id === undefined) throw new TypeError('jobs choose their ids');
    const nowMs = this.#options.nowMs();
    if (nowMs > notAfterMs) return { status: 'refused', error: 'broker_unavailable', detail: 'late' };
    const known = this.records.get(id);
    if (known !== undefined) return { status: 'repeated', id, state: known.state };
    if (this.refusal !== undefined) return this.refusal;
    const record = recordOf(id, request, nowMs);
    this.records.set(id, record);
    const fate = this.#options.fate(request);
    if (fate !== undefined) this.#later(fate.beginsAfterMs, () => this.#begin(id, code, fate.end));
    return { status: 'accepted', id, state: 'queued', record };
  }

  async readStates(ids: readonly CommandId[]): Promise<readonly (CommandRecord | undefined)[]> {
    return ids.map((id) => this.records.get(id));
  }

  async cancel(id: CommandId): Promise<Cancelled> {
    const record = this.records.get(id);
    if (record === undefined) return { status: 'not_found' };
    if (record.state !== 'queued') return { status: 'not_queued', state: record.state };
    this.end(id, 'cancelled', 'no', 'cancelled');
    return { status: 'cancelled' };
  }

  onEnded(listener: (id: CommandId) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  end(id: CommandId, state: CommandState, executed: Executed, reason = ''): void {
    const record = this.records.get(id);
    if (record === undefined) throw new RangeError(`no command ${id}`);
    this.records.set(id, { ...record, state, executed, reason, endedAtMs: this.#options.nowMs() });
    for (const listener of this.#listeners) listener(id);
  }

  /** A command that waits begins after all, and succeeds. */
  let(id: CommandId): void {
    const code = this.records.get(id)?.code;
    if (code !== undefined) this.#later(1, () => this.#begin(id, code, { state: 'succeeded' }));
  }

  stop(): void {
    for (const timer of this.#timers) clearTimeout(timer);
    this.#timers.clear();
  }

  #begin(id: CommandId, code: DeviceCode, { state, afterMs = 0 }: FakeEnd): void {
    const record = this.records.get(id);
    if (record?.state !== 'queued') return;
    const atMs = this.#options.nowMs();
    this.sent.push({ code, id, atMs });
    this.records.set(id, { ...record, state: 'sent', sentAtMs: Math.floor(atMs), attempts: 1 });
    this.#later(afterMs, () => this.end(id, state, state === 'succeeded' || state === 'failed' ? 'yes' : 'maybe'));
  }

  #later(afterMs: number, work: () => void): void {
    const timer = setTimeout(() => {
      this.#timers.delete(timer);
      work();
    }, afterMs);
    this.#timers.add(timer);
  }
}

function recordOf(id: CommandId, request: QueuedRequest, nowMs: number): CommandRecord {
  const { code, lane, method, url, maxAttempts, timeoutMs, backoffMs, keyId, job } = request;
  return {
    id,
    code,
    mode: 'queue',
    lane,
    method,
    url,
    state: 'queued',
    executed: undefined,
    reason: '',
    late: false,
    attempts: 0,
    maxAttempts,
    timeoutMs,
    backoffMs,
    acceptedAtMs: Math.floor(nowMs),
    expiresAtMs: Number.POSITIVE_INFINITY,
    notBeforeMs: undefined,
    sentAtMs: undefined,
    epoch: undefined,
    endedAtMs: undefined,
    responseCode: undefined,
    response: undefined,
    responseBytes: 0,
    coalesceKey: undefined,
    keyId,
    job,
    retryOf: undefined,
  };
}
