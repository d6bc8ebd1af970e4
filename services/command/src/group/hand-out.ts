/** Hands out what a group has: takes permits, looks at every shard, reads on behind the group's place where that is needed, and brings the
 *  events. Whatever is taken and cannot be given is put back at once, or by its ack deadline when that fails.
 *  One shard that cannot be reached holds up only itself, and is left alone for a while after; all of them: rejects with `broker_unavailable`.
 *  Bounded: events and bytes of one call, whatever the consumer asked for. */

import type { EventStream, StreamEntry } from '@lapi-broker/bus';
import type { EventRecord } from '@lapi-broker/protocol';
import type { EventFilter } from '../event/filter.ts';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import { comparePositions, eventId, type Position, parsePosition } from '../event/position.ts';
import { type HandOut, toAckId } from './ack-id.ts';
import { advanceOver, readGap, share } from './advance.ts';
import type { Delivery, Group, GroupMessage } from './group.ts';
import { type Advance, GroupGone, type GroupStore, type Look, type Taken } from './group-store.ts';

export interface HandOutParts {
  readonly store: Pick<GroupStore, 'shards' | 'permit' | 'giveBack' | 'look' | 'take' | 'bodies' | 'settle'>;
  readonly stream: Pick<EventStream, 'read'>;
  /** 10–16 of 0–9 a–z, different each time. */
  readonly newPermit: () => string;
  readonly monotonicMs: () => number;
}

/** `revision`: of the spec, as the store has it. */
export type RevisedGroup = Group & { readonly revision: number };

export interface HandedOut {
  readonly deliveries: readonly Delivery[];
  /** When nothing was there: when something may be, ms; undefined = not by time. */
  readonly againMs: number | undefined;
  /** Its spec has been changed, or a shard does not know the group: time to read it again. */
  readonly outdated: boolean;
}

/** Of one shard, matched and not settled: behind it, further events wait in the stream. */
const MAX_OPEN = 10_000;
/** Pages of one shard in one call. */
const MAX_PAGES = 20;
const MAX_PAGE_ENTRIES = 512;
const PAGE_BYTES = 512 * 1024;
/** Until pages have told better. */
const FIRST_GUESS_BYTES = 16 * 1024;
/** Least part of a page that is taken to match. */
const MIN_MATCHING = 1 / 64;
/** Of one call; the first event is given whatever its size. */
const MAX_BYTES = 8 * 2 ** 20;
/** A shard whose place was moved by another process meanwhile. */
const MOVED_AGAIN_MS = 5;
/** A shard that did not answer would hold up every call by its time-out: it is left alone for so many times as long as it took to fail. */
const AWAY_TIMES = 4;
const AWAY_MS = { min: 100, max: 5_000 } as const;

interface Found {
  readonly handOut: HandOut;
  readonly position: Position;
  readonly message: GroupMessage;
  readonly bytes: number;
}

/** Of one group in one process. */
export class HandOuts {
  readonly #parts: HandOutParts;
  readonly #group: RevisedGroup;
  readonly #filter: EventFilter;
  #entryBytes = FIRST_GUESS_BYTES;
  #matching = 1;
  /** Shard → when it is tried again. */
  readonly #away = new Map<number, number>();
  /** The shard that comes first, so that each has its turn where there is little to share. */
  #turn = 0;
  #outdated = false;

  constructor(parts: HandOutParts, group: RevisedGroup, filter: EventFilter) {
    this.#parts = parts;
    this.#group = group;
    this.#filter = filter;
  }

  async next(max: number, maxBytes: number = MAX_BYTES): Promise<HandedOut> {
    const { store } = this.#parts;
    const group = this.#group;
    const beginning = this.#parts.newPermit();
    const { given, againMs } = await store.permit(group, max, beginning);
    if (given === 0) return { deliveries: [], againMs, outdated: false };
    const permits = Array.from({ length: given }, (_, i) => `${beginning}${i + 1}`);
    try {
      return await this.#withPermits(permits, maxBytes);
    } finally {
      // Those that were used have left the list.
      await store.giveBack(group, permits);
    }
  }

