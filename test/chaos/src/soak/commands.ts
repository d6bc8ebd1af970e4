/** The platform of a long run: commands at a steady pace, direct and queued in turn, to devices at random, none of which may be repeated. It asks how each
 *  one ended and tells the ledger; what nobody answered for certain it leaves open. Bounded in what is out at a time. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Chance } from '../random.ts';
import { viewOf } from '../traffic/platform.ts';
import type { CommandLedger } from './command-ledger.ts';
import type { Weather } from './window.ts';

const TICK_MS = 20;
const VOLLEY = 20;
const MOST_OUT = 4_000;
const TIMEOUT_MS = 10_000;
const TTL_MS = 60_000;
const WAIT_MS = 5_000;
const GRACE_MS = 15_000;
const ANSWER_MS = TIMEOUT_MS + 8_000;
const POLL_MS = 1_000;

export interface CommandsOptions {
  readonly codes: readonly string[];
  /** Of the command services. */
  readonly urls: readonly string[];
  readonly apiKey: string;
  readonly ledger: CommandLedger;
  readonly chance: Chance;
  readonly weather: () => Weather;
  /** Why an end may be uncertain; undefined: nothing excuses it. */
  readonly cause: (code: string, fromMs: number, toMs: number) => string | undefined;
}

interface Answer {
  readonly status: number;
  readonly body: Record<string, unknown>;
}

export class Commands {
  readonly #options: CommandsOptions;
  /** By `<weather> <mode>`, in ms. */
  readonly latencies = new Map<string, number[]>();
  /** By `<weather> <mode> <answer>`. */
  readonly answers = new Map<string, number>();
  #out = 0;
  #notSubmitted = 0;
  #calls = 0;
  #timer: NodeJS.Timeout | undefined;

  constructor(options: CommandsOptions) {
    this.#options = options;
  }

  get out(): number {
    return this.#out;
  }

  get notSubmitted(): number {
    return this.#notSubmitted;
  }

  start(perSecond: number): void {
    const beganMs = performance.now();
    let done = 0;
    this.#timer = setInterval(() => {
      const due = Math.floor(((performance.now() - beganMs) / 1_000) * perSecond);
      done = Math.max(done, due - VOLLEY);
      for (; done < due; done++) {
        if (this.#out < MOST_OUT) void this.#run(done % 2 === 0 ? 'direct' : 'queue');
        else this.#notSubmitted += 1;
      }
    }, TICK_MS);
  }

  /** No more of them; those that are out go on to their ends. */
  rest(): void {
    clearInterval(this.#timer);
  }

  async #run(mode: 'direct' | 'queue'): Promise<void> {
    const { codes, ledger, chance } = this.#options;
    const code = codes[chance.between(0, codes.length - 1)] ?? '';
    const n = ledger.submit();
    const fromMs = performance.now();
    this.#out += 1;
    try {
      await this.#submit(n, mode, code, fromMs);
    } finally {
      this.#out -= 1;
    }
  }

  async #submit(n: number, mode: 'direct' | 'queue', code: string, fromMs: number): Promise<void> {
    const { ledger, weather } = this.#options;
    const call = { mode, method: 'PUT', url: '/LAPI/V1.0/System/Custom', data: { N: n }, timeoutMs: TIMEOUT_MS };
    const body = mode === 'direct' ? call : { ...call, ttlMs: TTL_MS, waitMs: WAIT_MS };
    let answer: Answer;
    try {
      answer = await this.#ask('POST', `/v1/devices/${code}/commands`, body);
    } catch (error) {
      this.#count(mode, wordOf(error));
      ledger.unsure(n);
      return;
    }
    const { status, body: told } = answer;
    this.#count(mode, `${status} ${String(told.error ?? told.state ?? '')}`);
    // A submit that may have made a command, and says so, has no id to ask for.
    if (mode === 'queue' && status >= 500) ledger.unsure(n);
    else if (this.#end(n, code, fromMs, told)) {
      if (told.state === 'succeeded') this.#took(`${weather()} ${mode}`, performance.now() - fromMs);
    } else if (typeof told.id === 'string' && status < 300) await this.#follow(n, code, fromMs, told.id);
    else if (status >= 500) ledger.unsure(n);
    else ledger.ended(n, 'not executed', `${status}`, undefined);
  }

  async #follow(n: number, code: string, fromMs: number, id: string): Promise<void> {
    const endMs = fromMs + TTL_MS + TIMEOUT_MS + GRACE_MS;
    let last = 'never read';
    while (performance.now() < endMs) {
      await sleep(POLL_MS);
      const answer = await this.#ask('GET', `/v1/commands/${id}`, undefined).catch(() => undefined);
      if (answer === undefined) continue;
      last = `${answer.status} ${String(answer.body.state ?? answer.body.error)}`;
      if (answer.status === 404) {
        this.#options.ledger.missing(n, `accepted as ${id}, and then not there`);
        return;
      }
      if (answer.status === 200 && this.#end(n, code, fromMs, answer.body)) return;
    }
    this.#options.ledger.missing(n, `accepted as ${id} for ${code}, last seen ${last}`);
  }

  /** False when that is no end. */
  #end(n: number, code: string, fromMs: number, body: Record<string, unknown>): boolean {
    const { ledger, cause } = this.#options;
    const { state, executed } = viewOf(body);
    const about = `${String(body.id)} for ${code}: ${state} ${String(body.error ?? body.reason ?? '')}`;
    if (state === 'queued' || state === 'sent') return false;
    if (state === 'succeeded') ledger.ended(n, 'succeeded', about, undefined);
    else if (executed === 'yes') ledger.ended(n, 'device error', about, undefined);
    else if (executed === 'no') ledger.ended(n, 'not executed', about, undefined);
    else if (executed === 'maybe') ledger.ended(n, 'maybe', about, cause(code, fromMs, performance.now()));
    else return false;
    return true;
  }

  #count(mode: string, what: string): void {
    const key = `${this.#options.weather()} ${mode} ${what}`;
    this.answers.set(key, (this.answers.get(key) ?? 0) + 1);
  }

  #took(key: string, ms: number): void {
    const list = this.latencies.get(key);
    if (list === undefined) this.latencies.set(key, [ms]);
    else list.push(ms);
  }

  async #ask(method: string, path: string, body: unknown): Promise<Answer> {
    const { urls, apiKey } = this.#options;
    const response = await fetch(`${urls[this.#calls++ % urls.length]}${path}`, {
      method,
      headers: {
        authorization: `Bearer ${apiKey}`,
        ...(body === undefined ? {} : { 'content-type': 'application/json' }),
      },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      signal: AbortSignal.timeout(ANSWER_MS),
    });
    return { status: response.status, body: (await response.json()) as Record<string, unknown> };
  }
}

function wordOf(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const { cause } = error;
  return cause instanceof Error && 'code' in cause ? String(cause.code) : error.name;
}
