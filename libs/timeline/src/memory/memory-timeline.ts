/** Timeline in memory, for tests: the same bounds and the same counting as on Redis; nothing expires. */

import type { DeviceCode } from '@lapi-broker/protocol';
import { LIST_ENTRIES, MERGE_LOOK, REFUSAL_WINDOW_MS } from '../bounds.ts';
import { decodeSession, encodeSession } from '../entry-text.ts';
import { inOrder } from '../order.ts';
import type { DeviceTimeline, RefusalEntry, SessionEntry, Timeline, TimelineEntry } from '../timeline.ts';

export class MemoryTimeline implements Timeline {
  /** Newest first. */
  readonly #sessions = new Map<DeviceCode, SessionEntry[]>();
  readonly #refusals = new Map<DeviceCode, RefusalEntry[]>();

  async append(entries: readonly TimelineEntry[]): Promise<readonly TimelineEntry[]> {
    for (const entry of entries) {
      if (entry.type === 'refused') this.#count(entry);
      else push(this.#sessions, entry.code, decodeSession(entry.code, encodeSession(entry)) ?? entry);
    }
    return [];
  }

  async read(code: DeviceCode): Promise<DeviceTimeline> {
    return inOrder(this.#sessions.get(code) ?? [], this.#refusals.get(code) ?? []);
  }

  #count(entry: RefusalEntry): void {
    const list = this.#refusals.get(entry.code) ?? [];
    const at = list
      .slice(0, MERGE_LOOK)
      .findIndex((known) => known.reason === entry.reason && entry.firstAtMs - known.lastAtMs <= REFUSAL_WINDOW_MS);
    const known = list[at];
    if (known === undefined) {
      push(this.#refusals, entry.code, entry);
      return;
    }
    list[at] = {
      ...entry,
      firstAtMs: Math.min(known.firstAtMs, entry.firstAtMs),
      lastAtMs: Math.max(known.lastAtMs, entry.lastAtMs),
      count: known.count + entry.count,
    };
  }
}

function push<Entry>(lists: Map<DeviceCode, Entry[]>, code: DeviceCode, entry: Entry): void {
  lists.set(code, [entry, ...(lists.get(code) ?? [])].slice(0, LIST_ENTRIES));
}
