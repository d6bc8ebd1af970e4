/** The checker is checked: a history in which all went well has no violation, and each way of breaking a promise is found under its name. */

import { describe, expect, test } from 'vitest';
import { checkEvents, type EventCheck } from './checker.ts';
import type { EventEntry, EventFact, EventHistory, ReaderKind } from './history.ts';

const DEVICE = 'camera';
const SHARD = '03';

interface Received {
  readonly number: number;
  /** Of the entry in its shard. */
  readonly place: number;
  readonly attempt?: number;
  readonly epoch?: number;
  readonly seq?: number;
  readonly hash?: string;
}

/** Writes a history by hand; times only grow. */
class Script implements EventHistory {
  readonly readers = new Map<string, ReaderKind>([
    ['ordered', 'ordered'],
    ['unordered', 'unordered'],
    ['live', 'live'],
  ]);
  rewinds = false;
  entries: EventEntry[] = [];

  log(fact: EventFact): this {
    this.entries.push({ ...fact, atMs: this.entries.length } as EventEntry);
    return this;
  }

  send(number: number, stored = true): this {
    this.log({ kind: 'send', device: DEVICE, number, hash: `hash ${number}` });
    return stored ? this.log({ kind: 'answer', device: DEVICE, number, code: 0 }) : this;
  }

  receive(reader: string, { number, place, attempt = 1, epoch = 7, seq = place, hash }: Received): this {
    const id = idOf(place);
    const told = { device: DEVICE, number, epoch, seq, attempt, hash: hash ?? `hash ${number}`, topic: 'alarm' };
    return this.log({ kind: 'receive', reader, by: 'a', id, ...told });
  }

  settle(reader: string, place: number, result = 'done'): this {
    this.log({ kind: 'settle', reader, id: idOf(place) });
    return this.log({ kind: 'settled', reader, id: idOf(place), result });
  }

  /** Received by all three, and settled. */
  arrive(received: Received): this {
    for (const reader of this.readers.keys()) this.receive(reader, received);
    return this.settle('ordered', received.place).settle('unordered', received.place);
  }

  gap(reader: string, from: number, to: number, count: number | null, shard = SHARD): this {
    const [after, before] = [idOf(from, shard), idOf(to, shard)];
    return this.log({ kind: 'gap', reader, by: 'a', from: after, to: before, count, reason: 'trimmed' });
  }

  rest(more: Partial<Record<'lag' | 'waiting' | 'inFlight' | 'deadLetters', number>> = {}): this {
    for (const reader of ['ordered', 'unordered']) {
      this.log({ kind: 'rest', reader, lag: 0, waiting: 0, inFlight: 0, deadLetters: 0, ...more });
    }
    return this;
  }

  /** Changes what was written. */
  edit(change: (entry: EventEntry) => EventEntry | undefined): this {
    this.entries = this.entries.flatMap((entry) => change(entry) ?? []);
    return this;
  }

  found(): readonly string[] {
    return [...new Set(checkEvents(this).map(({ check, reader }) => `${check} ${reader}`))];
  }
}

function idOf(place: number, shard = SHARD): string {
  return `${shard}-${1_000 + place}-${place}`;
}

/** Four numbers of one device at the places 11–14, all at all readers, one after the other. */
function good(): Script {
  const script = new Script();
  for (const number of [1, 2, 3, 4]) script.send(number).arrive({ number, place: 10 + number });
  return script.rest();
}

const isOf = (entry: EventEntry, reader: string, place: number): boolean =>
  'reader' in entry && entry.reader === reader && 'id' in entry && entry.id === idOf(place);

const without =
  (reader: string, place: number) =>
  (entry: EventEntry): EventEntry | undefined =>
    isOf(entry, reader, place) ? undefined : entry;

