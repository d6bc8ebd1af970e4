/** Groups on Redis: what they are (one hash each, all in one slot), and what consumers do with them (hand-out.ts, group-line.ts).
 *  What a group is may be 2 s old in another process, but nobody goes on by an old filter (take.lua). A group is made in two steps, its record and then its place in every shard, and removed
 *  in the opposite order; whoever finds one half done finishes it.
 *  Where Redis has replicas, a new group counts once they know it. Store away: see group.ts. */

import { BrokerError } from '@lapi-broker/protocol';
import {
  createScript,
  guarded,
  type Keyspace,
  type RedisConnection,
  type ReplicaBarrier,
  type Script,
} from '@lapi-broker/redis';
import { type StartPoint, startPosition } from '../event/cursor.ts';
import { Few } from '../event/few.ts';
import { type EventFilter, type FilterTerms, parseFilter } from '../event/filter.ts';
import { OutgoingEvent } from '../event/outgoing-event.ts';
import {
  eventId,
  formatPosition,
  isNumbered,
  ORIGIN,
  type Position,
  parseEventId,
  parsePosition,
} from '../event/position.ts';
import { type HandOut, readAckId } from './ack-id.ts';
import type {
  DeadLetter,
  Delivery,
  Group,
  GroupOwner,
  GroupProgress,
  GroupSpec,
  Groups,
  NewGroup,
  PullOptions,
  Settled,
  Verdict,
} from './group.ts';
import { GroupLine } from './group-line.ts';
import { type Beginning, type DeadMember, GroupGone, GroupStore, type ShardProgress } from './group-store.ts';
import { type HandOutParts, HandOuts, type RevisedGroup } from './hand-out.ts';

export interface RedisGroupsParts {
  readonly state: RedisConnection;
  readonly keyspace: Keyspace;
  /** Over `state`. */
  readonly barrier: ReplicaBarrier;
  readonly stream: HandOutParts['stream'];
  /** Calls back for events that match; see GroupLineParts. */
  readonly listen: (filter: EventFilter, onEvent: () => void) => Promise<(() => void) | undefined>;
  /** Of all owners together. */
  readonly groupsAllowed: number;
  readonly monotonicMs: () => number;
  /** Of 0–9 a–z. */
  readonly randomText: (length: number) => string;
}

export interface GroupCounts {
  delivered: number;
  redelivered: number;
  acknowledged: number;
  gaps: number;
}

interface Known {
  readonly group: RevisedGroup;
  readonly line: GroupLine;
  atMs: number;
}

const FRESH_MS = 2_000;
const UNUSED_MS = 60_000;
/** Dead letters of one millisecond and shard that a page can tell apart. */
const SAME_MS_SLACK = 1_000;
const ALL_OF_A_SHARD = 1_000;
/** At once, over all groups of a process: each may hold 8 MiB of events until they are handed out. */
const HAND_OUTS = 16;
/** Of a page of dead letters, about. */
const PAGE_BYTES = 8 * 2 ** 20;
const script = (name: string): URL => new URL(`./${name}.lua`, import.meta.url);

export class RedisGroups implements Groups {
  /** Read by the owner's metrics. */
  readonly counts: GroupCounts = { delivered: 0, redelivered: 0, acknowledged: 0, gaps: 0 };
  readonly #parts: RedisGroupsParts;
  readonly #store: GroupStore;
  readonly #handOutParts: HandOutParts;
  readonly #few = new Few(HAND_OUTS);
  readonly #put: Script;
  readonly #patch: Script;
  readonly #drop: Script;
  /** By name; bounded by the number of groups. */
  readonly #known = new Map<string, Known>();
  #stopped: boolean = false;

  constructor(parts: RedisGroupsParts) {
    this.#parts = parts;
    const { state, keyspace, stream, randomText, monotonicMs } = parts;
    this.#store = new GroupStore(state, keyspace);
    this.#handOutParts = { store: this.#store, stream, newPermit: () => randomText(10), monotonicMs };
    this.#put = createScript(state, script('put'), 2);
    this.#patch = createScript(state, script('patch'), 1);
    this.#drop = createScript(state, script('drop'), 2);
  }

