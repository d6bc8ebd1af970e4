/** Counts numbered events through a long run: what devices sent, what they were told, and which reader has seen it. An event is forgotten once its
 *  device was told "stored" and every reader has it, so memory follows what is under way, not what has passed. Judges as it goes:
 *
 *  V7    a number that was stored reaches every reader, or lies in a gap announced to that reader (I5); said at the end
 *  V8    nothing is received that was not sent before by that device, and its bytes are those that were sent (I5)
 *  V9    (epoch, sequence) of a device never falls at first receipt (I5)
 *
 *  A durable reader that received has not acknowledged yet; that nothing is left open there is judged at its rest. Clocks are parameters. */

import type { EventFact } from '../event/history.ts';
import { placeOf } from '../event/history.ts';
import { hashOf } from '../event/sender.ts';

const PADDING = 'x'.repeat(160);
const SHOWN = 50;
/** Told gaps that are kept; more of them is a finding of its own. */
const GAPS = 10_000;

/** `Data` of one event: its number, and bytes that belong to this number of this device only. */
export function dataOf(code: string, number: number): Readonly<Record<string, unknown>> {
  return {
    Number: number,
    AlarmInfo: { AlarmType: 'MotionAlarmOn', AlarmLevel: 0, AlarmSeq: number, AlarmSrcName: code },
    Padding: PADDING,
  };
}

interface Open {
  readonly atMs: number;
  stored: boolean;
  /** One bit per reader. */
  seen: number;
  shard: number;
  place: number;
}

interface Sender {
  sent: number;
  readonly open: Map<number, Open>;
  /** By reader. */
  readonly last: { epoch: number; seq: number }[];
}

interface Gap {
  readonly reader: string;
  readonly shard: number;
  readonly after: number;
  readonly before: number;
  readonly count: number;
  readonly reason: string;
}

export interface EventCounts {
  readonly sent: number;
  readonly stored: number;
  /** Answered with an error, or not at all. */
  readonly refused: number;
  readonly gaps: number;
  readonly violations: number;
  /** By reader: receipts, and those of them that were not the first. */
  readonly received: Readonly<
    Record<string, { readonly events: number; readonly again: number; readonly other: number }>
  >;
}

export class EventLedger {
  readonly #readers: readonly string[];
  readonly #all: number;
  readonly #senders = new Map<string, Sender>();
  readonly #received: { events: number; again: number; other: number }[];
  readonly #gaps: Gap[] = [];
  readonly violations: string[] = [];
  #found = 0;
  #sent = 0;
  #stored = 0;
  #refused = 0;

  constructor(readers: readonly string[]) {
    this.#readers = readers;
    this.#all = 2 ** readers.length - 1;
    this.#received = readers.map(() => ({ events: 0, again: 0, other: 0 }));
  }

  get counts(): EventCounts {
    return {
      sent: this.#sent,
      stored: this.#stored,
      refused: this.#refused,
      gaps: this.#gaps.length,
      violations: this.#found,
      received: Object.fromEntries(
        this.#readers.map((reader, i) => [
          reader,
          { ...(this.#received[i] as { events: number; again: number; other: number }) },
        ]),
      ),
    };
  }

  /** A number may be sent again until it is stored. */
  sent(code: string, number: number, nowMs: number): void {
    const sender = this.#senderOf(code);
    this.#sent += 1;
    if (number <= sender.sent) return;
    sender.sent = number;
    sender.open.set(number, { atMs: nowMs, stored: false, seen: 0, shard: Number.NaN, place: Number.NaN });
  }

  answered(code: string, number: number, stored: boolean): void {
    if (!stored) {
      this.#refused += 1;
      return;
    }
    this.#stored += 1;
    const sender = this.#senderOf(code);
    const open = sender.open.get(number);
    if (open === undefined) return;
    open.stored = true;
    this.#close(sender, number, open);
  }

