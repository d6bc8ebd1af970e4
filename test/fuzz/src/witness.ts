/** Somebody who does nothing wrong while others do: a device that keeps alive and sends alarms, and a platform that calls it, each a few times a
 *  second. Writes down how long each took; an answer that is missing or wrong is a fault. */

import { setTimeout as sleep } from 'node:timers/promises';
import type { Arena } from './arena.ts';
import { DeviceSession, KEEPALIVE } from './device.ts';
import { requestBytes, Wire } from './wire.ts';

const PAUSE_MS = 100;
const ANSWER_MS = 15_000;
const ALARM = '/LAPI/V1.0/System/Event/Notification/Alarm';

export interface Latency {
  readonly count: number;
  readonly p50Ms: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

export class Witness {
  readonly #arena: Arena;
  readonly #session: DeviceSession;
  readonly #stopping = new AbortController();
  readonly #turns: Promise<void>[] = [];
  #tookMs: number[] = [];
  #faults: string[] = [];
  #api: Wire | undefined;
  #cseq = 0;
  /** Answers that were not looked at yet, by number. */
  readonly #codes = new Map<unknown, unknown>();

  private constructor(arena: Arena, session: DeviceSession) {
    this.#arena = arena;
    this.#session = session;
    session.onText = (_text, { ResponseURL, Cseq, ResponseCode }) => {
      if (ResponseURL !== undefined) this.#codes.set(Cseq, ResponseCode);
      return false;
    };
  }

  static async begin(arena: Arena): Promise<Witness> {
    const [identity] = await arena.provision(1);
    if (identity === undefined) throw new Error('no device was provisioned');
    const opened = await DeviceSession.open(arena.edgePort, identity);
    if (opened.status !== 'open') throw new Error(`the healthy device got ${opened.answer}`);
    const witness = new Witness(arena, opened.session);
    // A session takes no call in its first second.
    const fault = await witness.#call();
    if (fault !== undefined) throw new Error(fault);
    witness.#turns.push(
      witness.#repeat(() => witness.#request(KEEPALIVE)),
      witness.#repeat(() => witness.#request(ALARM)),
      witness.#repeat(() => witness.#call()),
    );
    return witness;
  }

  get secret(): string {
    return this.#session.identity.secret;
  }

  /** What was wrong since the last call. */
  look(): string[] {
    return this.#faults.splice(0);
  }

  /** Of all that it did since the last call. */
  takeLatency(): Latency {
    const sorted = this.#tookMs.sort((a, b) => a - b);
    this.#tookMs = [];
    const at = (share: number): number => sorted[Math.max(0, Math.ceil(share * sorted.length) - 1)] ?? 0;
    return { count: sorted.length, p50Ms: at(0.5), p99Ms: at(0.99), maxMs: at(1) };
  }

  async stop(): Promise<void> {
    this.#stopping.abort();
    await Promise.all(this.#turns);
    this.#api?.destroy();
    this.#session.close();
  }

  async #repeat(work: () => Promise<string | undefined>): Promise<void> {
    while (!this.#stopping.signal.aborted) {
      const startMs = performance.now();
      const fault = await work().catch((error: unknown) => String(error));
      this.#tookMs.push(performance.now() - startMs);
      if (fault !== undefined) {
        this.#faults.push(`the healthy device and its platform: ${fault}`);
        // A session that is gone stays gone: said once.
        if (!this.#session.usable) return;
      }
      await sleep(PAUSE_MS, undefined, { signal: this.#stopping.signal }).catch(() => undefined);
    }
  }

  async #request(url: string): Promise<string | undefined> {
    const cseq = ++this.#cseq;
    const { wire } = this.#session;
    const data = url === ALARM ? { AlarmInfo: { AlarmType: 'MotionAlarmOn', AlarmSeq: cseq } } : {};
    this.#session.send(JSON.stringify({ RequestURL: url, Method: 'POST', Cseq: cseq, Data: data }));
    const done = await wire.until(() => this.#codes.has(cseq), ANSWER_MS);
    const code = this.#codes.get(cseq);
    this.#codes.delete(cseq);
    if (done !== 'yes') return `${url}: ${done === 'closed' ? 'the session was closed' : 'no answer'}`;
    return code === 0 ? undefined : `${url}: code ${String(code)}`;
  }

  async #call(): Promise<string | undefined> {
    if (this.#api === undefined || this.#api.closed) this.#api = await Wire.connect(this.#arena.apiPort);
    const { code } = this.#session.identity;
    const reply = await this.#api.ask(
      requestBytes('GET', `/v1/devices/${code}/LAPI/V1.0/System/DeviceInfo`, {
        Authorization: `Bearer ${this.#arena.broker.apiKey}`,
      }),
      ANSWER_MS,
    );
    if (typeof reply === 'string') {
      this.#api.destroy();
      return `a call: ${reply}`;
    }
    return reply.status === 200 ? undefined : `a call: ${reply.status} ${reply.body.toString().slice(0, 300)}`;
  }
}