  async create(spec: GroupSpec, owner: GroupOwner, start: StartPoint): Promise<NewGroup> {
    filterOf(spec.filter);
    const { keyspace, groupsAllowed, randomText } = this.#parts;
    const key = `${spec.name}.${randomText(8)}`;
    const beginnings = JSON.stringify(beginningsOf(start, keyspace.shards));
    const args = [spec.name, groupsAllowed, key, owner, beginnings, JSON.stringify(spec)];
    const answer = await this.#put([keyspace.groups(), keyspace.groupSpec(spec.name)], args);
    if (answer === 'FULL') return { status: 'full', limit: groupsAllowed };
    // Whichever it is: from here on the record is the truth, and this finishes what is half done.
    const found = await this.#read(spec.name);
    // Its removal was under way, and is finished by now.
    if (found === undefined) return await this.create(spec, owner, start);
    if (Array.isArray(answer)) {
      await this.#confirm(found);
      return { status: 'created', group: found };
    }
    return sameSpec(found, spec, owner) ? { status: 'existing', group: found } : { status: 'conflict' };
  }

  async get(name: string): Promise<Group> {
    return (await this.#find(name)).group;
  }

  async list(owner: GroupOwner): Promise<readonly Group[]> {
    const { state, keyspace } = this.#parts;
    const names = await guarded(state.zrange(keyspace.groups(), '0', '-1'));
    const groups = await Promise.all(names.map((name) => this.#read(name)));
    return groups.filter((group) => group !== undefined).filter((group) => group.owner === owner);
  }

  async change(name: string, change: Parameters<Groups['change']>[1]): Promise<Group> {
    const { keyspace } = this.#parts;
    const group = await this.#read(name);
    if (group === undefined) throw new GroupGone();
    const { key, owner, createdAtMs, revision: _revision, ...before } = group;
    const spec: GroupSpec = { ...before, ...change };
    filterOf(spec.filter);
    const changed = await this.#patch([keyspace.groupSpec(name)], [key, 'spec', JSON.stringify(spec)]);
    if (changed === '') throw new GroupGone();
    this.#forget(name);
    await this.#eachShard((shard) => this.#store.heed(shard, group, Number(changed), false));
    return { ...spec, key, owner, createdAtMs };
  }

  async remove(name: string): Promise<void> {
    const { keyspace } = this.#parts;
    const group = await this.#read(name);
    if (group === undefined) return;
    await this.#patch([keyspace.groupSpec(name)], [group.key, 'state', 'removing']);
    this.#forget(name);
    await this.#finishRemoval(group);
  }

  async progress(name: string): Promise<GroupProgress> {
    const { group } = await this.#find(name);
    const ask = (): Promise<ShardProgress[]> => this.#eachShard((shard) => this.#store.progress(shard, group));
    const shards = await ask().catch(async (error: unknown) => {
      if (!(error instanceof GroupGone)) throw error;
      await this.#renew(group);
      return await ask();
    });
    const sum = (pick: (shard: (typeof shards)[number]) => number): number =>
      shards.reduce((total, shard) => total + pick(shard), 0);
    const oldest = shards.flatMap(({ oldestAtMs }) => oldestAtMs ?? []);
    return {
      lag: sum(({ lag }) => lag),
      waiting: sum(({ open, out }) => open - out),
      inFlight: sum(({ out }) => out),
      deadLetters: sum(({ dead }) => dead),
      acknowledged: sum(({ acknowledged }) => acknowledged),
      deadLettersDropped: sum(({ dropped }) => dropped),
      oldestAtMs: oldest.length === 0 ? undefined : Math.min(...oldest),
    };
  }

  async pull(name: string, options: PullOptions): Promise<readonly Delivery[]> {
    const { monotonicMs } = this.#parts;
    const dueMs = monotonicMs() + options.waitMs;
    let deliveries: readonly Delivery[] = [];
    for (;;) {
      const { line } = await this.#find(name);
      if (this.#stopped) throw new BrokerError('node_draining', 'This process is leaving.');
      if (line.isFull) throw new BrokerError('rate_limited', 'Too many consumers of this subscription wait here.');
      const waitMs = Math.max(0, dueMs - monotonicMs());
      deliveries = await line.pull({ ...options, waitMs });
      // The line ends when the group has changed; whoever waited goes on with the group as it is then.
      const goesOn = line.isStopped && !this.#stopped && options.signal?.aborted !== true;
      if (deliveries.length > 0 || !goesOn) break;
    }
    for (const { attempt, message } of deliveries) {
      if (message.type === 'gap') this.counts.gaps += 1;
      else if (attempt > 1) this.counts.redelivered += 1;
      else this.counts.delivered += 1;
    }
    return deliveries;
  }

  async settle(name: string, ackIds: readonly string[], verdict: Verdict): Promise<readonly Settled[]> {
    const { group, line } = await this.#find(name);
    const results = await this.#settle(group, ackIds, verdict);
    if (verdict.type === 'ack') for (const result of results) if (result === 'done') this.counts.acknowledged += 1;
    line.wake();
    return results;
  }

  async deadLetters(
    name: string,
    { after, limit }: { readonly after: string | undefined; readonly limit: number },
  ): Promise<readonly DeadLetter[]> {
    const { group } = await this.#find(name);
    const start = after === undefined ? undefined : this.#eventIdOf(after);
    const fromMs = start?.position.ms ?? 0;
    const shards = await this.#eachShard(async (shard) => {
      const dead = await this.#store.deadLetters(shard, group, fromMs, limit + SAME_MS_SLACK);
      return dead.map((each) => ({ ...each, shard, position: parsePosition(each.member) }));
    });
    const page = shards
      .flat()
      .filter((each) => start === undefined || inListOrder(each, start) > 0)
      .sort(inListOrder);
    return await this.#withBodies(group, page, limit);
  }

  replay(name: string, ids: readonly string[] | undefined): Promise<number> {
    return this.#revive(name, 'replay', ids);
  }

  discard(name: string, ids: readonly string[] | undefined): Promise<number> {
    return this.#revive(name, 'discard', ids);
  }

  /** Finishes removals that a process has left behind, and answers all groups. For a part that looks after them. */
  async tend(): Promise<readonly Group[]> {
    const all = await Promise.all((['platform', 'webhook', 'sink'] as const).map((owner) => this.list(owner)));
    return all.flat();
  }

  /** Pulls that wait are answered with nothing; later ones are refused. Idempotent. */
  stop(): void {
    this.#stopped = true;
    for (const { line } of this.#known.values()) line.stop();
  }

  async #find(name: string): Promise<Known> {
    const known = this.#known.get(name);
    const nowMs = this.#parts.monotonicMs();
    if (known !== undefined && nowMs - known.atMs < FRESH_MS) return known;
    const group = await this.#read(name);
    if (group === undefined) {
      this.#forget(name);
      throw new GroupGone();
    }
    // Another call may have read it as well meanwhile.
    const current = this.#known.get(name);
    if (current !== undefined && JSON.stringify(current.group) === JSON.stringify(group)) {
      current.atMs = nowMs;
      return current;
    }
    this.#forget(name);
    this.#forgetUnused(nowMs);
    const fresh = this.#know(group, nowMs);
    this.#known.set(name, fresh);
    return fresh;
  }

  #know(group: RevisedGroup, atMs: number): Known {
    const filter = filterOf(group.filter);
    const handOuts = new HandOuts(this.#handOutParts, group, filter);
    const line = new GroupLine({
      handOut: async (max, maxBytes) => {
        const found = await this.#few.run(() => handOuts.next(max, maxBytes));
        if (found.outdated) await this.#renew(group);
        return found;
      },
      release: async (deliveries) => {
        const ackIds = deliveries.map(({ ackId }) => ackId);
        await this.#settle(group, ackIds, { type: 'release' }).catch(() => undefined);
      },
      listen: (onEvent) => this.#parts.listen(filter, onEvent),
      monotonicMs: this.#parts.monotonicMs,
    });
    return { group, line, atMs };
  }

  /** Whoever waits there gets nothing, and asks again. */
  #forget(name: string): void {
    this.#known.get(name)?.line.stop();
    this.#known.delete(name);
  }

  /** Groups that nobody here has asked about for a while: they may be gone. */
  #forgetUnused(nowMs: number): void {
    for (const [name, { line, atMs }] of this.#known) {
      if (line.isIdle && nowMs - atMs >= UNUSED_MS) this.#known.delete(name);
    }
  }

