/** For tests: a platform on `WS /v1/stream` that keeps everything it was told. */

export interface StreamMessage {
  readonly type: string;
  readonly id?: string;
  readonly subscription?: string;
  readonly cursor?: string;
  readonly event?: { readonly id: string; readonly code: string; readonly kind: string; readonly data: unknown };
  readonly gap?: unknown;
  readonly problem?: { readonly code: string; readonly detail: string };
  readonly reason?: string;
  readonly cursors?: Readonly<Record<string, string>>;
  readonly status?: number;
  readonly executed?: string;
  readonly response?: unknown;
  readonly store?: string;
}

export class StreamClient {
  readonly messages: StreamMessage[] = [];
  readonly texts: string[] = [];
  closed: { readonly code: number; readonly reason: string } | undefined;
  readonly #socket: WebSocket;

  constructor(socket: WebSocket) {
    this.#socket = socket;
    socket.addEventListener('message', ({ data }) => {
      this.texts.push(String(data));
      this.messages.push(JSON.parse(String(data)) as StreamMessage);
    });
    socket.addEventListener('close', ({ code, reason }) => {
      this.closed = { code, reason };
    });
  }

  named(type: string): StreamMessage[] {
    return this.messages.filter((message) => message.type === type);
  }

  eventIds(subscription?: string): string[] {
    return this.named('event')
      .filter((message) => subscription === undefined || message.subscription === subscription)
      .map(({ event }) => event?.id ?? '');
  }

  send(message: object | string): void {
    this.#socket.send(typeof message === 'string' ? message : JSON.stringify(message));
  }

  sendBinary(bytes: Uint8Array<ArrayBuffer>): void {
    this.#socket.send(bytes);
  }

  close(): void {
    this.#socket.close();
  }
}

export function openStream(port: number, headers: Record<string, string>): Promise<StreamClient> {
  return new Promise((resolve, reject) => {
    const socket = new WebSocket(`ws://127.0.0.1:${port}/v1/stream`, { headers });
    const client = new StreamClient(socket);
    socket.addEventListener('open', () => resolve(client));
    socket.addEventListener('error', () => reject(new Error('the upgrade was refused')));
  });
}
