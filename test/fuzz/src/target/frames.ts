/** Fuzzes the WebSocket of a device below JSON: fragments, control frames, lengths, masks, opcodes, broken UTF-8, any cut of the byte stream.
 *  An input is one stream of frames on a session. A sound stream must be answered to the last ping and keepalive; one with a fatal fault must end the
 *  session; of damaged bytes nothing is asked but that the broker keeps to E1 and goes on. */

import type { Arena } from '../arena.ts';
import { SessionPool } from '../arena.ts';
import type { Chance } from '../chance.ts';
import { type DeviceSession, KEEPALIVE } from '../device.ts';
import { mutateBytes } from '../mutate.ts';
import type { Target, TargetRun, Verdict } from '../target.ts';
import { frameBytes } from '../wire.ts';

const ANSWER_MS = 15_000;
const SETTLE_MS = 40;
const DEVICES = { least: 64, most: 4_000, inputsEach: 8 };
const MAX_MESSAGE_BYTES = 16 * 1024 * 1024;

/** What a stream must bring. */
interface Stream {
  readonly bytes: Buffer;
  /** Keepalives by number, pings by payload. */
  readonly keepalives: ReadonlySet<number>;
  readonly pings: readonly string[];
}

interface Attempt extends Stream {
  readonly kind: string;
  readonly expect: 'answers' | 'end' | 'nothing';
  readonly cuts: readonly number[];
}

class FramesRun implements TargetRun {
  readonly #pool: SessionPool;
  #cseq = 0;

  constructor(pool: SessionPool) {
    this.#pool = pool;
  }

  async send(chance: Chance): Promise<Verdict> {
    const session = await this.#pool.take();
    const attempt = this.#attempt(chance);
    const fault = await this.#judge(session, attempt);
    const ended = !session.usable;
    // A session with half a frame in it is of no use to the next input.
    if (attempt.expect === 'answers' && fault === undefined) this.#pool.give(session);
    else this.#pool.drop(session);
    const outcome = `${attempt.kind} ${ended ? `ended ${session.wire.closeCode ?? 'without a frame'}` : 'open'}`;
    return { outcome, input: attempt.bytes, ...(fault === undefined ? {} : { fault }) };
  }

  async stop(): Promise<void> {
    this.#pool.stop();
  }

  #attempt(chance: Chance): Attempt {
    const stream = this.#stream(chance);
    switch (chance.weighted({ sound: 4, fatal: 3, bytes: 3, noise: 1 })) {
      case 'sound':
        return withCuts(chance, { ...stream, kind: 'sound', expect: 'answers' });
      case 'fatal': {
        const [kind, frame] = chance.pick(FATAL)(chance);
        const bytes = Buffer.concat([stream.bytes, frame]);
        return withCuts(chance, { ...stream, bytes, kind: `fatal ${kind}`, expect: 'end' });
      }
      case 'bytes':
        return withCuts(chance, {
          ...stream,
          bytes: mutateBytes(chance, stream.bytes),
          kind: 'damaged',
          expect: 'nothing',
        });
      case 'noise':
        return withCuts(chance, {
          ...stream,
          bytes: chance.bytes(chance.pick([1, 2, 14, 200, 5_000])),
          kind: 'noise',
          expect: 'nothing',
        });
    }
  }

  /** One to six messages of any form that is allowed, with control frames between and inside them. */
  #stream(chance: Chance): Stream {
    const parts: Buffer[] = [];
    const keepalives = new Set<number>();
    const pings: string[] = [];
    const control = (): void => {
      if (!chance.is(0.3)) return;
      const payload = chance.letters(chance.pick([0, 1, 5, 125]));
      if (chance.is(0.7)) {
        pings.push(payload);
        parts.push(frameBytes(payload, { opcode: 9, mask: chance.bytes(4) }));
      } else parts.push(frameBytes(payload, { opcode: 10, mask: chance.bytes(4) }));
    };
    for (let i = chance.between(1, 6); i > 0; i--) {
      control();
      const cseq = ++this.#cseq;
      const kind = chance.weighted({ keepalive: 6, padded: 2, binary: 1, empty: 1 });
      if (kind === 'binary') {
        parts.push(frameBytes(chance.bytes(chance.pick([0, 1, 126, 65_536])), { opcode: 2 }));
        continue;
      }
      if (kind === 'empty') {
        // Neither a request nor a response: ignored (E9).
        parts.push(frameBytes('{}'));
        continue;
      }
      const padding = kind === 'padded' ? `,"Padding":"${'ü'.repeat(chance.pick([10, 60, 200, 33_000]))}"` : '';
      const text = Buffer.from(`{"RequestURL":"${KEEPALIVE}","Method":"PUT","Cseq":${cseq}${padding},"Data":{}}`);
      keepalives.add(cseq);
      const ends = Array.from({ length: chance.pick([0, 0, 1, 3, 20]) }, () => chance.between(0, text.length)).sort(
        (a, b) => a - b,
      );
      let from = 0;
      for (const [i, end] of [...ends, text.length].entries()) {
        const form = { opcode: i === 0 ? 1 : 0, final: i === ends.length, mask: chance.bytes(4) };
        parts.push(frameBytes(text.subarray(from, end), form));
        from = end;
        control();
      }
    }
    return { bytes: Buffer.concat(parts), keepalives, pings };
  }

  async #judge(
    session: DeviceSession,
    { bytes, cuts, expect, keepalives, pings }: Attempt,
  ): Promise<string | undefined> {
    const { wire } = session;
    const answered = new Set<number>();
    const ponged: string[] = [];
    session.onText = (_text, message) => {
      if (message.ResponseURL !== KEEPALIVE || typeof message.Cseq !== 'number') return false;
      if (answered.has(message.Cseq)) session.broken = `keepalive ${message.Cseq} was answered twice`;
      answered.add(message.Cseq);
      return true;
    };
    session.onPong = (payload) => ponged.push(payload.toString());
    let from = 0;
    for (const cut of cuts) {
      wire.write(bytes.subarray(from, cut));
      from = cut;
      await new Promise((resolve) => setImmediate(resolve));
    }
    wire.write(bytes.subarray(from));
    const done = (): boolean => [...keepalives].every((cseq) => answered.has(cseq)) && ponged.length >= pings.length;
    if (expect === 'answers') {
      const how = await wire.until(done, ANSWER_MS);
      if (session.fault !== undefined) return session.fault;
      if (how !== 'yes')
        return `${how}: ${answered.size} of ${keepalives.size} keepalives, ${ponged.length} of ${pings.length} pings answered`;
      // The latest ping may stand for earlier ones (RFC 6455, 5.5.3); this transport answers each.
      return ponged.join() === pings.join() ? undefined : 'pongs that are not what was pinged';
    }
    if (expect === 'end') {
      if (!(await wire.untilClosed(ANSWER_MS))) return 'a session that must end goes on';
      return session.fault;
    }
    await wire.untilClosed(SETTLE_MS);
    return session.fault;
  }
}

