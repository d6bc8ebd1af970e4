/** Remembers which node owned a device a moment ago, so that most commands need no look-up. A guess, never the truth: the node compares
 *  the epoch before it writes (protocol C6), so a wrong entry costs a refusal and a look-up, never a misdelivery.
 *  Bounded in entries and in age; the entry looked up longest ago goes first. Pure in time. */

import type { DeviceCode, Epoch, NodeId } from '@lapi-broker/protocol';

export interface Route {
  readonly node: NodeId;
  readonly epoch: Epoch;
  /** The node's inbox, kept here so that the name is built once. */
  readonly channel: string;
}

interface Entry {
  readonly route: Route;
  readonly untilMs: number;
}

export class OwnerCache {
  readonly #maxEntries: number;
  readonly #maxAgeMs: number;
  readonly #entries = new Map<DeviceCode, Entry>();

  constructor(maxEntries: number, maxAgeMs: number) {
    this.#maxEntries = maxEntries;
    this.#maxAgeMs = maxAgeMs;
  }

  get(code: DeviceCode, nowMs: number): Route | undefined {
    const entry = this.#entries.get(code);
    if (entry === undefined) return undefined;
    if (entry.untilMs > nowMs) return entry.route;
    this.#entries.delete(code);
    return undefined;
  }

  set(code: DeviceCode, route: Route, nowMs: number): void {
    if (this.#maxEntries === 0) return;
    // Re-inserted, so that the map's order is the order of look-ups.
    this.#entries.delete(code);
    this.#entries.set(code, { route, untilMs: nowMs + this.#maxAgeMs });
    if (this.#entries.size <= this.#maxEntries) return;
    for (const oldest of this.#entries.keys()) {
      this.#entries.delete(oldest);
      break;
    }
  }

  delete(code: DeviceCode): void {
    this.#entries.delete(code);
  }
}