  async #withPermits(permits: string[], maxBytes: number): Promise<HandedOut> {
    const { store } = this.#parts;
    const group = this.#group;
    const shards = this.#shardsInTurn();
    this.#outdated = false;
    const looks = await settled(shards.map((shard) => this.#reach(shard, store.look(shard, group))));
    const wants = looks.map((look) => (look === undefined ? 0 : look.ready + backlogOf(look)));
    const shares = share(permits.length, wants);
    const bytesEach = maxBytes / Math.max(1, shares.filter((wanted) => wanted > 0).length);
    const taken = await settled(
      shards.map(async (shard, i) => {
        const look = looks[i];
        const wanted = shares[i] ?? 0;
        if (look === undefined || wanted === 0) return [];
        return await this.#reach(shard, this.#takeFrom(shard, look, wanted, bytesEach));
      }),
    );
    const found = taken.flatMap((each) => each ?? []);
    found.sort((a, b) => comparePositions(a.position, b.position) || a.handOut.shard - b.handOut.shard);
    const deliveries: Delivery[] = [];
    const tooMuch: HandOut[] = [];
    let bytes = 0;
    for (const { handOut, message, bytes: own } of found) {
      bytes += own;
      if (bytes > maxBytes && deliveries.length > 0) {
        tooMuch.push(handOut);
        continue;
      }
      const permit = permits.pop() as string;
      deliveries.push({ ackId: toAckId(group.key, { ...handOut, permit }), attempt: handOut.attempt, message });
    }
    for (const shard of new Set(tooMuch.map((each) => each.shard))) {
      await this.#putBack(
        shard,
        tooMuch.filter((each) => each.shard === shard),
      );
    }
    const outdated = this.#outdated;
    if (deliveries.length > 0) return { deliveries, againMs: 0, outdated };
    const due = looks.flatMap((look) => look?.dueMs ?? []);
    const more = wants.some((want) => want > 0);
    return { deliveries, againMs: more ? MOVED_AGAIN_MS : due.length === 0 ? undefined : Math.min(...due), outdated };
  }

