/** A platform that follows `GET /v1/events`: keeps every event with its cursor and its text, so that stories can look for what is missing,
 *  doubled or rewritten. Readers are closed by `closeReaders`, which a file calls before it stops its broker. */

import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { type Broker, waitFor } from '@lapi-broker/fixture';

export interface PlatformEvent {
  readonly id: string;
  readonly seq: number;
  readonly code: string;
  readonly kind: string;
  readonly url: string;
  readonly at: string;
  readonly receivedAt: string;
  readonly epoch: number;
  readonly tags: readonly string[];
  readonly dedupKey: string | null;
  readonly images: readonly Record<string, unknown>[];
  readonly data: Record<string, unknown>;
}

export interface ReadEvent extends PlatformEvent {
  /** The `id:` that came with it. */
  readonly cursor: string;
  /** The `data:` as it came. */
  readonly text: string;
}

export interface ReaderOptions {
  /** Index of the command service. */
  readonly service?: number;
  readonly lastEventId?: string;
}

const readers = new Set<EventReader>();

export function closeReaders(): void {
  for (const reader of readers) reader.close();
  readers.clear();
}

export class EventReader {
  readonly events: ReadEvent[] = [];
  readonly gaps: string[] = [];
  /** The newest `id:` of any message. */
  cursor = '';
  ended = false;
  /** What the `closed` message said, if one came. */
  farewell: string | undefined;
  readonly status: number;
  readonly #request: ClientRequest;
  #text = '';

  private constructor(sent: ClientRequest, response: IncomingMessage) {
    this.#request = sent;
    this.status = response.statusCode ?? 0;
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => this.#take(chunk));
    const end = (): void => {
      this.ended = true;
    };
    response.on('end', end);
    response.on('error', end);
    response.on('close', end);
  }

  /** `query` without the mark, e.g. `device=…&from=start`. Resolves when the stream has begun. */
  static async open(
    broker: Broker,
    query = '',
    { service = 0, lastEventId }: ReaderOptions = {},
  ): Promise<EventReader> {
    const base = broker.commands[service]?.url;
    if (base === undefined) throw new RangeError(`no command service ${service}`);
    const headers = {
      authorization: `Bearer ${broker.apiKey}`,
      ...(lastEventId === undefined ? {} : { 'last-event-id': lastEventId }),
    };
    const reader = await new Promise<EventReader>((resolve, reject) => {
      const sent = request(`${base}/v1/events?${query}`, { headers, agent: false }, (response) =>
        resolve(new EventReader(sent, response)),
      );
      sent.on('error', reject);
      sent.end();
    });
    readers.add(reader);
    if (reader.status !== 200) throw new Error(`GET /v1/events?${query}: ${reader.status}`);
    await waitFor(() => reader.cursor !== '', { deadlineMs: 10_000, what: 'the first cursor' });
    return reader;
  }

  /** Everything kept so far, to the newest event of the moment. */
  static async replay(broker: Broker, query: string, service = 0): Promise<EventReader> {
    return await EventReader.open(broker, `${query}&from=start`, { service });
  }

  of(code: string, kind?: string): ReadEvent[] {
    return this.events.filter((event) => event.code === code && (kind === undefined || event.kind === kind));
  }

  async until(
    matches: (event: ReadEvent) => boolean,
    { times = 1, deadlineMs = 10_000, what = 'an event' } = {},
  ): Promise<ReadEvent> {
    return await waitFor(() => this.events.filter(matches)[times - 1], { deadlineMs, what: `${what} (${times}×)` });
  }

  async presence(
    code: string,
    kind: 'online' | 'offline',
    { times = 1, deadlineMs = 10_000 } = {},
  ): Promise<ReadEvent> {
    return await this.until((event) => event.code === code && event.kind === `presence.${kind}`, {
      times,
      deadlineMs,
      what: `presence.${kind} of ${code}`,
    });
  }

  close(): void {
    this.#request.destroy();
  }

  #take(chunk: string): void {
    this.#text += chunk;
    // Messages of megabytes come in many chunks; only a chunk with a line end can complete one.
    if (!chunk.includes('\n')) return;
    for (;;) {
      const end = this.#text.indexOf('\n\n');
      if (end < 0) return;
      this.#message(this.#text.slice(0, end));
      this.#text = this.#text.slice(end + 2);
    }
  }

  #message(block: string): void {
    const fields = new Map<string, string>();
    for (const line of block.split('\n')) {
      const colon = line.indexOf(': ');
      if (colon > 0) fields.set(line.slice(0, colon), line.slice(colon + 2));
    }
    this.cursor = fields.get('id') ?? this.cursor;
    const data = fields.get('data');
    if (data === undefined) return;
    const name = fields.get('event');
    if (name === 'gap') this.gaps.push(data);
    else if (name === 'closed') this.farewell = data;
    else this.events.push({ ...(JSON.parse(data) as PlatformEvent), cursor: this.cursor, text: data });
  }
}

/** One online and one offline at most for each epoch (protocol D5); answers the epochs in the order in which they began. */
export function epochsOf(events: readonly ReadEvent[], code: string): { online: number[]; offline: number[] } {
  const of = (kind: string): number[] =>
    events.filter((event) => event.code === code && event.kind === kind).map((event) => event.epoch);
  return { online: of('presence.online'), offline: of('presence.offline') };
}