describe('all went well', () => {
  test('every number once at every reader', () => {
    expect(good().found()).toEqual([]);
  });

  test('a number that was sent again, came twice, was forgotten by a consumer, and settled by another', () => {
    const script = new Script().send(1, false).log({ kind: 'unanswered', device: DEVICE, number: 1 });
    script.arrive({ number: 1, place: 11, epoch: 7, seq: 1 });
    script.log({ kind: 'send', device: DEVICE, number: 1, hash: 'hash 1' });
    script.log({ kind: 'answer', device: DEVICE, number: 1, code: 0 });
    for (const reader of script.readers.keys()) script.receive(reader, { number: 1, place: 12, epoch: 8, seq: 1 });
    script.receive('ordered', { number: 1, place: 12, epoch: 8, seq: 1, attempt: 2 });
    script.settle('ordered', 12).settle('ordered', 12, 'stale').settle('unordered', 12);
    expect(script.rest().found()).toEqual([]);
  });

  test('an unordered subscription in any order; what was not stored, at nobody; what no device sent, at all', () => {
    const script = new Script().send(1).send(2).send(3, false);
    for (const place of [2, 1]) script.receive('unordered', { number: place, place }).settle('unordered', place);
    for (const place of [1, 2]) {
      script.receive('ordered', { number: place, place }).settle('ordered', place);
      script.receive('live', { number: place, place });
    }
    for (const reader of script.readers.keys()) {
      const told = {
        by: 'a',
        id: idOf(3),
        device: DEVICE,
        number: undefined,
        hash: '',
        epoch: 7,
        seq: 0,
        attempt: 1,
        topic: 'presence.online',
      };
      script.log({ kind: 'receive', reader, ...told });
    }
    script.settle('ordered', 3).settle('unordered', 3);
    expect(script.rest().found()).toEqual([]);
  });

  test('a settling without an answer, among events that were given up: it was done, or it is counted with them', () => {
    for (const counted of [1, 2, 3]) {
      const script = new Script();
      for (const number of [1, 2, 3]) {
        script.send(number).receive('ordered', { number, place: 10 + number });
        script.receive('unordered', { number, place: 10 + number }).receive('live', { number, place: 10 + number });
        script.settle('unordered', 10 + number);
      }
      script.log({ kind: 'settle', reader: 'ordered', id: idOf(12) });
      script.gap('ordered', 10, 14, counted);
      expect(script.rest().found(), `${counted} counted`).toEqual(counted === 1 ? ['gap ordered'] : []);
    }
  });

  test('a gap in place of what is missing, told twice; also of single events that were given up', () => {
    const script = good().edit(without('ordered', 12)).edit(without('ordered', 13));
    script.gap('ordered', 11, 14, 2).gap('ordered', 11, 14, 2);
    script.edit(without('unordered', 11)).edit(without('unordered', 13));
    script.gap('unordered', 10, 14, 2);
    expect(script.found()).toEqual([]);
  });

  test('given up after it was received: its acknowledgement came too late, and the gap counts it', () => {
    const script = good().edit((entry) =>
      entry.kind === 'settled' && isOf(entry, 'ordered', 12) ? { ...entry, result: 'stale' } : entry,
    );
    expect(script.gap('ordered', 11, 13, 1).found()).toEqual([]);
  });

  test('an acknowledgement whose answer was lost; a forgotten event that was given up, and the next one after it', () => {
    const script = good().edit((entry) =>
      entry.kind === 'settled' && isOf(entry, 'unordered', 12) ? undefined : entry,
    );
    const forgotten = (entry: EventEntry): boolean => entry.kind.startsWith('settle') && isOf(entry, 'ordered', 12);
    script.edit((entry) => (forgotten(entry) ? undefined : entry)).gap('ordered', 11, 13, 1);
    expect(script.found()).toEqual([]);
  });

  test('after a failover ids are used again', () => {
    const script = good();
    script.rewinds = true;
    script.send(5).arrive({ number: 5, place: 14, seq: 15 });
    expect(script.found()).toEqual([]);
  });
});

