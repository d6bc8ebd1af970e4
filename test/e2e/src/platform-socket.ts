/** A platform on `WS /v1/stream`: keeps every message with its text, so that stories can compare digits. Sockets are closed by
 *  `closeSockets`, which a file calls before it stops its broker. */

import { type Broker, waitFor } from '@lapi-broker/fixture';
import { WebSocket } from 'ws';
import type { PlatformEvent } from './event-reader.ts';

export interface SocketMessage {
  readonly type: string;
  readonly id?: string;
  readonly subscription?: string;
  readonly cursor?: string;
  readonly event?: PlatformEvent;
  readonly status?: number;
  readonly executed?: string;
  readonly source?: string;
  readonly response?: Record<string, unknown>;
  readonly problem?: Record<string, unknown>;
  /** The whole message as it came. */
  readonly text: string;
}

const sockets = new Set<PlatformSocket>();

export function closeSockets(): void {
  for (const socket of sockets) socket.close();
  sockets.clear();
}

export class PlatformSocket {
  readonly messages: SocketMessage[] = [];
  closeCode: number | undefined;
  /** For clients that answer at once. */
  onMessage: (message: SocketMessage) => void = () => undefined;
  readonly #socket: WebSocket;

  private constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.on('message', (bytes: Buffer) => {
      const text = bytes.toString();
      const message = { ...(JSON.parse(text) as SocketMessage), text };
      this.messages.push(message);
      this.onMessage(message);
    });
    socket.on('close', (code) => {
      this.closeCode = code;
    });
    socket.on('error', () => undefined); // `close` follows.
  }

  static async open(broker: Broker, service = 0, apiKey = broker.apiKey): Promise<PlatformSocket> {
    const base = broker.commands[service]?.url;
    if (base === undefined) throw new RangeError(`no command service ${service}`);
    const socket = new WebSocket(`${base.replace(/^http/, 'ws')}/v1/stream`, {
      headers: { authorization: `Bearer ${apiKey}` },
      perMessageDeflate: false,
    });
    const platform = new PlatformSocket(socket);
    sockets.add(platform);
    await new Promise<void>((resolve, reject) => {
      socket.once('open', resolve);
      socket.once('error', reject);
    });
    return platform;
  }

  /** A text is sent as it is. */
  send(message: Readonly<Record<string, unknown>> | string): void {
    this.#socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  async until(matches: (message: SocketMessage) => boolean, what = 'a message', times = 1): Promise<SocketMessage> {
    return await waitFor(() => this.messages.filter(matches)[times - 1], { deadlineMs: 10_000, what });
  }

  async subscribe(
    id: string,
    filter: Readonly<Record<string, readonly string[]>>,
    from = 'now',
  ): Promise<SocketMessage> {
    this.send({ type: 'subscribe', id, filter, from });
    return await this.until((message) => message.type === 'subscribed' && message.id === id, `subscribed ${id}`);
  }

  events(subscription: string): SocketMessage[] {
    return this.messages.filter((message) => message.type === 'event' && message.subscription === subscription);
  }

  close(): void {
    this.#socket.terminate();
  }
}