/** Faults after which no transport may go on. */
const FATAL: readonly ((chance: Chance) => readonly [string, Buffer])[] = [
  (chance) => ['rsv', frameBytes('{}', { rsv: chance.between(1, 7) })],
  (chance) => ['opcode', frameBytes('{}', { opcode: chance.pick([3, 4, 5, 6, 7, 11, 12, 13, 14, 15]) })],
  () => ['continuation', frameBytes('{}', { opcode: 0 })],
  () => ['interrupted', Buffer.concat([frameBytes('{', { final: false }), frameBytes('{}')])],
  () => ['long ping', frameBytes('x'.repeat(126), { opcode: 9 })],
  () => ['cut ping', frameBytes('x', { opcode: 9, final: false })],
  (chance) => ['too long', frameBytes('x', { told: chance.pick([MAX_MESSAGE_BYTES + 1, 2 ** 32, 2 ** 52]) })],
  (chance) => ['utf-8', frameBytes(Buffer.concat([Buffer.from('{"a":"'), chance.pick(BAD_UTF8), Buffer.from('"}')]))],
  (chance) => [
    'utf-8 in pieces',
    Buffer.concat([
      frameBytes(Buffer.concat([Buffer.from('"'), chance.pick(BAD_UTF8)]), { final: false }),
      frameBytes('"', { opcode: 0 }),
    ]),
  ],
  (chance) => ['close', frameBytes(Buffer.from([3, chance.pick([0xe8, 0xe9, 0xee, 0xf0])]), { opcode: 8 })],
  () => ['close without a code', frameBytes('', { opcode: 8 })],
];

const BAD_UTF8 = ['ff', 'c080', 'eda080', 'f4908080', 'f8888080', 'c3', '80', 'e282', 'f09f98'].map((hex) =>
  Buffer.from(hex, 'hex'),
);

function withCuts(chance: Chance, attempt: Omit<Attempt, 'cuts'>): Attempt {
  const { bytes } = attempt;
  const everywhere = bytes.length < 400 && chance.is(0.1);
  const count = everywhere ? bytes.length - 1 : chance.pick([0, 0, 1, 3]);
  const cuts = Array.from({ length: count }, (_, i) => (everywhere ? i + 1 : chance.between(0, bytes.length)));
  return { ...attempt, cuts: cuts.sort((a, b) => a - b) };
}

export const frames: Target = {
  name: 'frames',
  about: 'frames of a device: fragments, control frames, lengths, masks, UTF-8',
  inputs: 25_000,
  atOnce: 24,
  async begin(arena: Arena, inputs: number): Promise<TargetRun> {
    const { least, most, inputsEach } = DEVICES;
    const count = Math.min(most, Math.max(least, Math.ceil(inputs / inputsEach)));
    return new FramesRun(new SessionPool(arena.edgePort, await arena.provision(count)));
  },
};