  /** What readers write down. */
  log(fact: EventFact): void {
    if (fact.kind === 'gap') {
      const { shard, number } = placeOf(fact.from);
      const { reader, reason, from, to } = fact;
      const gap = { reader, shard, after: number, before: placeOf(to).number, count: fact.count ?? 0, reason };
      // One is told until it is acknowledged.
      if (this.#gaps.some((each) => isSame(each, gap))) return;
      if (this.#gaps.length < GAPS) this.#gaps.push(gap);
      else this.#find(`gap ${reader}: ${from} to ${to} is one too many`);
    } else if (fact.kind === 'receive') this.#receive(fact);
  }

  /** Stored, and not at every reader, for so long. */
  overdue(nowMs: number, forMs: number): number {
    let count = 0;
    for (const { open } of this.#senders.values()) {
      for (const each of open.values()) if (each.stored && nowMs - each.atMs > forMs) count += 1;
    }
    return count;
  }

  /** Not told to be stored yet. */
  get unstored(): number {
    let count = 0;
    for (const { open } of this.#senders.values()) for (const each of open.values()) if (!each.stored) count += 1;
    return count;
  }

  /** Once nothing is under way any more: what was stored and has not arrived. Answers their number by reader, those in gaps beside. */
  close(): Readonly<Record<string, { readonly lost: number; readonly inGaps: number }>> {
    return Object.fromEntries(
      this.#readers.map((reader, i) => {
        const gaps = this.#gaps.filter((gap) => gap.reader === reader);
        let [lost, inGaps] = [0, 0];
        /** A number that no reader has seen has no known place; gaps cover as many of them as they count. */
        let room = gaps.reduce((sum, { count }) => sum + count, 0);
        for (const [code, { open }] of this.#senders) {
          for (const [number, each] of open) {
            if (!each.stored || (each.seen & (1 << i)) !== 0) continue;
            if (Number.isNaN(each.place) ? room-- > 0 : isTold(gaps, each)) {
              inGaps += 1;
              continue;
            }
            lost += 1;
            this.#find(`V7 ${reader}: ${code} ${number} stored, never received, in no gap`);
          }
        }
        return [reader, { lost, inGaps }];
      }),
    );
  }

  #receive(fact: Extract<EventFact, { readonly kind: 'receive' }>): void {
    const { reader, device, number, hash, epoch, seq, id } = fact;
    const index = this.#readers.indexOf(reader);
    const received = this.#received[index];
    if (received === undefined) throw new RangeError(`no reader ${reader}`);
    if (number === undefined) {
      received.other += 1;
      return;
    }
    received.events += 1;
    const sender = this.#senders.get(device);
    if (sender === undefined || !(number >= 1 && number <= sender.sent)) {
      this.#find(`V8 ${reader}: ${device} ${number} received, never sent`);
      return;
    }
    if (hash !== hashOf(JSON.stringify(dataOf(device, number))))
      this.#find(`V8 ${reader}: ${device} ${number} has other bytes`);
    const open = sender.open.get(number);
    if (open === undefined || (open.seen & (1 << index)) !== 0) {
      received.again += 1;
      return;
    }
    const last = sender.last[index];
    if (last !== undefined && (epoch < last.epoch || (epoch === last.epoch && seq < last.seq))) {
      this.#find(
        `V9 ${reader}: ${device} ${number} (${epoch}, ${seq}) first received after (${last.epoch}, ${last.seq})`,
      );
    } else sender.last[index] = { epoch, seq };
    const { shard, number: place } = placeOf(id);
    Object.assign(open, { shard, place, seen: open.seen | (1 << index) });
    this.#close(sender, number, open);
  }

  #close({ open }: Sender, number: number, { stored, seen }: Open): void {
    if (stored && seen === this.#all) open.delete(number);
  }

  #senderOf(code: string): Sender {
    let sender = this.#senders.get(code);
    if (sender === undefined) {
      sender = { sent: 0, open: new Map(), last: [] };
      this.#senders.set(code, sender);
    }
    return sender;
  }

  #find(what: string): void {
    this.#found += 1;
    if (this.violations.length < SHOWN) this.violations.push(what);
  }
}

function isSame(a: Gap, b: Gap): boolean {
  return a.reader === b.reader && a.shard === b.shard && a.after === b.after && a.before === b.before;
}

function isTold(gaps: readonly Gap[], { shard, place }: Open): boolean {
  return gaps.some((gap) => gap.shard === shard && place > gap.after && place < gap.before);
}
