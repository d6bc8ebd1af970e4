/** Finds the subscribers that an event may concern without asking all of them: by device, else by family of kinds, else "the rest".
 *  Every subscriber stands in exactly one of the three, and under each family or device of its filter once, so one event visits a subscriber
 *  at most once. The answer is a superset: the caller still asks each filter. Pure. */

import type { EventRecord } from '@lapi-broker/protocol';
import { type EventFilter, familyOf } from './filter.ts';

export class SubscriberIndex<T extends { readonly filter: EventFilter }> {
  readonly #byDevice = new Map<string, Set<T>>();
  readonly #byFamily = new Map<string, Set<T>>();
  readonly #rest = new Set<T>();

  add(subscriber: T): void {
    const { exactDevices, families } = subscriber.filter;
    if (exactDevices !== undefined) for (const code of exactDevices) put(this.#byDevice, code, subscriber);
    else if (families !== undefined) for (const family of families) put(this.#byFamily, family, subscriber);
    else this.#rest.add(subscriber);
  }

  remove(subscriber: T): void {
    const { exactDevices, families } = subscriber.filter;
    if (exactDevices !== undefined) for (const code of exactDevices) take(this.#byDevice, code, subscriber);
    else if (families !== undefined) for (const family of families) take(this.#byFamily, family, subscriber);
    else this.#rest.delete(subscriber);
  }

  /** A subscriber may be removed during the visit. */
  visit(event: EventRecord, visitor: (subscriber: T) => void): void {
    this.#byDevice.get(event.code)?.forEach(visitor);
    if (this.#byFamily.size > 0) this.#byFamily.get(familyOf(event.kind))?.forEach(visitor);
    this.#rest.forEach(visitor);
  }
}

function put<T>(sets: Map<string, Set<T>>, key: string, member: T): void {
  const set = sets.get(key);
  if (set === undefined) sets.set(key, new Set([member]));
  else set.add(member);
}

function take<T>(sets: Map<string, Set<T>>, key: string, member: T): void {
  const set = sets.get(key);
  set?.delete(member);
  if (set?.size === 0) sets.delete(key);
}