const MUTANTS: readonly (readonly [what: string, check: EventCheck, reader: string, script: () => Script])[] = [
  ['a stored number that nobody hands out', 'V7', 'ordered', () => good().edit(without('ordered', 14))],
  ['a stored number that is never seen live', 'V7', 'live', () => good().edit(without('live', 12))],
  ['a stored number that no reader ever sees', 'V7', 'unordered', () => good().send(5)],
  [
    'a stored number that was received and never acknowledged',
    'V7',
    'unordered',
    () => good().edit((entry) => (entry.kind !== 'receive' && isOf(entry, 'unordered', 14) ? undefined : entry)),
  ],
  [
    'a gap of another shard in place of a number',
    'V7',
    'ordered',
    () => good().edit(without('ordered', 12)).gap('ordered', 11, 13, 1, '04'),
  ],
  [
    'a gap of another reader in place of a number',
    'V7',
    'ordered',
    () => good().edit(without('ordered', 12)).gap('unordered', 11, 13, 1),
  ],
  [
    'a gap beside a number that is missing',
    'V7',
    'ordered',
    () => good().edit(without('ordered', 12)).gap('ordered', 12, 14, 1),
  ],
  ['a number that was never sent', 'V8', 'live', () => good().receive('live', { number: 9, place: 15 })],
  [
    'a number that bears no number',
    'V8',
    'unordered',
    () => good().receive('unordered', { number: Number.NaN, place: 15 }).settle('unordered', 15),
  ],
  ['a number before it was sent', 'V8', 'live', () => new Script().receive('live', { number: 1, place: 1 }).send(1)],
  [
    'a digit that changed on the way',
    'V8',
    'ordered',
    () =>
      good().edit((entry) =>
        entry.kind === 'receive' && isOf(entry, 'ordered', 13) ? { ...entry, hash: '?' } : entry,
      ),
  ],
  [
    'a later event of a device first',
    'V9',
    'ordered',
    () => {
      const script = new Script().send(1).send(2);
      for (const place of [2, 1]) script.receive('ordered', { number: place, place }).settle('ordered', place);
      return script;
    },
  ],
  [
    'an event of an older session after one of a newer',
    'V9',
    'live',
    () => {
      const script = new Script().send(1).send(2).receive('live', { number: 1, place: 1, epoch: 8, seq: 1 });
      return script.receive('live', { number: 2, place: 2, epoch: 7, seq: 9 });
    },
  ],
  [
    'a later event of a device while the one before is out',
    'V9',
    'ordered',
    () => {
      const script = new Script().send(1).send(2);
      for (const place of [1, 2]) script.receive('ordered', { number: place, place });
      return script.settle('ordered', 1).settle('ordered', 2);
    },
  ],
  [
    'a gap that counts too few',
    'gap',
    'ordered',
    () => good().edit(without('ordered', 12)).edit(without('ordered', 13)).gap('ordered', 11, 14, 1),
  ],
  [
    'a gap that counts too many',
    'gap',
    'unordered',
    () => good().edit(without('unordered', 12)).gap('unordered', 11, 13, 2),
  ],
  ['a gap over what was delivered', 'gap', 'ordered', () => good().gap('ordered', 11, 13, 1)],
  ['a gap without a count', 'gap', 'live', () => good().edit(without('live', 12)).gap('live', 11, 13, null)],
  ['a gap without anything in it', 'gap', 'ordered', () => good().gap('ordered', 11, 12, 0)],
  [
    'an entry that no device sent and nobody tells of',
    'gap',
    'unordered',
    () => new Script().send(1).send(2).arrive({ number: 1, place: 1 }).arrive({ number: 2, place: 3, seq: 2 }).rest(),
  ],
  ['one hand-out at two consumers', 'once', 'unordered', () => good().receive('unordered', { number: 2, place: 12 })],
  ['an event twice on the live stream', 'once', 'live', () => good().receive('live', { number: 4, place: 14 })],
  ['events that wait at the end', 'rest', 'ordered', () => good().rest({ waiting: 1 })],
  ['events that nobody settled', 'rest', 'unordered', () => good().rest({ inFlight: 1 })],
  ['events that nobody looked at', 'rest', 'ordered', () => good().rest({ lag: 3 })],
  ['an event that was given up', 'rest', 'ordered', () => good().rest({ deadLetters: 1 })],
  [
    'a subscription that is not heard of',
    'rest',
    'unordered',
    () => good().edit((entry) => (entry.kind === 'rest' ? undefined : entry)),
  ],
];

test.each(MUTANTS)('%s breaks %s for %s', (_what, check, reader, script) => {
  expect(script().found()).toContain(`${check} ${reader}`);
});

test('gaps excuse as many numbers that nobody has seen as they count, in the shard of the device, also after a failover', () => {
  const lost = (numbers: number, shard = SHARD): readonly string[] => {
    const script = good();
    script.rewinds = true;
    for (let i = 0; i < numbers; i++) script.send(5 + i);
    for (const reader of script.readers.keys()) script.gap(reader, 14, 16, 1, shard);
    return script.found();
  };
  expect(lost(1)).toEqual([]);
  expect(lost(2)).toEqual(['V7 ordered', 'V7 unordered', 'V7 live']);
  expect(lost(1, '04')).toEqual(['V7 ordered', 'V7 unordered', 'V7 live']);
});

test('a number of a device that sent nothing is found on the live stream too', () => {
  const script = new Script().receive('live', { number: 1, place: 1 });
  expect(script.rest().found()).toEqual(['V8 live']);
});

test('a failover forgives doubles and counts, and nothing else', () => {
  const script = good();
  script.rewinds = true;
  script.receive('live', { number: 4, place: 14 }).edit(without('ordered', 13));
  script.edit((entry) => (entry.kind === 'receive' && isOf(entry, 'unordered', 13) ? { ...entry, hash: '?' } : entry));
  expect(script.found()).toEqual(['V7 ordered', 'V8 unordered']);
});
