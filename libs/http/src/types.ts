/** What a server built with this package looks like to its users. uWebSockets.js itself is seen by no other package.
 *  Hazard that shapes all of it: the transport frees request and message memory when a callback returns, and response and socket
 *  objects throw once closed. So requests are snapshots, responses know when they are aborted, and message bytes are views for the
 *  duration of the callback only. */

/** Copied before the handler runs; safe after any await. */
export interface RequestSnapshot {
  /** Upper case. */
  readonly method: string;
  /** Raw path as sent: not decoded, not normalised. */
  readonly path: string;
  /** Raw query without `?`; undefined when there was no `?`. */
  readonly query: string | undefined;
  /** Values of path parameters, raw (not decoded), in order of the pattern. */
  readonly params: readonly string[];
  /** Header by lower-case name; empty string when absent. */
  header(name: string): string;
  /** Remote address as text, IPv4-mapped addresses as plain IPv4. */
  readonly address: string;
}

export type HeaderList = readonly (readonly [name: string, value: string])[];

export interface ResponseHandle {
  /** True once the peer is gone or the response has ended; every method is then a no-op. */
  readonly ended: boolean;
  /** Called at most once, if the peer goes away before the response ended. */
  onAborted(callback: () => void): void;
  /** Status, headers, body, end; one corked write. `close` ends the TCP connection after it. Content-Length is set. */
  send(status: number, headers: HeaderList, body: string | Uint8Array, options?: { readonly close?: boolean }): void;
  /** Collects the body. `too_large` as soon as the limit is passed; `aborted` if the peer left. Must be called in the handler's first tick. */
  readBody(limitBytes: number): Promise<{ readonly status: 'read'; readonly body: Buffer } | { readonly status: 'too_large' | 'aborted' }>;
  /** Starts a response of unknown length (SSE). */
  stream(status: number, headers: HeaderList): StreamHandle;
}

export interface StreamHandle {
  readonly ended: boolean;
  /** False when bytes had to be buffered: wait for `onDrain` or give up. */
  write(chunk: string | Uint8Array): boolean;
  /** Bytes given to `write` and not yet taken by the kernel. */
  bufferedBytes(): number;
  onDrain(callback: () => void): void;
  onClosed(callback: () => void): void;
  end(): void;
}

export type RequestHandler = (request: RequestSnapshot, response: ResponseHandle) => void | Promise<void>;

/** 1 sent, 0 buffered, 2 dropped: the three results of the transport. */
export type SendResult = 0 | 1 | 2;

/** The transport's own socket object, typed. Every method throws after the close callback has run. */
export interface Socket<Session> {
  send(message: string | Uint8Array, isBinary: boolean): SendResult;
  /** Sends a close frame, then ends. The close callback runs before this returns. */
  end(code: number, reason: string): void;
  /** Drops the TCP connection without a close frame. The close callback runs before this returns. */
  close(): void;
  cork(callback: () => void): void;
  getBufferedAmount(): number;
  getUserData(): Session;
}

export interface UpgradeHandle<Session> {
  readonly ended: boolean;
  onAborted(callback: () => void): void;
  /** Answers 101. The `open` callback runs before this returns. False if the peer is already gone. */
  accept(session: Session): boolean;
  /** Refuses with a plain HTTP answer. */
  refuse(status: number, headers: HeaderList, body: string | Uint8Array, options?: { readonly close?: boolean }): void;
}

export interface WebSocketBehavior<Session> {
  readonly maxMessageBytes: number;
  readonly maxBufferedBytes: number;
  /** Any GET with a 24-character Sec-WebSocket-Key, on any path, whatever `Upgrade` says. May be async. */
  upgrade(request: RequestSnapshot, upgrade: UpgradeHandle<Session>): void | Promise<void>;
  open(socket: Socket<Session>): void;
  /** `bytes` is a view that dies when the callback returns. */
  message(socket: Socket<Session>, bytes: Buffer, isBinary: boolean): void;
  /** A ping or pong arrived: a sign of life. */
  control?(socket: Socket<Session>): void;
  drained?(socket: Socket<Session>): void;
  /** `code` 1006 = dropped without close frame; `reason` is the transport's text then (too big, invalid UTF-8, …). */
  closed(session: Session, code: number, reason: string): void;
}

export interface ServerOptions {
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** Certificate and key files for TLS; plain when absent. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string; readonly caFile?: string };
  /** Open connections per address that are not (yet) WebSockets; further ones are closed at once. 0 = no limit. */
  readonly maxPlainConnectionsPerAddress?: number;
}

export interface Server {
  readonly port: number;
  /** Stops accepting; open connections go on. Idempotent. */
  stopListening(): void;
  /** Drops everything that is left. Idempotent. */
  close(): void;
}
