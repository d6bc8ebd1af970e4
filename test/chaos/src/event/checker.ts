/** Judges what readers got of what devices sent. Pure. Finds, per statement of the reliability promises:
 *
 *  V7    a number whose device was told "stored" was acknowledged by each durable subscription, and was seen live, or lies in a gap that was
 *        announced to that reader (I5)
 *  V8    nothing is received that was not sent before by that device, and its bytes are those that were sent (I5)
 *  V9    (epoch, sequence) of a device never falls at first receipt, live and in ordered subscriptions; there, the next event of a device is
 *        handed out when the one before is settled (I5)
 *  gap   a gap counts what is missing, exactly: what a reader has dealt with and what its gaps count make the whole stream
 *  once  one hand-out reaches one consumer; live, an event comes once
 *  rest  in the end a durable subscription has nothing left to do, and no dead letters
 *
 *  After a failover that may have forgotten unconfirmed writes, ids may come again: `gap` and `once` are not judged then.
 *  What nobody told the device to be stored may be there, or not, or twice. */

import {
  type EventEntry,
  type EventEntryOf,
  type EventHistory,
  type Place,
  placeOf,
  type ReaderKind,
} from './history.ts';

export type EventCheck = 'V7' | 'V8' | 'V9' | 'gap' | 'once' | 'rest';

export interface EventViolation {
  readonly check: EventCheck;
  readonly reader: string;
  /** Undefined when it is about a whole subscription. */
  readonly device: string | undefined;
  readonly number: number | undefined;
  readonly what: string;
}

interface Gap {
  readonly shard: number;
  readonly after: number;
  readonly before: number;
  readonly count: number | null;
}

/** What one reader saw. */
interface Reading {
  readonly reader: string;
  readonly kind: ReaderKind;
  readonly receipts: readonly EventEntryOf<'receive'>[];
  /** Told several times until it is acknowledged, and one all the same. */
  readonly gaps: readonly Gap[];
  /** When a consumer first asked to have it acknowledged. */
  readonly askedMs: ReadonlyMap<string, number>;
  /** Ids of which an acknowledgement counted. */
  readonly done: ReadonlySet<string>;
  readonly rest: EventEntryOf<'rest'> | undefined;
}

interface Scene {
  readonly readings: readonly Reading[];
  readonly rewinds: boolean;
  readonly sent: ReadonlyMap<string, EventEntryOf<'send'>>;
  readonly stored: ReadonlyMap<string, { readonly device: string; readonly number: number }>;
  /** Ids by number, from all readers. */
  readonly ids: ReadonlyMap<string, ReadonlySet<string>>;
  /** By device, of those of which a reader has seen a number: all events of a device are in one. */
  readonly shards: ReadonlyMap<string, number>;
}

export function checkEvents(history: EventHistory): EventViolation[] {
  const scene = arrange(history);
  return scene.readings.flatMap((reading) => [
    ...checkArrival(reading, scene),
    ...checkSource(reading, scene),
    ...checkOrder(reading, scene),
    ...checkGaps(reading, scene),
    ...checkOnce(reading, scene),
    ...checkRest(reading),
  ]);
}

/** The entries that a violation is about: of that number and of gaps around it, or else of that reader without the events it got. */
export function eventEntriesOf({ entries }: EventHistory, { reader, device, number }: EventViolation): EventEntry[] {
  const ids = new Set<string>();
  for (const entry of entries) {
    if (entry.kind === 'receive' && entry.device === device && entry.number === number) ids.add(entry.id);
  }
  const places = [...ids].map(placeOf);
  return entries.filter((entry) => {
    switch (entry.kind) {
      case 'disturb.begin':
      case 'disturb.end':
        return true;
      case 'offline':
        return entry.device === device;
      case 'send':
      case 'answer':
      case 'unanswered':
        return entry.device === device && entry.number === number;
      case 'receive':
      case 'settle':
      case 'settled':
        return ids.has(entry.id);
      case 'gap':
        return entry.reader === reader && (number === undefined || places.some((place) => covers(gapOf(entry), place)));
      default:
        return entry.reader === reader;
    }
  });
}

function arrange({ readers, rewinds, entries }: EventHistory): Scene {
  const sent = new Map<string, EventEntryOf<'send'>>();
  const stored = new Map<string, { readonly device: string; readonly number: number }>();
  const ids = new Map<string, Set<string>>();
  const shards = new Map<string, number>();
  for (const entry of entries) {
    if (entry.kind === 'send') {
      if (!sent.has(keyOf(entry))) sent.set(keyOf(entry), entry);
    } else if (entry.kind === 'answer' && entry.code === 0) {
      stored.set(keyOf(entry), entry);
    } else if (entry.kind === 'receive' && entry.number !== undefined) {
      const key = keyOf({ device: entry.device, number: entry.number });
      ids.set(key, (ids.get(key) ?? new Set()).add(entry.id));
      shards.set(entry.device, placeOf(entry.id).shard);
    }
  }
  const readings = [...readers].map(([reader, kind]) => read(reader, kind, entries));
  return { readings, rewinds, sent, stored, ids, shards };
}

