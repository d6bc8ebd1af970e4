/** Fuzzes what devices say: requests, notifications with pictures, answers to calls; odd, damaged, deep, large. A sound request gets exactly one
 *  response with its own Cseq, to the digit (E12, E14); after anything the session still answers, unless the protocol says that it ends; a platform
 *  that calls gets JSON, and a platform that listens too. */

import type { Arena } from '../arena.ts';
import { SessionPool } from '../arena.ts';
import type { Chance } from '../chance.ts';
import { type DeviceSession, HANDSHAKE_HEADERS, KEEPALIVE } from '../device.ts';
import {
  answerText,
  bigText,
  type DeviceText,
  damagedText,
  deepText,
  oddText,
  soundText,
  unregisterText,
} from '../message.ts';
import type { Target, TargetRun, Verdict } from '../target.ts';
import { frameBytes, requestBytes, Wire } from '../wire.ts';

const ANSWER_MS = 20_000;
const MiB = 1024 * 1024;
const SIZES = [1 * MiB, 4 * MiB, 8 * MiB, 16 * MiB - 1, 16 * MiB, 16 * MiB + 1];
const DEVICES = { least: 48, most: 1_000, inputsEach: 60 };
/** So many at least, so that none is asked faster than a device may speak. */
const SESSIONS = { least: 32, most: 400, inputsEach: 100 };
const CSEQ = /"Cseq":("(?:[^"\\]|\\.)*"|[-+.0-9eE]+)/;
/** Of the API to a call: what 13.2 and 13.3 name. */
const CALL_STATUSES: ReadonlySet<number> = new Set([200, 400, 403, 404, 429, 501, 502, 503, 504]);

class JsonRun implements TargetRun {
  readonly #arena: Arena;
  readonly #pool: SessionPool;
  readonly #listener: Listener;
  #serial = 0;

  constructor(arena: Arena, pool: SessionPool, listener: Listener) {
    this.#arena = arena;
    this.#pool = pool;
    this.#listener = listener;
  }

  async send(chance: Chance): Promise<Verdict> {
    const session = await this.#pool.take();
    try {
      const kind = chance.weighted({
        sound: 40,
        odd: 25,
        damaged: 20,
        deep: 4,
        big: 0.15,
        answer: 6,
        burst: 0.7,
        unregister: 0.7,
      });
      const verdict = kind === 'answer' ? await this.#answer(chance, session) : await this.#say(chance, kind, session);
      const heard = this.#listener.fault;
      return heard === undefined ? verdict : { ...verdict, fault: heard };
    } finally {
      this.#pool.give(session);
    }
  }

  async stop(): Promise<void> {
    this.#listener.stop();
    this.#pool.stop();
  }

  #text(chance: Chance, kind: 'sound' | 'odd' | 'damaged' | 'deep' | 'big' | 'unregister'): DeviceText {
    const serial = ++this.#serial;
    switch (kind) {
      case 'sound':
        return soundText(chance, serial);
      case 'odd':
        return oddText(chance, serial);
      case 'damaged':
        return damagedText(chance, serial);
      case 'deep':
        return deepText(chance, serial);
      case 'big':
        return bigText(chance, serial, chance.pick(SIZES));
      case 'unregister':
        return unregisterText(serial);
    }
  }

  async #say(
    chance: Chance,
    kind: 'sound' | 'odd' | 'damaged' | 'deep' | 'big' | 'burst' | 'unregister',
    session: DeviceSession,
  ): Promise<Verdict> {
    if (kind === 'burst') return await this.#burst(chance, session);
    const said = this.#text(chance, kind);
    const { wire } = session;
    const barrier = `"z${++this.#serial}"`;
    const seen = new Map<string, number>();
    session.onText = (text, message) => {
      if (message.ResponseURL === undefined) return false;
      const token = CSEQ.exec(text)?.[1];
      if (token !== undefined) seen.set(token, (seen.get(token) ?? 0) + 1);
      return true;
    };
    session.send(said.text);
    session.send(`{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":${barrier},"Data":{}}`);
    const { cseq } = said;
    const how = await wire.until(() => seen.has(barrier) && (cseq === undefined || seen.has(cseq)), ANSWER_MS);
    const verdict = (outcome: string, fault?: string): Verdict => ({
      outcome: `${said.kind} ${outcome}`,
      input: said.text,
      ...(fault === undefined ? {} : { fault }),
    });
    if (session.fault !== undefined) return verdict('broken', session.fault);
    if (how === 'closed' || wire.closeCode !== undefined) return verdict('ended', endFault(said, wire.closeCode));
    if (how === 'late')
      return verdict(
        'silent',
        seen.has(barrier) ? `no response with Cseq ${cseq}` : 'the session does not answer any more',
      );
    const count = cseq === undefined ? 1 : seen.get(cseq);
    return verdict('answered', count === 1 ? undefined : `${count} responses with Cseq ${cseq}`);
  }

  /** Five messages in a row that cannot be read end the session (E16). */
  async #burst(chance: Chance, session: DeviceSession): Promise<Verdict> {
    const texts = Array.from({ length: 5 }, () =>
      chance.pick(['{', '[1', 'nul', '{"a"}', '"', '\u0001', `${'['.repeat(65)}${']'.repeat(65)}`]),
    );
    for (const text of texts) session.send(text);
    const closed = await session.wire.untilClosed(ANSWER_MS);
    const fault =
      closed && session.wire.closeCode === 1007 ? undefined : `closed: ${closed}, code ${session.wire.closeCode}`;
    return { outcome: 'burst ended', input: texts.join('\n'), ...(fault === undefined ? {} : { fault }) };
  }

  async #answer(chance: Chance, session: DeviceSession): Promise<Verdict> {
    const url = `/LAPI/V1.0/Fuzz/${++this.#serial}`;
    let said: DeviceText | undefined;
    session.onText = (_text, { RequestURL, Cseq }) => {
      if (RequestURL !== url) return false;
      said = answerText(chance, url, Number(Cseq));
      session.send(said.text);
      return true;
    };
    const api = await Wire.connect(this.#arena.apiPort);
    const reply = await api.ask(
      requestBytes('GET', `/v1/devices/${session.identity.code}${url}`, {
        Authorization: `Bearer ${this.#arena.broker.apiKey}`,
        'X-LAPI-Timeout': '1500',
      }),
      ANSWER_MS,
    );
    api.destroy();
    const fault = session.fault ?? callFault(reply);
    const outcome = `${said?.kind ?? 'answer unasked'} ${typeof reply === 'string' ? reply : reply.status}`;
    return { outcome, input: said?.text ?? '', ...(fault === undefined ? {} : { fault }) };
  }
}

