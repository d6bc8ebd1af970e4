/** Queued commands at a steady pace, each to the next device, and what became of every one of them. For rates that an HTTP client carries. */

import { setTimeout as pause } from 'node:timers/promises';

export interface QueuedOptions {
  readonly port: number;
  readonly apiKey: string;
  readonly codes: readonly string[];
  /** Of the device; written with PUT, which is not repeated. */
  readonly url: string;
}

export interface QueuedTally {
  readonly accepted: number;
  /** Requests that were answered otherwise than with 202. */
  readonly refused: number;
  readonly firstRefusal: string;
  /** By state at the end. */
  readonly ends: Readonly<Record<string, number>>;
}

const ENDED = new Set(['succeeded', 'failed', 'timed_out', 'unknown', 'expired', 'cancelled']);
const END_DEADLINE_MS = 60_000;
const LOOK_MS = 200;
const TTL_MS = 60_000;
const ASKED_AT_ONCE = 16;

export class QueuedTraffic {
  private readonly options: QueuedOptions;
  private readonly ids: string[] = [];
  private readonly open = new Set<Promise<void>>();
  private refused = 0;
  private firstRefusal = '';
  private timer: NodeJS.Timeout | undefined;
  private made = 0;

  constructor(options: QueuedOptions) {
    this.options = options;
  }

  start(perSecond: number): void {
    const startedMs = performance.now();
    this.timer = setInterval(() => {
      const due = ((performance.now() - startedMs) / 1_000) * perSecond;
      for (; this.made < due; this.made++) {
        const asking = this.submit(this.options.codes[(this.made * 7) % this.options.codes.length] as string).finally(
          () => this.open.delete(asking),
        );
        this.open.add(asking);
      }
    }, 1_000 / perSecond);
  }

  /** Resolves when every command has ended, or 60 s later. */
  async stop(): Promise<QueuedTally> {
    clearInterval(this.timer);
    await Promise.all(this.open);
    const ends: Record<string, number> = {};
    const endMs = performance.now() + END_DEADLINE_MS;
    let next = 0;
    const lane = async (): Promise<void> => {
      for (let id = this.ids[next++]; id !== undefined; id = this.ids[next++]) {
        let state = await this.stateOf(id);
        for (; !ENDED.has(state) && performance.now() < endMs; state = await this.stateOf(id)) await pause(LOOK_MS);
        ends[state] = (ends[state] ?? 0) + 1;
      }
    };
    await Promise.all(Array.from({ length: ASKED_AT_ONCE }, lane));
    return { accepted: this.ids.length, refused: this.refused, firstRefusal: this.firstRefusal, ends };
  }

  private async submit(code: string): Promise<void> {
    const { url } = this.options;
    const { status, text } = await this.ask(`/v1/devices/${code}/commands`, {
      mode: 'queue',
      method: 'PUT',
      url,
      data: {},
      ttlMs: TTL_MS,
    });
    const id = status === 202 ? (JSON.parse(text) as { id?: string }).id : undefined;
    if (id !== undefined) this.ids.push(id);
    else if (this.refused++ === 0) this.firstRefusal = `${status} ${text}`;
  }

  private async stateOf(id: string): Promise<string> {
    const { status, text } = await this.ask(`/v1/commands/${id}`);
    return status === 200 ? String((JSON.parse(text) as { state?: string }).state) : `status ${status}`;
  }

  private async ask(path: string, body?: unknown): Promise<{ status: number; text: string }> {
    const { port, apiKey } = this.options;
    try {
      const answer = await fetch(`http://127.0.0.1:${port}${path}`, {
        method: body === undefined ? 'GET' : 'POST',
        headers: { authorization: `Bearer ${apiKey}`, 'content-type': 'application/json' },
        ...(body === undefined ? {} : { body: JSON.stringify(body) }),
      });
      return { status: answer.status, text: await answer.text() };
    } catch (error) {
      return { status: 0, text: String(error) };
    }
  }
}