  /** Those that are not away; all when none is left. */
  #shardsInTurn(): readonly number[] {
    const { store, monotonicMs } = this.#parts;
    const nowMs = monotonicMs();
    this.#turn = (this.#turn + 1) % store.shards;
    const all = Array.from({ length: store.shards }, (_, i) => (i + this.#turn) % store.shards);
    const reached = all.filter((shard) => nowMs >= (this.#away.get(shard) ?? 0));
    return reached.length === 0 ? all : reached;
  }

  /** Remembers whether the shard answered; a shard that has lost the group has nothing. */
  async #reach<T>(shard: number, work: Promise<T>): Promise<T | undefined> {
    const { monotonicMs } = this.#parts;
    const sinceMs = monotonicMs();
    try {
      const found = await work;
      this.#away.delete(shard);
      return found;
    } catch (error) {
      if (error instanceof GroupGone) {
        this.#outdated = true;
        return undefined;
      }
      const nowMs = monotonicMs();
      const awayMs = Math.min(AWAY_MS.max, Math.max(AWAY_MS.min, (nowMs - sinceMs) * AWAY_TIMES));
      this.#away.set(shard, nowMs + awayMs);
      throw error;
    }
  }

  async #takeFrom(shard: number, look: Look, wanted: number, bytes: number): Promise<Found[]> {
    const taken: Taken[] = [];
    try {
      return await this.#fill(shard, look, wanted, bytes, taken);
    } catch (error) {
      await this.#putBack(shard, taken);
      throw error;
    }
  }

  /** What it takes it puts into `taken` at once. */
  async #fill(shard: number, look: Look, wanted: number, bytes: number, taken: Taken[]): Promise<Found[]> {
    const { store, stream } = this.#parts;
    const group = this.#group;
    const { revision } = group;
    const read = new Map<string, EventRecord>();
    const take = async (advance: Advance | undefined): Promise<boolean> => {
      const step = advance === undefined ? undefined : { ...advance, revision };
      const some = await store.take(shard, group, wanted - taken.length, group.ackDeadlineMs, step);
      if (some === 'changed') this.#outdated = true;
      if (typeof some === 'string') return false;
      taken.push(...some);
      return true;
    };
    if (look.ready > 0) await take(undefined);
    let place = { id: look.place, number: look.number };
    let room = backlogOf(look) === 0 ? 0 : MAX_OPEN - look.open;
    const lastNumber = parsePosition(look.last).seq;
    let bytesRead = taken.length * this.#entryBytes;
    for (let pages = 0; pages < MAX_PAGES && taken.length < wanted && place.number < lastNumber && room > 0; pages++) {
      if (bytesRead >= bytes) break;
      const missing = Math.min(room, wanted - taken.length);
      const page = await stream.read(shard, place.id, this.#pageEntries(missing));
      const advance = advanceOver(place, page, look.last, this.#filter, missing);
      this.#learn(page, advance);
      for (const entry of page) {
        read.set(entry.id, entry.event);
        bytesRead += entry.event.data.length;
      }
      if (!(await take(advance))) break;
      room -= advance.matched.length;
      place = { id: advance.to, number: advance.number };
    }
    return await this.#bring(shard, taken, read, bytes);
  }

  /** The events of what was taken, about so many bytes of them; the others are put back. What is gone meanwhile becomes a gap, for a later call. */
  async #bring(
    shard: number,
    taken: readonly Taken[],
    read: ReadonlyMap<string, EventRecord>,
    bytes: number,
  ): Promise<Found[]> {
    const { store } = this.#parts;
    const group = this.#group;
    const absent = taken
      .map(({ member }) => member)
      .filter((member) => readGap(member) === undefined && !read.has(member));
    const bodies = absent.length === 0 ? [] : await store.bodies(shard, group, absent, bytes);
    const brought = new Map(bodies.map((record, i) => [absent[i] as string, record]));
    const left = new Set(absent.slice(bodies.length));
    const found: Found[] = [];
    const lost: Taken[] = [];
    for (const each of taken) {
      const gap = readGap(each.member);
      const handOut = { ...each, shard, permit: '' };
      if (gap !== undefined) {
        const [from, to] = [parsePosition(gap.from), parsePosition(gap.to)];
        const message = {
          type: 'gap',
          gap: { shard, from: eventId(shard, from), to: eventId(shard, to), count: gap.count },
        } as const;
        found.push({ handOut, position: from, message, bytes: 256 });
        continue;
      }
      if (left.has(each.member)) continue;
      const record = read.get(each.member) ?? brought.get(each.member);
      if (record === undefined) {
        lost.push(each);
        continue;
      }
      const position = parsePosition(each.member);
      const message = { type: 'event', event: new OutgoingEvent(shard, position, record) } as const;
      found.push({ handOut, position, message, bytes: record.data.length + 512 });
    }
    if (lost.length > 0) await store.settle(shard, group, { type: 'lost' }, lost);
    const tooMuch = taken.filter(({ member }) => left.has(member));
    await this.#putBack(shard, tooMuch);
    return found;
  }

  /** Never rejects: by its ack deadline it comes back anyway. */
  async #putBack(shard: number, taken: readonly Taken[]): Promise<void> {
    if (taken.length === 0) return;
    await this.#parts.store.settle(shard, this.#group, { type: 'release' }, taken).catch(() => undefined);
  }

  /** As many as should bring `wanted` matches. */
  #pageEntries(wanted: number): number {
    const fitting = Math.min(MAX_PAGE_ENTRIES, Math.floor(PAGE_BYTES / this.#entryBytes));
    return Math.max(1, Math.min(fitting, Math.ceil(wanted / this.#matching)));
  }

  #learn(page: readonly StreamEntry[], { to, matched }: Advance): void {
    if (page.length === 0) return;
    const bytes = page.reduce((sum, { event }) => sum + event.data.length + 256, 0) / page.length;
    // Up at once, down slowly: one page too many costs less than one page too large.
    this.#entryBytes = bytes > this.#entryBytes ? bytes : this.#entryBytes * 0.7 + bytes * 0.3;
    const looked = page.findIndex(({ id }) => id === to) + 1;
    this.#matching = Math.max(MIN_MATCHING, this.#matching * 0.7 + (matched.length / looked) * 0.3);
  }
}

function backlogOf({ number, last, open }: Look): number {
  return open >= MAX_OPEN ? 0 : Math.max(0, parsePosition(last).seq - number);
}

/** What was answered; undefined where it was not. Throws what failed when nothing was. */
async function settled<T>(promises: readonly Promise<T>[]): Promise<(T | undefined)[]> {
  const results = await Promise.allSettled(promises);
  const [first] = results;
  if (first?.status === 'rejected' && results.every(({ status }) => status === 'rejected')) throw first.reason;
  return results.map((result) => (result.status === 'fulfilled' ? result.value : undefined));
}
