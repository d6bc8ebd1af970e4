/** The platform of a run: submits what was planned, in order per device and lane, cancels some of it, and reads how all of it ended.
 *  One submit after the other within a lane, so that the order of acceptance is known; everything else at the same time. What a service does
 *  not answer for certain is asked again with its key, at the next service, or left open when it has none; what nobody heard is asked again.
 *  It logs what it was told and believes nothing. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type CommandView, isEnded, type PlannedCommand, type Recorder } from '../history/history.ts';
import type { Order } from './witness.ts';

const SUBMIT_TRIES = 20;
const RETRY_MS = 400;
/** Past what the API itself may take. */
const ANSWER_MS = 6_000;
const READ_MS = 3_000;
const READERS = 6;
const ROUND_MS = 300;

export interface PlatformOptions {
  /** Of the command services. */
  readonly urls: readonly string[];
  readonly apiKey: string;
  readonly recorder: Recorder;
  readonly signal: AbortSignal;
  /** The text of every answer. */
  readonly onAnswer?: (text: string) => void;
}

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

/** `unsure`: no answer, or one after which the command may exist. `unheard`: nobody listened. */
type Submitted = 'accepted' | 'refused' | 'unsure' | 'unheard';

export class Platform {
  readonly #options: PlatformOptions;
  /** Ids by marker, of what was accepted. */
  readonly #ids = new Map<string, string>();
  /** Markers whose end was read. */
  readonly #ended = new Set<string>();
  #calls = 0;

  constructor(options: PlatformOptions) {
    this.#options = options;
  }

  get accepted(): number {
    return this.#ids.size;
  }

  get open(): number {
    return this.#ids.size - this.#ended.size;
  }

  /** Resolves when all was submitted. */
  async submitAll(commands: readonly PlannedCommand[]): Promise<void> {
    const beganMs = performance.now();
    const chains = new Map<string, PlannedCommand[]>();
    for (const command of commands) {
      const chain = `${command.device} ${command.mode === 'queue' ? command.lane : command.marker}`;
      const members = chains.get(chain);
      if (members === undefined) chains.set(chain, [command]);
      else members.push(command);
    }
    await Promise.all(
      [...chains.values()].map(async (chain) => {
        for (const command of chain) {
          await this.#pause(beganMs + command.atMs - performance.now());
          if (this.#options.signal.aborted) return;
          await this.#submit(command);
          if (command.cancelled) await this.#cancel(command);
        }
      }),
    );
  }

  /** Reads all that is open, round after round, until it is told to stop. */
  async readUntil(done: () => boolean): Promise<void> {
    while (!done() && !this.#options.signal.aborted) {
      await this.#readEach([...this.#ids.keys()].filter((marker) => !this.#ended.has(marker)));
      await this.#pause(ROUND_MS);
    }
  }

  /** Reads all that was accepted once more. */
  async readAll(): Promise<void> {
    await this.#readEach([...this.#ids.keys()]);
  }

  async #submit(command: PlannedCommand): Promise<void> {
    const service = this.#calls;
    await Promise.all(
      Array.from({ length: command.copies }, async (_, copy) => {
        for (let tried = 0; tried < SUBMIT_TRIES && !this.#options.signal.aborted; tried++) {
          const result = await this.#submitOnce(command, service + copy + tried);
          if (result === 'accepted' || result === 'refused') return;
          if (result === 'unsure' && command.key === undefined) return;
          await this.#pause(RETRY_MS);
        }
      }),
    );
  }

