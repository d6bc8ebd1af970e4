/** Hands out what a group has: takes permits, looks at every shard, reads on behind the group's place where that is needed, and brings the
 *  events. Whatever is taken and cannot be given is put back at once, or by its ack deadline when that fails.
 *  One shard that cannot be reached holds up only itself; all of them: rejects with `broker_unavailable`. */

import type { EventStream, StreamEntry } from '@lapi-broker/bus';
import type { EventRecord } from '@lapi-broker/protocol';
import type { EventFilter } from '../event/filter.ts';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import { comparePositions, eventId, type Position, parsePosition } from '../event/position.ts';
import { type HandOut, toAckId } from './ack-id.ts';
import { advanceOver, readGap, share } from './advance.ts';
import type { Delivery, Group, GroupMessage } from './group.ts';
import type { Advance, GroupStore, Look, Taken } from './group-store.ts';

export interface HandOutParts {
  readonly store: GroupStore;
  readonly stream: Pick<EventStream, 'read'>;
  /** 10–16 of 0–9 a–z, different each time. */
  readonly newPermit: () => string;
}

export interface HandedOut {
  readonly deliveries: readonly Delivery[];
  /** When nothing was there: when something may be, ms; undefined = not by time. */
  readonly againMs: number | undefined;
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

interface Found {
  readonly handOut: HandOut;
  readonly position: Position;
  readonly message: GroupMessage;
  readonly bytes: number;
}

/** Of one group in one process. */
export class HandOuts {
  readonly #parts: HandOutParts;
  readonly #group: Group;
  readonly #filter: EventFilter;
  #entryBytes = FIRST_GUESS_BYTES;
  #matching = 1;

  constructor(parts: HandOutParts, group: Group, filter: EventFilter) {
    this.#parts = parts;
    this.#group = group;
    this.#filter = filter;
  }

  async next(max: number): Promise<HandedOut> {
    const { store } = this.#parts;
    const group = this.#group;
    const beginning = this.#parts.newPermit();
    const { given, againMs } = await store.permit(group, max, beginning);
    if (given === 0) return { deliveries: [], againMs };
    const permits = Array.from({ length: given }, (_, i) => `${beginning}${i + 1}`);
    try {
      return await this.#withPermits(permits);
    } finally {
      // Those that were used have left the list.
      await store.giveBack(group, permits);
    }
  }

  async #withPermits(permits: string[]): Promise<HandedOut> {
    const { store } = this.#parts;
    const group = this.#group;
    const shards = Array.from({ length: store.shards }, (_, shard) => shard);
    const looks = await settled(shards.map((shard) => store.look(shard, group)));
    const wants = looks.map((look) => (look === undefined ? 0 : look.ready + backlogOf(look)));
    const shares = share(permits.length, wants);
    const taken = await settled(
      shards.map(async (shard) => {
        const look = looks[shard];
        const wanted = shares[shard] ?? 0;
        return look === undefined || wanted === 0 ? [] : await this.#takeFrom(shard, look, wanted);
      }),
    );
    const found = taken.flatMap((each) => each ?? []);
    found.sort((a, b) => comparePositions(a.position, b.position) || a.handOut.shard - b.handOut.shard);
    const deliveries: Delivery[] = [];
    const tooMuch: HandOut[] = [];
    let bytes = 0;
    for (const { handOut, message, bytes: own } of found) {
      bytes += own;
      if (bytes > MAX_BYTES && deliveries.length > 0) {
        tooMuch.push(handOut);
        continue;
      }
      const permit = permits.pop() as string;
      deliveries.push({ ackId: toAckId(group.key, { ...handOut, permit }), attempt: handOut.attempt, message });
    }
    for (const handOut of tooMuch) await this.#putBack(handOut);
    if (deliveries.length > 0) return { deliveries, againMs: 0 };
    const due = looks.flatMap((look) => look?.dueMs ?? []);
    const more = wants.some((want) => want > 0);
    return { deliveries, againMs: more ? MOVED_AGAIN_MS : due.length === 0 ? undefined : Math.min(...due) };
  }

  async #takeFrom(shard: number, look: Look, wanted: number): Promise<Found[]> {
    const { store, stream } = this.#parts;
    const group = this.#group;
    const read = new Map<string, EventRecord>();
    const taken: Taken[] = [];
    const take = async (advance: Advance | undefined): Promise<boolean> => {
      const some = await store.take(shard, group, wanted - taken.length, group.ackDeadlineMs, advance);
      if (some !== 'moved') taken.push(...some);
      return some !== 'moved';
    };
    if (look.ready > 0) await take(undefined);
    let place = { id: look.place, number: look.number };
    let room = backlogOf(look) === 0 ? 0 : MAX_OPEN - look.open;
    const lastNumber = parsePosition(look.last).seq;
    for (let pages = 0; pages < MAX_PAGES && taken.length < wanted && place.number < lastNumber && room > 0; pages++) {
      const missing = Math.min(room, wanted - taken.length);
      const page = await stream.read(shard, place.id, this.#pageEntries(missing));
      const advance = advanceOver(place, page, look.last, this.#filter, missing);
      this.#learn(page, advance);
      for (const entry of page) read.set(entry.id, entry.event);
      if (!(await take(advance))) break;
      room -= advance.matched.length;
      place = { id: advance.to, number: advance.number };
    }
    return await this.#bring(shard, taken, read);
  }

  /** The events of what was taken. What is gone meanwhile becomes a gap, for a later call. */
  async #bring(shard: number, taken: readonly Taken[], read: ReadonlyMap<string, EventRecord>): Promise<Found[]> {
    const { store } = this.#parts;
    const group = this.#group;
    const absent = taken
      .map(({ member }) => member)
      .filter((member) => readGap(member) === undefined && !read.has(member));
    const bodies = absent.length === 0 ? [] : await store.bodies(shard, group, absent);
    const brought = new Map(absent.map((member, i) => [member, bodies[i]]));
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
    return found;
  }

  /** Never rejects: by its ack deadline it comes back anyway. */
  async #putBack({ shard, member, attempt }: HandOut): Promise<void> {
    await this.#parts.store
      .settle(shard, this.#group, { type: 'release' }, [{ member, attempt }])
      .catch(() => undefined);
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
