/** For tests: a reader of server-sent events that can stop reading, and that keeps everything it was told. */

import { type ClientRequest, type IncomingMessage, request } from 'node:http';
import { checkSseMessage } from './message-check.ts';

export interface SseMessage {
  readonly event: string;
  readonly data: string;
  /** The last id told when the message was complete. */
  readonly id: string;
}

export interface SseEvent {
  readonly id: string;
  readonly code: string;
  readonly kind: string;
  readonly data: unknown;
}

export class SseClient {
  readonly messages: SseMessage[] = [];
  readonly comments: string[] = [];
  /** The id told before anything else. */
  firstId = '';
  lastId = '';
  retryMs = 0;
  bytes = 0;
  ended: boolean = false;
  readonly status: number;
  readonly headers: IncomingMessage['headers'];
  readonly #request: ClientRequest;
  readonly #response: IncomingMessage;
  readonly #events: SseEvent[] = [];
  #text = '';

  constructor(sent: ClientRequest, response: IncomingMessage) {
    this.#request = sent;
    this.#response = response;
    this.status = response.statusCode ?? 0;
    this.headers = response.headers;
    response.setEncoding('utf8');
    response.on('data', (chunk: string) => this.#take(chunk));
    const end = (): void => {
      this.ended = true;
    };
    response.on('end', end);
    response.on('error', end);
    response.on('close', end);
  }

  /** Messages without a name, as JSON. */
  events(): readonly SseEvent[] {
    return this.#events;
  }

  named(event: string): SseMessage[] {
    return this.messages.filter((message) => message.event === event);
  }

  /** What is not an event stream. */
  get body(): string {
    return this.#text;
  }

  stopReading(): void {
    this.#response.pause();
  }

  readOn(): void {
    this.#response.resume();
  }

  close(): void {
    this.#request.destroy();
  }

  #take(chunk: string): void {
    this.bytes += chunk.length;
    this.#text += chunk;
    if (this.status !== 200) return;
    const blocks = this.#text.split('\n\n');
    this.#text = blocks.pop() ?? '';
    for (const block of blocks) this.#block(block);
  }

  #block(block: string): void {
    let event = 'message';
    const data: string[] = [];
    for (const line of block.split('\n')) {
      const colon = line.indexOf(':');
      const name = colon < 0 ? line : line.slice(0, colon);
      const value = colon < 0 ? '' : line.slice(colon + 1).replace(/^ /, '');
      if (name === '') this.comments.push(value);
      else if (name === 'id') {
        this.lastId = value;
        this.firstId ||= value;
      } else if (name === 'event') event = value;
      else if (name === 'data') data.push(value);
      else if (name === 'retry') this.retryMs = Number(value);
      else throw new Error(`a line of no field: ${line}`);
    }
    if (data.length === 0) return;
    const text = data.join('\n');
    const value = JSON.parse(text) as SseEvent;
    checkSseMessage(event, value);
    this.messages.push({ event, data: text, id: this.lastId });
    if (event === 'message') this.#events.push(value);
  }
}

/** Resolves with the head of the answer, whatever its status. */
export function openEvents(port: number, path: string, headers: Record<string, string> = {}): Promise<SseClient> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path, headers, agent: false }, (response) =>
      resolve(new SseClient(sent, response)),
    );
    // After the head, the end of the response tells; the request only repeats it.
    sent.on('error', reject);
    sent.end();
  });
}