  async #submitOnce(command: PlannedCommand, service: number): Promise<Submitted> {
    const { recorder } = this.#options;
    const { marker } = command;
    const call = ++this.#calls;
    recorder.log({ kind: 'submit.invoke', marker, call });
    let answer: Answer;
    try {
      const path = `/v1/devices/${command.device}/commands`;
      answer = await this.#ask(service, 'POST', path, bodyOf(command), command.waitMs + answerMs(command));
    } catch (error) {
      const why = wordOf(error);
      const isUnheard = why === 'ECONNREFUSED';
      recorder.log({ kind: isUnheard ? 'submit.fail' : 'submit.info', marker, call, why });
      return isUnheard ? 'unheard' : 'unsure';
    }
    const { status, body } = answer;
    const id = typeof body.id === 'string' ? body.id : undefined;
    const why = `${status} ${String(body.error ?? body.state ?? '')}`;
    // A direct call has ended with its answer, whatever the status; its record, if it has one, is read like others.
    const direct = command.mode === 'direct' || (command.mode === 'direct-then-queue' && status !== 202);
    const view = viewOf(body);
    // Certainly not written: nothing of it is left, and its key is free for another try.
    if (direct && view.state === 'failed' && view.executed === 'no') {
      recorder.log({ kind: 'submit.fail', marker, call, why });
      return 'refused';
    }
    if (id !== undefined && (status < 300 || (direct && body.state !== undefined))) {
      const ended = typeof body.state === 'string' && isEnded(body.state);
      recorder.log({ kind: 'submit.ok', marker, call, id, view: ended ? view : undefined });
      if (command.mode !== 'direct') this.#ids.set(marker, id);
      return 'accepted';
    }
    if (status >= 500) {
      recorder.log({ kind: 'submit.info', marker, call, why });
      return 'unsure';
    }
    recorder.log({ kind: 'submit.fail', marker, call, why });
    return 'refused';
  }

  async #cancel({ marker }: PlannedCommand): Promise<void> {
    const { recorder } = this.#options;
    const id = this.#ids.get(marker);
    if (id === undefined) return;
    recorder.log({ kind: 'cancel.invoke', marker });
    try {
      const { status, body } = await this.#ask(this.#calls++, 'DELETE', `/v1/commands/${id}`, undefined, ANSWER_MS);
      const why = `${status} ${String(body.error ?? '')}`;
      if (status === 200) recorder.log({ kind: 'cancel.ok', marker });
      else if (status < 500) recorder.log({ kind: 'cancel.fail', marker, why });
      else recorder.log({ kind: 'cancel.info', marker, why });
    } catch (error) {
      recorder.log({ kind: 'cancel.info', marker, why: wordOf(error) });
    }
  }

  async #readEach(markers: readonly string[]): Promise<void> {
    const rest = markers.values();
    await Promise.all(
      Array.from({ length: READERS }, async () => {
        for (const marker of rest) {
          if (this.#options.signal.aborted) return;
          await this.#read(marker);
        }
      }),
    );
  }

  async #read(marker: string): Promise<void> {
    const id = this.#ids.get(marker);
    if (id === undefined) return;
    let answer: Answer;
    try {
      answer = await this.#ask(this.#calls++, 'GET', `/v1/commands/${id}`, undefined, READ_MS);
    } catch {
      return;
    }
    const { status, body } = answer;
    if (status !== 200 && status !== 404) return;
    const view = status === 200 ? viewOf(body) : undefined;
    if (view === undefined || isEnded(view.state)) this.#ended.add(marker);
    this.#options.recorder.log({ kind: 'view', marker, id, view });
  }

  /** Of the n-th service, counted round and round. */
  async #ask(service: number, method: string, path: string, body: unknown, deadlineMs: number): Promise<Answer> {
    const { urls, apiKey } = this.#options;
    const response = await fetch(`${urls[service % urls.length]}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${apiKey}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(deadlineMs),
    });
    const text = await response.text();
    this.#options.onAnswer?.(text);
    return { status: response.status, body: JSON.parse(text) as Record<string, unknown> };
  }

  async #pause(ms: number): Promise<void> {
    if (ms > 0) await sleep(ms, undefined, { signal: this.#options.signal }).catch(() => undefined);
  }
}

/** A direct call is answered when the device answered or its time is over. */
function answerMs({ mode, timeoutMs }: PlannedCommand): number {
  return mode === 'queue' ? ANSWER_MS : ANSWER_MS + timeoutMs;
}

function bodyOf(command: PlannedCommand): Record<string, unknown> {
  const { marker, mode, method, lane, reaction, timeoutMs, ttlMs, waitMs, key, retrySafe } = command;
  const data: Order = { Marker: marker, Reaction: reaction };
  const call = { mode, method, url: '/LAPI/V1.0/System/Custom', data, timeoutMs };
  if (mode === 'direct') return call;
  return {
    ...call,
    lane,
    ttlMs,
    ...(mode === 'queue' && waitMs > 0 ? { waitMs } : {}),
    ...(key === undefined ? {} : { idempotencyKey: key }),
    ...(retrySafe ? { retrySafe } : {}),
    ...(command.maxAttempts > 1 ? { maxAttempts: command.maxAttempts, backoffMs: 200 } : {}),
  };
}

export function viewOf(body: Record<string, unknown>): CommandView {
  const { state, executed, written, late, attempts } = body;
  // The problem document of a direct call tells what was written.
  const told = written === undefined ? undefined : written === false ? 'no' : 'maybe';
  return {
    state: String(state),
    executed: typeof executed === 'string' ? executed : told,
    late: late === true,
    attempts: typeof attempts === 'number' ? attempts : undefined,
    expiresAtMs: timeOf(body.expiresAt),
    sentAtMs: timeOf(body.sentAt),
    endedAtMs: timeOf(body.endedAt),
  };
}

function timeOf(value: unknown): number | undefined {
  if (typeof value === 'number') return value;
  if (typeof value !== 'string') return undefined;
  const ms = Date.parse(value);
  return Number.isNaN(ms) ? undefined : ms;
}

function wordOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error && 'code' in cause ? String(cause.code) : error.name;
}