  /** A shard says that the group is not what this process takes it for. Never rejects: the next hand-out says so again. */
  async #renew(known: RevisedGroup): Promise<void> {
    try {
      const group = await this.#read(known.name);
      if (group === undefined || group.key !== known.key || group.revision !== known.revision) {
        if (this.#known.get(known.name)?.group === known) this.#forget(known.name);
        return;
      }
      // It is: so a failover has cost the shard the group, or its record a change. The oldest event kept comes next where it was lost.
      if (await this.#open(group, [])) {
        await this.#eachShard((shard) => this.#store.heed(shard, group, group.revision, true));
      }
    } catch (error) {
      if (!(error instanceof BrokerError)) throw error;
    }
  }

  /** Gives it a place where it has none. False when it was removed meanwhile, and then nothing of it is left. */
  async #open(group: Group, beginnings: readonly Beginning[]): Promise<boolean> {
    const { keyspace } = this.#parts;
    await this.#eachShard((shard) => this.#store.begin(shard, group, beginnings[shard] ?? { where: 'start' }));
    if ((await this.#patch([keyspace.groupSpec(group.name)], [group.key, 'state', 'open'])) !== '') return true;
    await this.#eachShard((shard) => this.#store.remove(shard, group));
    return false;
  }

  /** The group as the store has it; what is half done is finished. */
  async #read(name: string): Promise<RevisedGroup | undefined> {
    const { state, keyspace } = this.#parts;
    const hash = await guarded(state.hgetall(keyspace.groupSpec(name)));
    const { key, owner, start, spec, created, revision, state: condition } = hash;
    if (key === undefined || spec === undefined) return undefined;
    // Written by `create` and `change` above, by nobody else.
    const group: RevisedGroup = {
      ...(JSON.parse(spec) as GroupSpec),
      key,
      owner: owner as GroupOwner,
      createdAtMs: Number(created),
      revision: Number(revision ?? 0),
    };
    if (condition === 'removing') {
      await this.#finishRemoval(group);
      return undefined;
    }
    if (condition === 'opening') {
      const beginnings = JSON.parse(start ?? '[]') as readonly Beginning[];
      if (!(await this.#open(group, beginnings))) return undefined;
    }
    return group;
  }

  async #finishRemoval(group: Group): Promise<void> {
    const { keyspace } = this.#parts;
    await this.#eachShard((shard) => this.#store.remove(shard, group));
    await this.#store.dropPermits(group);
    await this.#drop([keyspace.groups(), keyspace.groupSpec(group.name)], [group.name, group.key]);
  }

  async #confirm({ name, key }: Group): Promise<void> {
    const { barrier, keyspace } = this.#parts;
    const keys = [keyspace.groupSpec(name), ...this.#shards().map((shard) => keyspace.group(shard, key))];
    const confirmed = await Promise.all(keys.map((each) => barrier.confirm(each)));
    if (confirmed.includes(false)) {
      throw new BrokerError(
        'broker_unavailable',
        'No replica of the store has confirmed the new subscription; it may exist.',
      );
    }
  }

  async #settle(group: Group, ackIds: readonly string[], verdict: Verdict): Promise<readonly Settled[]> {
    const handOuts = ackIds.map((text) => readAckId(text, group.key, this.#store.shards));
    const byShard = new Map<number, HandOut[]>();
    for (const handOut of handOuts) {
      if (handOut === undefined) continue;
      const others = byShard.get(handOut.shard);
      if (others === undefined) byShard.set(handOut.shard, [handOut]);
      else others.push(handOut);
    }
    const results = new Map<HandOut, Settled>();
    const calls = await Promise.allSettled(
      [...byShard].map(async ([shard, some]) => {
        const answers = await this.#store.settle(shard, group, verdict, some);
        for (const [i, handOut] of some.entries()) results.set(handOut, answers[i] ?? 'stale');
      }),
    );
    // A hand-out that is over needs none any more, whoever ended it.
    const held: string[] = [];
    const over: string[] = [];
    for (const [{ permit }, result] of results)
      (verdict.type === 'extend' && result === 'done' ? held : over).push(permit);
    if (verdict.type === 'extend') await this.#store.prolong(group, held, verdict.deadlineMs);
    await this.#store.giveBack(group, over);
    // What one shard could not do is for the caller to know; what the others did is done.
    for (const call of calls) if (call.status === 'rejected') throw call.reason;
    return handOuts.map((each) => (each === undefined ? 'invalid' : (results.get(each) ?? 'stale')));
  }

  async #revive(name: string, verdict: 'replay' | 'discard', ids: readonly string[] | undefined): Promise<number> {
    const { group, line } = await this.#find(name);
    const members = new Map<number, string[]>();
    for (const id of ids ?? []) {
      const { shard, position } = this.#eventIdOf(id);
      members.set(shard, [...(members.get(shard) ?? []), formatPosition(position)]);
    }
    const shards = ids === undefined ? this.#shards() : [...members.keys()];
    const counts = await Promise.all(
      shards.map((shard) => this.#store.revive(shard, group, verdict, ALL_OF_A_SHARD, members.get(shard) ?? [])),
    );
    line.wake();
    return counts.reduce((sum, count) => sum + count, 0);
  }

  /** The first `limit` of them that are still there, fewer when they are large. */
  async #withBodies(
    group: Group,
    dead: readonly (DeadMember & { readonly shard: number })[],
    limit: number,
  ): Promise<readonly DeadLetter[]> {
    const letters: DeadLetter[] = [];
    let bytes = 0;
    for (const { shard, member, attempts, diedAtMs } of dead) {
      if (letters.length >= limit || bytes >= PAGE_BYTES) break;
      const [record] = await this.#store.bodies(shard, group, [member], 1);
      // Discarded meanwhile, or neither the group nor the stream had room for it.
      if (record === undefined) continue;
      bytes += record.data.length;
      const position = parsePosition(member);
      const event = new OutgoingEvent(shard, position, record);
      letters.push({ id: eventId(shard, position), event, attempts, diedAtMs });
    }
    return letters;
  }

  #eventIdOf(text: string): { readonly shard: number; readonly position: Position } {
    const found = parseEventId(text, this.#store.shards);
    if (found === undefined) throw new BrokerError('invalid_request', `${text.slice(0, 60)} is not the id of an event`);
    return found;
  }

  #shards(): number[] {
    return Array.from({ length: this.#store.shards }, (_, shard) => shard);
  }

  #eachShard<T>(work: (shard: number) => Promise<T>): Promise<T[]> {
    return Promise.all(this.#shards().map(work));
  }
}

function filterOf(terms: FilterTerms): EventFilter {
  const parsed = parseFilter(terms);
  if (parsed.status === 'invalid') throw new BrokerError('invalid_request', parsed.detail);
  return parsed.filter;
}

function sameSpec(group: Group, spec: GroupSpec, owner: GroupOwner): boolean {
  const { key: _key, owner: theirs, createdAtMs: _created, ...own } = group;
  return theirs === owner && canonical(own) === canonical(spec);
}

function canonical(spec: GroupSpec): string {
  const { name, filter, ackDeadlineMs, maxInFlight, maxAttempts, ordered } = spec;
  const lists = [filter.devices, filter.kinds, filter.tags].map((list) => [...(list ?? [])].sort());
  return JSON.stringify([name, lists, ackDeadlineMs, maxInFlight, maxAttempts, ordered]);
}

function beginningsOf(start: StartPoint, shards: number): readonly Beginning[] {
  return Array.from({ length: shards }, (_, shard): Beginning => {
    if (start.from === 'now' || start.from === 'start') return { where: start.from };
    const position = startPosition(start, shard, ORIGIN);
    if (position.ms === 0) return { where: 'start' };
    if (!isNumbered(position)) return { where: 'time', ms: position.ms };
    return { where: 'entry', id: formatPosition(position) };
  });
}

function inListOrder(
  a: { readonly shard: number; readonly position: Position },
  b: { readonly shard: number; readonly position: Position },
): number {
  return a.position.ms - b.position.ms || a.shard - b.shard || a.position.seq - b.position.seq;
}