/** A session may end for what was said; not for a mistake of ours, and not without a word. */
function endFault({ kind, text }: DeviceText, code: number | undefined): string | undefined {
  if (code === 1000 && /unregister/i.test(text)) return undefined;
  if (code === undefined && Buffer.byteLength(text) > 16 * MiB) return undefined;
  return `a session was ended with ${code ?? 'no close frame'} for what is ${kind}`;
}

function callFault(reply: Awaited<ReturnType<Wire['ask']>>): string | undefined {
  if (typeof reply === 'string') return `a call is ${reply}`;
  const body = reply.body.toString();
  if (!CALL_STATUSES.has(reply.status)) return `a call gets ${reply.status}: ${body.slice(0, 300)}`;
  try {
    const { source } = JSON.parse(body) as { readonly source?: unknown };
    return source === 'device' || source === 'broker' ? undefined : `a call gets no source: ${body.slice(0, 300)}`;
  } catch {
    return `a call gets no JSON: ${body.slice(0, 300)}`;
  }
}

/** A platform that hears every event: all of it must be JSON, whatever devices wrote. */
class Listener {
  fault: string | undefined;
  readonly #wire: Wire;

  private constructor(wire: Wire) {
    this.#wire = wire;
    wire.onFrame(({ opcode, payload }) => {
      if (opcode !== 1) return;
      try {
        JSON.parse(payload.toString());
      } catch {
        this.fault = `a listener gets no JSON: ${payload.toString().slice(0, 500)}`;
      }
    });
  }

  static async begin(arena: Arena): Promise<Listener> {
    const wire = await Wire.connect(arena.apiPort);
    const headers = { ...HANDSHAKE_HEADERS, Authorization: `Bearer ${arena.broker.apiKey}` };
    const reply = await wire.ask(requestBytes('GET', '/v1/stream', headers), ANSWER_MS);
    if (typeof reply === 'string' || reply.status !== 101) throw new Error('no stream for the listener');
    const listener = new Listener(wire);
    wire.write(frameBytes('{"type":"subscribe","id":"all"}'));
    return listener;
  }

  stop(): void {
    this.#wire.destroy();
  }
}

export const json: Target = {
  name: 'json',
  about: 'messages of a device: requests, notifications, pictures, answers to calls',
  inputs: 40_000,
  atOnce: 24,
  async begin(arena: Arena, inputs: number): Promise<TargetRun> {
    const bounded = ({ least, most, inputsEach }: typeof DEVICES): number =>
      Math.min(most, Math.max(least, Math.ceil(inputs / inputsEach)));
    const pool = new SessionPool(arena.edgePort, await arena.provision(bounded(DEVICES)));
    // One after the other: a node verifies so many registrations at once, and no more.
    const sessions: DeviceSession[] = [];
    while (sessions.length < bounded(SESSIONS)) sessions.push(await pool.open());
    for (const session of sessions) pool.give(session);
    return new JsonRun(arena, pool, await Listener.begin(arena));
  },
};
