/** Tells the lanes how attempts ended, until they have heard it. What fails because the store is away is kept and repeated, in paced batches;
 *  the store takes each end once, whatever arrives twice.
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
  /** Of what is kept. */
  readonly bounds: { readonly ends: number; readonly bytes: number; readonly ageMs: number };
  readonly monotonicMs: () => number;
  readonly ended: (command: EndedCommand) => void;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
}

interface Entry {
  readonly report: AttemptReport;
  readonly sinceMs: number;
  readonly bytes: number;
}

export class LaneJournal {
  private readonly options: LaneJournalOptions;
  private readonly kept = new Set<Entry>();
  private readonly underWay = new Set<Promise<void>>();
  private keptBytes = 0;
  private repeating: Promise<void> | undefined;
  private repeatAtMs = 0;

  constructor(options: LaneJournalOptions) {
    this.options = options;
  }

  get size(): number {
    return this.kept.size;
  }

  /** Sends it in this tick: what is asked of the same connection afterwards finds it done. */
  report(report: AttemptReport): void {
    const sending = this.first(report).finally(() => this.underWay.delete(sending));
    this.underWay.add(sending);
  }

  /** Repeats what is due. */
  look(nowMs: number): void {
    if (this.kept.size === 0 || this.repeating !== undefined || nowMs < this.repeatAtMs) return;
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
    if (this.kept.size > 0) this.options.log.warn({ ends: this.kept.size }, 'lane.ends_given_up');
    for (const entry of [...this.kept]) this.drop(entry);
  }

  private async first(report: AttemptReport): Promise<void> {
    if (await this.send(report)) report.heard();
    else this.keep(report);
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

  private keep(report: AttemptReport): void {
    const bytes = report.end?.kind === 'answered' ? report.end.body.byteLength : 0;
    const { bounds, monotonicMs } = this.options;
    const entry = { report, sinceMs: monotonicMs(), bytes };
    this.kept.add(entry);
    this.keptBytes += bytes;
    for (const oldest of this.kept) {
      if (this.kept.size <= bounds.ends && this.keptBytes <= bounds.bytes) break;
      this.forget(oldest);
    }
  }

  /** Goes on for as long as everything gets through. */
  private async repeat(): Promise<void> {
    const { bounds, monotonicMs } = this.options;
    for (const entry of this.kept) {
      if (entry.sinceMs + bounds.ageMs > monotonicMs()) break;
      this.forget(entry);
    }
    while (this.kept.size > 0) {
      const batch = [...this.kept].slice(0, UNHEARD_BATCH);
      const sent = await Promise.all(batch.map((entry) => this.send(entry.report)));
      for (const [i, entry] of batch.entries()) {
        // It may have been forgotten meanwhile.
        if (sent[i] === true && this.kept.has(entry)) this.drop(entry);
      }
      if (!sent.includes(true)) return;
    }
  }

  private forget(entry: Entry): void {
    this.options.metrics.laneForgotten.inc();
    this.drop(entry);
  }

  private drop(entry: Entry): void {
    this.kept.delete(entry);
    this.keptBytes -= entry.bytes;
    entry.report.heard();
  }
}