function read(reader: string, kind: ReaderKind, entries: readonly EventEntry[]): Reading {
  const receipts: EventEntryOf<'receive'>[] = [];
  const gaps = new Map<string, Gap>();
  const askedMs = new Map<string, number>();
  const done = new Set<string>();
  let rest: EventEntryOf<'rest'> | undefined;
  for (const entry of entries) {
    if (!('reader' in entry) || entry.reader !== reader) continue;
    if (entry.kind === 'receive') receipts.push(entry);
    else if (entry.kind === 'settle') askedMs.set(entry.id, askedMs.get(entry.id) ?? entry.atMs);
    else if (entry.kind === 'settled') {
      if (entry.result === 'done') done.add(entry.id);
    } else if (entry.kind === 'rest') rest = entry;
    else gaps.set(`${entry.from} ${entry.to} ${entry.count}`, gapOf(entry));
  }
  return { reader, kind, receipts, gaps: [...gaps.values()], askedMs, done, rest };
}

function checkArrival(reading: Reading, { stored, ids, shards }: Scene): EventViolation[] {
  const { reader, gaps } = reading;
  const violations: EventViolation[] = [];
  /** How many more numbers that no reader has seen the gaps of a shard can count. */
  const room = new Map<number, number>();
  for (const { shard, count } of gaps) room.set(shard, (room.get(shard) ?? 0) + (count ?? 0));
  const takesRoom = (device: string): boolean => {
    const shard = shards.get(device) ?? [...room].find(([, left]) => left > 0)?.[0] ?? Number.NaN;
    const left = room.get(shard) ?? 0;
    room.set(shard, left - 1);
    return left > 0;
  };
  const dealtWith = new Set<string>();
  for (const { id, device, number } of reading.receipts) {
    if (number !== undefined && isDealtWith(reading, id)) dealtWith.add(keyOf({ device, number }));
  }
  for (const [key, { device, number }] of stored) {
    if (dealtWith.has(key)) continue;
    const known = [...(ids.get(key) ?? [])].map(placeOf);
    // A number that no reader has seen has no known place: only that of its device, and gaps cover as many as they count.
    const isTold =
      known.length === 0 ? takesRoom(device) : known.some((place) => gaps.some((gap) => covers(gap, place)));
    if (isTold) continue;
    const got = reading.receipts.some((receipt) => receipt.device === device && receipt.number === number);
    const what = got ? 'stored and received, but never acknowledged' : 'stored, but never received, and in no gap';
    violations.push({ check: 'V7', reader, device, number, what });
  }
  return violations;
}

/** Live, an event is dealt with when it is received. In a subscription, when its acknowledgement counted; one whose answer was lost, or that came
 *  too late, is believed (that nothing is left open is judged at the end), unless a gap says that the event was given up. */
function isDealtWith({ kind, askedMs, done, gaps }: Reading, id: string): boolean {
  if (kind === 'live' || done.has(id)) return true;
  return askedMs.has(id) && !gaps.some((gap) => covers(gap, placeOf(id)));
}

function checkSource({ reader, receipts }: Reading, { sent }: Scene): EventViolation[] {
  const violations: EventViolation[] = [];
  for (const { device, number, hash, atMs } of receipts) {
    if (number === undefined) continue;
    const origin = sent.get(keyOf({ device, number }));
    const found = (what: string): void => void violations.push({ check: 'V8', reader, device, number, what });
    if (origin === undefined) found('received, but never sent by this device');
    else if (origin.atMs > atMs) found('received before it was sent');
    else if (origin.hash !== hash) found(`${origin.hash} was sent, ${hash} received`);
  }
  return violations;
}

