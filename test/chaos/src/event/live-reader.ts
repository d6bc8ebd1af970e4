/** A platform that follows `GET /v1/events` and goes on with its cursor when the stream ends, at the next service. */

import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { type ReceivedGap, readEvent } from './delivery.ts';
import type { EventRecorder } from './history.ts';

export interface LiveReaderOptions {
  readonly reader: string;
  readonly urls: readonly string[];
  readonly apiKey: string;
  readonly recorder: Pick<EventRecorder, 'log'>;
}

const PAUSE_MS = 150;
const FIRST_BYTE_MS = 8_000;

export class LiveReader {
  readonly #options: LiveReaderOptions;
  /** Numbers of a device, to tell what was seen of it. */
  readonly #seen = new Map<string, Set<number>>();
  #cursor = '';
  #url = 0;
  #request: ClientRequest | undefined;
  #response: IncomingMessage | undefined;
  #held = false;
  #retry: NodeJS.Timeout | undefined;
  #stopped = false;

  constructor(options: LiveReaderOptions) {
    this.#options = options;
  }

  /** Does it know where it stands? */
  get begun(): boolean {
    return this.#cursor !== '';
  }

  /** How many different numbers of any device it has seen. */
  get seen(): number {
    let seen = 0;
    for (const numbers of this.#seen.values()) seen += numbers.size;
    return seen;
  }

  start(): void {
    if (this.#stopped) return;
    const { urls, apiKey } = this.#options;
    const headers = {
      accept: 'text/event-stream',
      authorization: `Bearer ${apiKey}`,
      ...(this.#cursor === '' ? {} : { 'last-event-id': this.#cursor }),
    };
    const sent = request(`${urls[this.#url]}/v1/events`, { headers, agent: false }, (response) => {
      sent.setTimeout(0);
      this.#response = response;
      if (this.#held) response.pause();
      response.setEncoding('utf8');
      let text = '';
      response.on('data', (chunk: string) => {
        const messages = (text + chunk).split('\n\n');
        text = messages.pop() ?? '';
        for (const message of messages) this.#hear(message);
      });
      // An end that nobody wanted is an error; both are followed by a close.
      response.on('error', () => undefined);
    });
    this.#request = sent;
    sent.setTimeout(FIRST_BYTE_MS, () => sent.destroy());
    sent.on('error', () => undefined);
    sent.once('close', () => {
      this.#url = (this.#url + 1) % urls.length;
      if (!this.#stopped) this.#retry = setTimeout(() => this.start(), PAUSE_MS);
    });
    sent.end();
  }

  /** Reads nothing more until it may; what was sent waits in the line. */
  hold(hold: boolean): void {
    this.#held = hold;
    if (hold) this.#response?.pause();
    else this.#response?.resume();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#retry);
    this.#request?.destroy();
  }

  #hear(message: string): void {
    if (this.#stopped) return;
    const { recorder, reader } = this.#options;
    const fields = new Map<string, string>();
    for (const line of message.split('\n')) {
      const colon = line.indexOf(':');
      if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 1).trimStart());
    }
    const data = fields.get('data');
    const name = fields.get('event');
    if (data !== undefined && name === undefined) {
      const event = readEvent(data);
      recorder.log({ kind: 'receive', reader, by: reader, ...event, attempt: 1 });
      if (event.number !== undefined) {
        const numbers = this.#seen.get(event.device) ?? new Set();
        this.#seen.set(event.device, numbers.add(event.number));
      }
    } else if (data !== undefined && name === 'gap') {
      const { from, to, count, reason = 'trimmed' } = JSON.parse(data) as ReceivedGap;
      recorder.log({ kind: 'gap', reader, by: reader, from, to, count, reason });
    }
    this.#cursor = fields.get('id') ?? this.#cursor;
  }
}
