/** A receiver of webhooks for tests: a real HTTP server that has every request verified, and answers as the test says. What does not verify is a
 *  failure of the test, so it is kept apart. */

import { createServer, type IncomingMessage, type ServerResponse } from 'node:http';
import type { AddressInfo, Socket } from 'node:net';

export interface Received {
  /** `webhook-id`. */
  readonly message: string;
  readonly type: string;
  readonly events: readonly {
    readonly id: string;
    readonly code: string;
    readonly kind: string;
    readonly data: unknown;
  }[];
  readonly gaps: readonly { readonly count: number | null }[];
  readonly text: string;
  readonly headers: Readonly<Record<string, string>>;
  readonly atMs: number;
}

/** A status, or whatever the test does with the response. */
export type Answering = (
  received: Received,
  response: ServerResponse,
) => number | undefined | Promise<number | undefined>;

/** Throws where the signature is not one of the secret. */
export type Verify = (secret: string, text: string, headers: Record<string, string>) => void;

export class WebhookReceiver {
  readonly received: Received[] = [];
  /** Events of the requests that were answered with 2xx, in that order. */
  readonly taken: Received['events'][number][] = [];
  readonly unverified: string[] = [];
  secret = '';
  answer: Answering;
  /** Requests that are being answered, and the most there were. */
  open = 0;
  mostOpen = 0;
  readonly #verify: Verify;
  readonly #server = createServer((request, response) => void this.#serve(request, response));
  readonly #sockets = new Set<Socket>();

  constructor(verify: Verify, answer: Answering = () => 204) {
    this.#verify = verify;
    this.answer = answer;
    this.#server.on('connection', (socket) => {
      this.#sockets.add(socket);
      socket.on('close', () => this.#sockets.delete(socket));
    });
  }

  async start(): Promise<this> {
    await new Promise<void>((resolve) => this.#server.listen(0, '127.0.0.1', resolve));
    return this;
  }

  get port(): number {
    return (this.#server.address() as AddressInfo).port;
  }

  get url(): string {
    return `http://127.0.0.1:${this.port}/in`;
  }

  async stop(): Promise<void> {
    for (const socket of this.#sockets) socket.destroy();
    await new Promise((resolve) => this.#server.close(resolve));
  }

  async #serve(request: IncomingMessage, response: ServerResponse): Promise<void> {
    this.open += 1;
    this.mostOpen = Math.max(this.mostOpen, this.open);
    response.on('close', () => {
      this.open -= 1;
    });
    const chunks: Buffer[] = [];
    try {
      for await (const chunk of request) chunks.push(chunk as Buffer);
    } catch {
      return; // The sender broke off.
    }
    const text = Buffer.concat(chunks).toString();
    const headers = request.headers as Record<string, string>;
    try {
      this.#verify(this.secret, text, headers);
    } catch (error) {
      this.unverified.push(String(error));
    }
    const { type, data } = JSON.parse(text);
    const { events = [], gaps = [] } = data;
    const about = { type, events, gaps, text, headers };
    const received: Received = { message: String(headers['webhook-id']), ...about, atMs: performance.now() };
    this.received.push(received);
    const status = await this.answer(received, response);
    if (status === undefined) return;
    if (status >= 200 && status < 300) this.taken.push(...received.events);
    response.writeHead(status).end();
  }
}