function checkOrder({ reader, kind, receipts, askedMs, gaps }: Reading, { rewinds }: Scene): EventViolation[] {
  if (kind === 'unordered') return [];
  const violations: EventViolation[] = [];
  const devices = new Map<string, { epoch: number; seq: number; open: string | undefined; seen: Set<string> }>();
  for (const { id, device, number, epoch, seq, atMs } of receipts) {
    if (number === undefined) continue;
    const before = devices.get(device);
    if (before === undefined) {
      devices.set(device, { epoch, seq, open: id, seen: new Set([`${epoch} ${seq}`]) });
      continue;
    }
    if (before.seen.has(`${epoch} ${seq}`)) continue;
    before.seen.add(`${epoch} ${seq}`);
    const found = (what: string): void => void violations.push({ check: 'V9', reader, device, number, what });
    if (epoch < before.epoch || (epoch === before.epoch && seq < before.seq)) {
      found(`(${epoch}, ${seq}) first received after (${before.epoch}, ${before.seq})`);
    } else {
      before.epoch = epoch;
      before.seq = seq;
    }
    const open = before.open;
    before.open = id;
    // What a failover has forgotten, or was given up as lost, holds up nobody.
    if (kind === 'live' || rewinds || open === undefined) continue;
    if (gaps.some((gap) => covers(gap, placeOf(open)))) continue;
    if ((askedMs.get(open) ?? Number.POSITIVE_INFINITY) > atMs) found(`handed out before ${open} was settled`);
  }
  return violations;
}

function checkGaps(reading: Reading, { rewinds }: Scene): EventViolation[] {
  const { reader, gaps, receipts } = reading;
  const violations: EventViolation[] = [];
  const found = (what: string): void =>
    void violations.push({ check: 'gap', reader, device: undefined, number: undefined, what });
  for (const { shard, after, before, count } of gaps) {
    const room = before - after - 1;
    if (count === null) found(`a gap of shard ${shard} without a count`);
    else if (count < 1 || count > room) found(`a gap of shard ${shard} counts ${count}, but has room for ${room}`);
  }
  if (rewinds) return violations;
  /** `unsure`: asked to be settled, with no word of it, and in the range of a gap: either was done, or is counted there. */
  type Shard = { numbers: Set<number>; unsure: Set<number>; first: number; last: number; counted: number };
  const shards = new Map<number, Shard>();
  const shardOf = (shard: number) => {
    const known = shards.get(shard) ?? {
      numbers: new Set(),
      unsure: new Set(),
      first: Number.POSITIVE_INFINITY,
      last: 0,
      counted: 0,
    };
    shards.set(shard, known);
    return known;
  };
  const reach = (place: Place): void => {
    const shard = shardOf(place.shard);
    shard.first = Math.min(shard.first, place.number);
    shard.last = Math.max(shard.last, place.number);
  };
  for (const { id } of receipts) {
    const place = placeOf(id);
    reach(place);
    const { numbers, unsure } = shardOf(place.shard);
    if (isDealtWith(reading, id)) numbers.add(place.number);
    else if (reading.askedMs.has(id)) unsure.add(place.number);
  }
  for (const { shard, after, before, count } of gaps) {
    reach({ shard, number: after + 1 });
    reach({ shard, number: before - 1 });
    shardOf(shard).counted += count ?? 0;
  }
  for (const [shard, { numbers, unsure, first, last, counted }] of shards) {
    const whole = last - first + 1;
    const least = numbers.size + counted;
    if (least <= whole && whole <= least + unsure.size) continue;
    found(`shard ${shard} has ${whole} entries from ${first} on; ${numbers.size} dealt with and ${counted} in gaps`);
  }
  return violations;
}

function checkOnce({ reader, receipts }: Reading, { rewinds }: Scene): EventViolation[] {
  if (rewinds) return [];
  const violations: EventViolation[] = [];
  const seen = new Set<string>();
  for (const { id, attempt, device, number } of receipts) {
    const handOut = `${id} ${attempt}`;
    if (seen.has(handOut)) {
      violations.push({
        check: 'once',
        reader,
        device,
        number,
        what: `attempt ${attempt} of ${id} was received twice`,
      });
    }
    seen.add(handOut);
  }
  return violations;
}

function checkRest({ reader, kind, rest }: Reading): EventViolation[] {
  if (kind === 'live') return [];
  const found = (what: string): EventViolation[] => [
    { check: 'rest', reader, device: undefined, number: undefined, what },
  ];
  if (rest === undefined) return found('did not say at the end how far it is');
  const { lag, waiting, inFlight, deadLetters } = rest;
  if (lag + waiting + inFlight + deadLetters === 0) return [];
  return found(`lag ${lag}, ${waiting} waiting, ${inFlight} in flight, ${deadLetters} dead letters at the end`);
}

function gapOf({ from, to, count }: EventEntryOf<'gap'>): Gap {
  const { shard, number } = placeOf(from);
  return { shard, after: number, before: placeOf(to).number, count };
}

function covers({ shard, after, before }: Gap, place: Place): boolean {
  return place.shard === shard && place.number > after && place.number < before;
}

function keyOf({ device, number }: { readonly device: string; readonly number: number }): string {
  return `${device} ${number}`;
}
