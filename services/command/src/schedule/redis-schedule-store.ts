/** ScheduleStore on Redis: one slot for all schedules, because there are few and none is hot. */

import { createScript, guarded, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import type { Firing, ScheduleRecord, ScheduleSpec } from './schedule.ts';
import type { Advance, ScheduleStore } from './schedule-store.ts';

const script = (name: string): URL => new URL(`./${name}.lua`, import.meta.url);

export class RedisScheduleStore implements ScheduleStore {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #limit: number;
  readonly #scripts: Readonly<Record<'put' | 'advance' | 'steer' | 'remove', Script>>;

  /** A state connection; the caller opens and closes it. `limit`: of schedules. */
  constructor(connection: RedisConnection, keyspace: Keyspace, limit: number) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#limit = limit;
    this.#scripts = {
      put: createScript(connection, script('put'), 3),
      advance: createScript(connection, script('advance'), 2),
      steer: createScript(connection, script('steer'), 2),
      remove: createScript(connection, script('remove'), 3),
    };
  }

  async put(id: string, spec: ScheduleSpec, nextAtMs: number | undefined): Promise<'stored' | 'full'> {
    const args = [id, this.#limit, nextAtMs ?? '', JSON.stringify(spec)];
    return (await this.#scripts.put(this.#allKeys(id), args)) === 1 ? 'stored' : 'full';
  }

  async read(id: string): Promise<ScheduleRecord | undefined> {
    return fromHash(id, await guarded(this.#connection.hgetall(this.#keyspace.schedule(id))));
  }

  async list(after: string | undefined, limit: number): Promise<readonly ScheduleRecord[]> {
    const from = after === undefined ? '-' : `(${after}`;
    const ids = await guarded(this.#connection.zrangebylex(this.#keyspace.schedules(), from, '+', 'LIMIT', 0, limit));
    const found = await Promise.all(ids.map((id) => this.read(id)));
    return found.filter((each) => each !== undefined);
  }

  async advance(id: string, { fromMs, nextAtMs, last, missed }: Advance): Promise<boolean> {
    const keys = [this.#keyspace.dueSchedules(), this.#keyspace.schedule(id)];
    return (await this.#scripts.advance(keys, [id, fromMs, nextAtMs, JSON.stringify(last), missed])) === 1;
  }

  async steer(id: string, nextAtMs: number | undefined): Promise<'steered' | 'same' | 'gone'> {
    const keys = [this.#keyspace.dueSchedules(), this.#keyspace.schedule(id)];
    const answer = await this.#scripts.steer(keys, [id, nextAtMs ?? '']);
    return answer === 'STEERED' ? 'steered' : answer === 'SAME' ? 'same' : 'gone';
  }

  async remove(id: string): Promise<boolean> {
    return (await this.#scripts.remove(this.#allKeys(id), [id])) === 1;
  }

  async due(atMs: number, limit: number): Promise<readonly string[]> {
    const key = this.#keyspace.dueSchedules();
    return await guarded(this.#connection.zrangebyscore(key, '-inf', Math.floor(atMs), 'LIMIT', 0, limit));
  }

  #allKeys(id: string): string[] {
    return [this.#keyspace.schedules(), this.#keyspace.dueSchedules(), this.#keyspace.schedule(id)];
  }
}

function fromHash(id: string, hash: Readonly<Record<string, string>>): ScheduleRecord | undefined {
  const { spec, next, last, missed = '0' } = hash;
  if (spec === undefined || next === undefined) return undefined;
  // Written by `put` and `advance` above, by nobody else.
  return {
    ...(JSON.parse(spec) as ScheduleSpec),
    id,
    nextAtMs: next === '' ? undefined : Number(next),
    last: last === undefined ? undefined : (JSON.parse(last) as Firing),
    missed: Number(missed),
  };
}
