/** Writes the timeline of devices: what ended and what was refused is collected for a moment and stored in batches, in the background.
 *  Best effort: nothing waits for it and nothing fails with it. What the store did not take is tried again while there is room; beyond the bound
 *  new entries are given up and counted. Refusals of one code for one reason are counted together before they are stored, and those of codes
 *  that are not known to be provisioned only up to a rate, because anybody can make them up. What a session said last is read and masked only
 *  when its batch is due: thousands of sessions may end in one moment, and masking takes longer than ending. Pure but for the store. */

import type { DeviceCode } from '@lapi-broker/protocol';
import type { Part } from '@lapi-broker/runtime';
import type { RefusalEntry, SessionEntry, Timeline, TimelineEntry } from '@lapi-broker/timeline';
import {
  MAX_TIMELINE_ENTRIES,
  TIMELINE_BATCH,
  TIMELINE_FLUSH_MS,
  TIMELINE_RETRY_MS,
  UNKNOWN_REFUSALS_BURST,
  UNKNOWN_REFUSALS_PER_SECOND,
} from '../limits.ts';

export interface TimelineWriterOptions {
  readonly timeline: Pick<Timeline, 'append'>;
  readonly monotonicMs: () => number;
  readonly count: (result: 'written' | 'dropped', entries: number) => void;
}

/** A refused registration, as the handshake saw it. */
export interface Refusal {
  readonly code: DeviceCode;
  readonly reason: string;
  readonly address: string;
  readonly node: string;
  /** Redis time. */
  readonly atMs: number;
  /** Is the code known to be provisioned? */
  readonly known: boolean;
}

export class TimelineWriter implements Part {
  readonly name = 'timeline';
  private readonly options: TimelineWriterOptions;
  private waiting: (() => TimelineEntry)[] = [];
  /** Not among `waiting` yet, by code and reason. */
  private readonly refusals = new Map<string, RefusalEntry>();
  private writing: Promise<void> | undefined;
  private dueMs = Number.POSITIVE_INFINITY;
  private tokens = UNKNOWN_REFUSALS_BURST;
  private tokensMs: number;

  constructor(options: TimelineWriterOptions) {
    this.options = options;
    this.tokensMs = options.monotonicMs();
  }

  /** `read` is called once, a moment later. */
  ended(read: () => SessionEntry): void {
    if (this.hasRoom()) this.waiting.push(read);
  }

  refused({ code, reason, address, node, atMs, known }: Refusal): void {
    const key = `${reason} ${code}`;
    const counted = this.refusals.get(key);
    const entry: RefusalEntry = {
      type: 'refused',
      code,
      reason,
      address,
      node,
      firstAtMs: counted?.firstAtMs ?? atMs,
      lastAtMs: atMs,
      count: (counted?.count ?? 0) + 1,
    };
    if (counted === undefined) {
      if (!known && !this.takeToken()) {
        this.options.count('dropped', 1);
        return;
      }
      if (!this.hasRoom()) return;
    }
    this.refusals.set(key, entry);
  }

  /** Called by the node's ticker. */
  look(nowMs: number): void {
    if (this.writing !== undefined || nowMs < this.dueMs) return;
    this.writing = this.write(false).finally(() => {
      this.writing = undefined;
    });
  }

  /** Writes what waits, once: the sessions that a stopping node has just closed are among it. */
  async stop(): Promise<void> {
    await this.writing;
    await this.write(true);
  }

  private async write(last: boolean): Promise<void> {
    const { timeline, count, monotonicMs } = this.options;
    this.dueMs = Number.POSITIVE_INFINITY;
    let failed = false;
    while (this.size > 0 && !failed) {
      for (const refusal of this.refusals.values()) this.waiting.push(() => refusal);
      this.refusals.clear();
      const batch = this.waiting.splice(0, TIMELINE_BATCH).map((read) => read());
      const left = await timeline.append(batch);
      count('written', batch.length - left.length);
      failed = left.length > 0;
      this.waiting.unshift(...left.map((entry) => () => entry));
    }
    if (this.size === 0) return;
    if (last) count('dropped', this.waiting.splice(0).length);
    else this.dueMs = monotonicMs() + TIMELINE_RETRY_MS;
  }

  private get size(): number {
    return this.waiting.length + this.refusals.size;
  }

  /** Asked before something is added, which then is due in a moment. */
  private hasRoom(): boolean {
    if (this.size >= MAX_TIMELINE_ENTRIES) {
      this.options.count('dropped', 1);
      return false;
    }
    if (this.dueMs === Number.POSITIVE_INFINITY) this.dueMs = this.options.monotonicMs() + TIMELINE_FLUSH_MS;
    return true;
  }

  private takeToken(): boolean {
    const nowMs = this.options.monotonicMs();
    const seconds = (nowMs - this.tokensMs) / 1_000;
    this.tokensMs = nowMs;
    this.tokens = Math.min(UNKNOWN_REFUSALS_BURST, this.tokens + seconds * UNKNOWN_REFUSALS_PER_SECOND);
    if (this.tokens < 1) return false;
    this.tokens--;
    return true;
  }
}
