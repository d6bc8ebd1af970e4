/** Tells the lanes how attempts ended, until they have heard it. What fails because the store is away is kept and repeated, in paced batches;
 *  the store takes each end once, whatever arrives twice.
 *  What it has taken is remembered for a while and told again when the store may have fallen back (another master, a restart): a failover
 *  forgets what no replica had, and an end must not become a guess by that (I4).
 *  Bounded in number, bytes of answers and time; the oldest go first. The store gives a forgotten attempt up by
 *  itself, as something that nobody knows, which is then the truth (I4).
 *  Not done here: what an end means for the next command (lane-runner.ts). */

import type { AttemptEnd, EndedCommand, LaneLine } from '@lapi-broker/lane';
import type { CommandId, DeviceCode, Epoch } from '@lapi-broker/protocol';
import type { Log } from '@lapi-broker/telemetry';
import { UNHEARD_BATCH, UNHEARD_REPEAT_MS } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';

/** Which attempt of which command, and under which ownership it was begun. */
export interface Attempt {
  readonly code: DeviceCode;
  readonly id: CommandId;
  readonly epoch: Epoch;
  readonly attempt: number;
}

export interface AttemptReport {
  readonly attempt: Attempt;
  /** Undefined: certainly not written. */
  readonly end: AttemptEnd | undefined;
  /** The store has taken it, or it was given up here. Called once. */
  readonly heard: () => void;
}

export interface LaneJournalOptions {
  readonly line: Pick<LaneLine, 'settle' | 'giveBack'>;
  /** Of what the store has not taken. */
  readonly unheard: JournalBounds;
  /** Of what it has taken. */
  readonly heard: JournalBounds;
  readonly monotonicMs: () => number;
  readonly ended: (command: EndedCommand) => void;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
}

export interface JournalBounds {
  readonly ends: number;
  readonly bytes: number;
  readonly ageMs: number;
}

interface Entry {
  readonly report: AttemptReport;
  readonly sinceMs: number;
  readonly bytes: number;
  isHeard: boolean;
}

/** Entries by age, the oldest first. */
class Shelf {
  private readonly entries = new Set<Entry>();
  private bytes = 0;

  get size(): number {
    return this.entries.size;
  }

  has(entry: Entry): boolean {
    return this.entries.has(entry);
  }

  first(count: number): Entry[] {
    const found: Entry[] = [];
    for (const entry of this.entries) {
      if (found.length === count) break;
      found.push(entry);
    }
    return found;
  }

  add(entry: Entry): void {
    if (this.entries.has(entry)) return;
    this.entries.add(entry);
    this.bytes += entry.bytes;
  }

  delete(entry: Entry): void {
    if (this.entries.delete(entry)) this.bytes -= entry.bytes;
  }

  /** Takes out what exceeds the bounds. */
  prune({ ends, bytes, ageMs }: JournalBounds, nowMs: number): Entry[] {
    const gone: Entry[] = [];
    for (const entry of this.entries) {
      const isOver = this.entries.size > ends || this.bytes > bytes || entry.sinceMs + ageMs <= nowMs;
      if (!isOver) break;
      this.delete(entry);
      gone.push(entry);
    }
    return gone;
  }
}

export class LaneJournal {
  private readonly options: LaneJournalOptions;
  private readonly unheard = new Shelf();
  private readonly heard = new Shelf();
  private readonly underWay = new Set<Promise<void>>();
  private repeating: Promise<void> | undefined;
  private repeatAtMs = 0;

  constructor(options: LaneJournalOptions) {
    this.options = options;
  }

  /** Ends that the store has not taken. */
  get size(): number {
    return this.unheard.size;
  }

  /** Sends it in this tick: what is asked of the same connection afterwards finds it done. */
  report(report: AttemptReport): void {
    const bytes = report.end?.kind === 'answered' ? report.end.body.byteLength : 0;
    const entry = { report, sinceMs: this.options.monotonicMs(), bytes, isHeard: false };
    const sending = this.first(entry).finally(() => this.underWay.delete(sending));
    this.underWay.add(sending);
  }

  /** The store may have forgotten its last writes: what it was told lately is told again. */
  tellAgain(): void {
    for (const entry of this.heard.first(this.heard.size)) {
      this.heard.delete(entry);
      this.unheard.add(entry);
    }
    this.repeatAtMs = 0;
  }

  /** Repeats what is due. */
  look(nowMs: number): void {
    this.heard.prune(this.options.heard, nowMs);
    if (this.unheard.size === 0 || this.repeating !== undefined || nowMs < this.repeatAtMs) return;
    this.repeatAtMs = nowMs + UNHEARD_REPEAT_MS;
    this.repeating = this.repeat().finally(() => {
      this.repeating = undefined;
    });
  }

  /** Waits for what is under way, then tries what is kept once more. */
  async stop(): Promise<void> {
    await Promise.all(this.underWay);
    await this.repeating;
    await this.repeat();
    if (this.unheard.size > 0) this.options.log.warn({ ends: this.unheard.size }, 'lane.ends_given_up');
    for (const entry of this.unheard.first(this.unheard.size)) {
      this.unheard.delete(entry);
      hear(entry);
    }
  }

  private async first(entry: Entry): Promise<void> {
    if (await this.send(entry.report)) {
      this.wasHeard(entry);
      return;
    }
    this.unheard.add(entry);
    this.forget();
  }

  private async send({ attempt, end }: AttemptReport): Promise<boolean> {
    const { line, ended, log } = this.options;
    const { code, id, epoch, attempt: number } = attempt;
    try {
      const result =
        end === undefined
          ? await line.giveBack(code, id, epoch, number)
          : await line.settle(code, id, epoch, number, end);
      if (result.status === 'settled') ended(result.ended);
      return true;
    } catch (error) {
      log.debug({ err: error, id }, 'lane.end_not_heard');
      return false;
    }
  }

  /** Goes on for as long as everything gets through. */
  private async repeat(): Promise<void> {
    this.forget();
    while (this.unheard.size > 0) {
      const batch = this.unheard.first(UNHEARD_BATCH);
      const sent = await Promise.all(batch.map((entry) => this.send(entry.report)));
      for (const [i, entry] of batch.entries()) {
        // It may have been forgotten meanwhile.
        if (sent[i] !== true || !this.unheard.has(entry)) continue;
        this.unheard.delete(entry);
        this.wasHeard(entry);
      }
      if (!sent.includes(true)) return;
    }
  }

  private wasHeard(entry: Entry): void {
    hear(entry);
    this.heard.add(entry);
    this.heard.prune(this.options.heard, this.options.monotonicMs());
  }

  private forget(): void {
    const { unheard, monotonicMs, metrics } = this.options;
    for (const entry of this.unheard.prune(unheard, monotonicMs())) {
      // What the store had taken once is told again as a precaution only.
      if (!entry.isHeard) metrics.laneForgotten.inc();
      hear(entry);
    }
  }
}

function hear(entry: Entry): void {
  if (entry.isHeard) return;
  entry.isHeard = true;
  entry.report.heard();
}
