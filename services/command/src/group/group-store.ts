/** The groups' scripts, one method each: what a group does in one shard, as one step of the store. Texts and numbers only; what they mean is
 *  decided in group-line.ts. Store away: rejects with `broker_unavailable`; what was to change may have been changed. */

import { BrokerError, type EventRecord, fromStreamFields } from '@lapi-broker/protocol';
import { createScript, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import type { Group, Settled, Verdict } from './group.ts';

const script = (name: string): URL => new URL(`./${name}.lua`, import.meta.url);
const NAMES = ['begin', 'look', 'take', 'heed', 'settle', 'revive', 'progress', 'remove'] as const;

export type Key = Pick<Group, 'key' | 'ordered' | 'maxAttempts'>;

export type Beginning =
  | { readonly where: 'now' | 'start' }
  | { readonly where: 'time'; readonly ms: number }
  | { readonly where: 'entry'; readonly id: string };

export interface Look {
  /** Last entry that the group has looked at, and its number. */
  readonly place: string;
  readonly number: number;
  /** Last entry of the stream, trimmed or not. */
  readonly last: string;
  readonly ready: number;
  readonly out: number;
  readonly open: number;
  /** Until something is due; undefined = nothing is. */
  readonly dueMs: number | undefined;
}

export interface Advance {
  readonly from: string;
  readonly to: string;
  readonly number: number;
  /** False when everything up to `to` is gone. */
  readonly seen: boolean;
  readonly gap: { readonly from: string; readonly to: string; readonly count: number } | undefined;
  readonly matched: readonly { readonly member: string; readonly code: string }[];
}

export interface Taken {
  readonly member: string;
  readonly attempt: number;
}

export interface ShardProgress {
  readonly lag: number;
  readonly open: number;
  readonly out: number;
  readonly dead: number;
  readonly acknowledged: number;
  readonly dropped: number;
  readonly oldestAtMs: number | undefined;
}

export interface DeadMember {
  readonly member: string;
  readonly attempts: number;
  readonly diedAtMs: number;
}

/** Of one reply with bodies, about. */
const BODIES_BYTES = 4 * 2 ** 20;

export class GroupStore {
  readonly #keyspace: Keyspace;
  readonly #scripts: Readonly<Record<(typeof NAMES)[number], Script>>;
  readonly #bodies: Script;
  readonly #deadLetters: Script;
  readonly #permit: Script;
  readonly #prolong: Script;
  readonly #connection: RedisConnection;

  /** A state connection; the caller opens and closes it. */
  constructor(connection: RedisConnection, keyspace: Keyspace) {
    this.#keyspace = keyspace;
    this.#connection = connection;
    const scripts = NAMES.map((name) => [name, createScript(connection, script(name), 2)] as const);
    this.#scripts = Object.fromEntries(scripts) as Record<(typeof NAMES)[number], Script>;
    this.#bodies = createScript(connection, script('bodies'), 2, { replies: 'buffer' });
    this.#deadLetters = createScript(connection, script('dead-letters'), 2);
    this.#permit = createScript(connection, script('permit'), 1);
    this.#prolong = createScript(connection, script('prolong'), 1);
  }

  get shards(): number {
    return this.#keyspace.shards;
  }

  async begin(shard: number, group: Key, beginning: Beginning): Promise<void> {
    const place = beginning.where === 'time' ? beginning.ms : beginning.where === 'entry' ? beginning.id : '';
    await this.#call('begin', shard, group, [beginning.where, place]);
  }

  async look(shard: number, group: Key): Promise<Look> {
    const [place = '', number, last = '', ready, out, open, due] = words(await this.#call('look', shard, group, []));
    return {
      place,
      number: Number(number),
      last,
      ready: Number(ready),
      out: Number(out),
      open: Number(open),
      dueMs: due === '' ? undefined : Number(due),
    };
  }

  /** `moved`: the place is another by now. `changed`: the spec that the advance is made by is not the last one. */
  async take(
    shard: number,
    group: Key,
    wanted: number,
    deadlineMs: number,
    advance: (Advance & { readonly revision: number }) | undefined,
  ): Promise<readonly Taken[] | 'moved' | 'changed'> {
    const step =
      advance === undefined
        ? ['', '', '', '', '', '', '', '']
        : [
            advance.from,
            advance.to,
            advance.number,
            advance.gap?.from ?? '',
            advance.gap?.to ?? '',
            advance.gap?.count ?? '',
            advance.seen ? 1 : 0,
            advance.revision,
            ...advance.matched.flatMap(({ member, code }) => [member, code]),
          ];
    const reply = await this.#call('take', shard, group, [wanted, deadlineMs, ...step]);
    if (reply === 'MOVED') return 'moved';
    if (reply === 'CHANGED') return 'changed';
    const taken: Taken[] = [];
    const found = words(reply);
    for (let i = 0; i + 1 < found.length; i += 2) {
      taken.push({ member: found[i] as string, attempt: Number(found[i + 1]) });
    }
    return taken;
  }

  /** From now on nobody goes on by a spec older than `revision`. `force`: the shard may know a newer one, which is no more. */
  async heed(shard: number, group: Key, revision: number, force: boolean): Promise<void> {
    await this.#call('heed', shard, group, [revision, force ? 1 : 0]);
  }

  /** In the order given, from the first on as many as have about `bytes`, one at least; undefined where the event is gone. */
  async bodies(
    shard: number,
    group: Key,
    members: readonly string[],
    bytes: number,
  ): Promise<readonly (EventRecord | undefined)[]> {
    const found: (EventRecord | undefined)[] = [];
    let left = bytes;
    while (found.length < members.length && (left > 0 || found.length === 0)) {
      const rest = members.slice(found.length);
      const args = [...options(group), Math.max(1, Math.min(BODIES_BYTES, left)), ...rest];
      const reply = await this.#bodies(this.#keys(shard, group), args);
      const some = (Array.isArray(reply) ? reply : []) as readonly (readonly Buffer[])[];
      if (some.length === 0) throw new BrokerError('internal', 'the store answered no event of those asked for');
      for (const fields of some) {
        found.push(fields.length === 0 ? undefined : fromStreamFields(fields));
        for (const field of fields) left -= field.length;
      }
    }
    return found;
  }

  async settle(
    shard: number,
    group: Key,
    verdict: Verdict | { readonly type: 'lost' },
    attempts: readonly Taken[],
  ): Promise<readonly Settled[]> {
    const ms = verdict.type === 'nack' ? verdict.delayMs : verdict.type === 'extend' ? verdict.deadlineMs : 0;
    const members = attempts.flatMap(({ member, attempt }) => [member, attempt]);
    const reply = await this.#call('settle', shard, group, [verdict.type, ms, ...members]);
    return words(reply).map((result) => (result === '1' ? 'done' : 'stale'));
  }

  async deadLetters(shard: number, group: Key, fromMs: number, limit: number): Promise<readonly DeadMember[]> {
    const found = words(await this.#deadLetters(this.#keys(shard, group), [...options(group), fromMs, limit]));
    const dead: DeadMember[] = [];
    for (let i = 0; i + 2 < found.length; i += 3) {
      dead.push({ member: found[i] as string, attempts: Number(found[i + 1]), diedAtMs: Number(found[i + 2]) });
    }
    return dead;
  }

  /** The oldest ones, at most `limit`, when no members are given. */
  async revive(
    shard: number,
    group: Key,
    verdict: 'replay' | 'discard',
    limit: number,
    members: readonly string[],
  ): Promise<number> {
    return Number(await this.#call('revive', shard, group, [verdict, limit, ...members]));
  }

  async progress(shard: number, group: Key): Promise<ShardProgress> {
    const found = words(await this.#call('progress', shard, group, []));
    const [number = 0, last = 0, open = 0, out = 0, dead = 0, acknowledged = 0, dropped = 0] = found.map(Number);
    const oldest = found[7] ?? '';
    return {
      lag: Math.max(0, last - number),
      open,
      out,
      dead,
      acknowledged,
      dropped,
      oldestAtMs: oldest === '' ? undefined : Number(oldest),
    };
  }

  async remove(shard: number, group: Key): Promise<void> {
    await this.#scripts.remove(this.#keys(shard, group), []);
  }

  /** How many of those wanted may be out now, and when none may, in how many ms another try makes sense. */
  async permit(
    group: Pick<Group, 'key' | 'maxInFlight' | 'ackDeadlineMs'>,
    wanted: number,
    beginning: string,
  ): Promise<{ readonly given: number; readonly againMs: number }> {
    const args = [wanted, group.maxInFlight, group.ackDeadlineMs, beginning];
    const [given, againMs] = words(await this.#permit([this.#keyspace.groupPermits(group.key)], args));
    return { given: Number(given), againMs: Number(againMs) };
  }

  /** Never rejects: what is not given back lapses. */
  async giveBack(group: Pick<Group, 'key'>, permits: readonly string[]): Promise<void> {
    if (permits.length === 0) return;
    await this.#connection.zrem(this.#keyspace.groupPermits(group.key), ...permits).catch(() => undefined);
  }

  /** Never rejects: an event that stays out longer than its permit makes room for one more. */
  async prolong(group: Pick<Group, 'key'>, permits: readonly string[], lifeMs: number): Promise<void> {
    if (permits.length === 0) return;
    await this.#prolong([this.#keyspace.groupPermits(group.key)], [lifeMs, ...permits]).catch(() => undefined);
  }

  async dropPermits(group: Pick<Group, 'key'>): Promise<void> {
    await this.#connection.unlink(this.#keyspace.groupPermits(group.key)).catch(() => undefined);
  }

  async #call(
    name: (typeof NAMES)[number],
    shard: number,
    group: Key,
    args: readonly (string | number)[],
  ): Promise<unknown> {
    const reply = await this.#scripts[name](this.#keys(shard, group), [...options(group), ...args]);
    if (reply === 'GONE') throw new GroupGone();
    return reply;
  }

  #keys(shard: number, { key }: Pick<Group, 'key'>): readonly string[] {
    return [this.#keyspace.events(shard), this.#keyspace.group(shard, key)];
  }
}

/** The group has no place in a shard: it was removed, or is not there yet. */
export class GroupGone extends BrokerError {
  constructor() {
    super('not_found', 'There is no such subscription.');
  }
}

function options({ ordered, maxAttempts }: Key): [number, number] {
  return [ordered ? 1 : 0, maxAttempts];
}

function words(reply: unknown): readonly string[] {
  return Array.isArray(reply) ? reply.map(String) : [];
}
