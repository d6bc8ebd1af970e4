/** What a server built with this package looks like to its users. uWebSockets.js itself is seen by no other package.
 *  Hazard that shapes all of it: the transport frees request and message memory when a callback returns, and response and socket
 *  objects throw once closed. So requests are snapshots, responses know when they are aborted, and message bytes are views for the
 *  duration of the callback only. */

/** Copied before the handler runs; safe after any await, `address` once it has been read. */
export interface RequestSnapshot {
  /** Upper case. */
  readonly method: string;
  /** Raw path as sent: not decoded, not normalised. */
  readonly path: string;
  /** Raw query without `?`; undefined when there was no `?`. */
  readonly query: string | undefined;
  /** Values of path parameters, raw (not decoded), in order of the pattern. */
  readonly params: readonly string[];
  /** Header by lower-case name; empty string when absent. Throws for a name that a `headers` option leaves out. */
  header(name: string): string;
  /** Remote address as text, IPv4-mapped addresses as plain IPv4; the proxied address when a trusted proxy names one. Looked up at the
   *  first use, because that costs: in a route, read it before the answer and, where an abort may
   *  come first, before any await; later it is empty. In an upgrade it is always there. */
  readonly address: string;
}

export type HeaderList = readonly (readonly [name: string, value: string])[];

export interface ResponseHandle {
  /** True once the peer is gone or the response has ended; every method is then a no-op. */
  readonly ended: boolean;
  /** Called at most once, if the peer goes away before the response ended. */
  onAborted(callback: () => void): void;
  /** Status, headers, body, end; one corked write. `close` ends the TCP connection after it. Content-Length is set; naming it, or a
   *  header with a line break, throws. HEAD, 204 and 304 are sent without the body. */
  send(status: number, headers: HeaderList, body: string | Uint8Array, options?: { readonly close?: boolean }): void;
  /** Collects the body. `too_large` as soon as the limit is passed (the answer then closes the connection); `aborted` if the peer left
   *  or sent too slowly (the transport drops it below 16 KiB/s); `no_room` as soon as `admits` says no. `admits` is asked for every byte of
   *  memory before it is taken. Must be called in the handler's first tick, at most once. */
  readBody(
    limitBytes: number,
    admits?: (bytes: number) => boolean,
  ): Promise<
    { readonly status: 'read'; readonly body: Buffer } | { readonly status: 'too_large' | 'no_room' | 'aborted' }
  >;
  /** Starts a response of unknown length (SSE). The head leaves with the first chunk. */
  stream(status: number, headers: HeaderList, options?: StreamOptions): StreamHandle;
}

export interface StreamOptions {
  /** The connection is dropped when more than this waits for the peer to read; 16 MiB when absent. */
  readonly maxBufferedBytes?: number;
}

export interface StreamHandle {
  readonly ended: boolean;
  /** False when bytes had to be buffered: wait for `onDrain` or give up. The chunk must not be changed afterwards. */
  write(chunk: string | Uint8Array): boolean;
  /** Bytes given to `write` and not yet taken by the kernel; too high by at most one chunk. */
  bufferedBytes(): number;
  /** Called each time the buffer has emptied after a `write` that returned false. */
  onDrain(callback: () => void): void;
  /** Called once if the peer leaves or is dropped before `end()`. */
  onClosed(callback: () => void): void;
  end(): void;
  /** Drops the connection: for an answer that cannot be completed. `onClosed` runs. */
  abort(): void;
}

export type RequestHandler = (request: RequestSnapshot, response: ResponseHandle) => void | Promise<void>;

/** 1 sent, 0 buffered, 2 dropped: the three results of the transport. */
export type SendResult = 0 | 1 | 2;

/** The transport's own socket object, typed. Every method throws after the close callback has run; `session` stays readable. */
export interface Socket<Session> {
  readonly session: Session;
  send(message: string | Uint8Array, isBinary: boolean): SendResult;
  /** Sends a ping frame; the peer's pong arrives at `control`. */
  ping(): SendResult;
  /** Sends a close frame, then ends. The close callback runs before this returns. */
  end(code: number, reason: string): void;
  /** Drops the TCP connection without a close frame. The close callback runs before this returns. */
  close(): void;
  cork(callback: () => void): void;
  getBufferedAmount(): number;
}

export interface UpgradeHandle<Session> {
  readonly ended: boolean;
  onAborted(callback: () => void): void;
  /** Answers 101. The `open` callback runs before this returns. False if the peer is already gone. */
  accept(session: Session): boolean;
  /** Refuses with a plain HTTP answer. */
  refuse(status: number, headers: HeaderList, body: string | Uint8Array, options?: { readonly close?: boolean }): void;
}

/** Compression, sub-protocols, automatic pings and the transport's idle limit are off (protocol H11, E2; liveness is the user's sweep). */
export interface WebSocketBehavior<Session> {
  readonly maxMessageBytes: number;
  /** A `send` that would leave more than this waiting returns 2 and sends nothing; the socket stays open. */
  readonly maxBufferedBytes: number;
  /** Names of the headers that `upgrade` gets, lower case; the server's choice when absent. Each costs time on the registration path. */
  readonly headers?: readonly string[];
  /** Any GET with a 24-character Sec-WebSocket-Key, on any path, whatever `Upgrade` says. May be async. */
  upgrade(request: RequestSnapshot, upgrade: UpgradeHandle<Session>): void | Promise<void>;
  open(socket: Socket<Session>): void;
  /** `bytes` is a view that dies when the callback returns. */
  message(socket: Socket<Session>, bytes: Buffer, isBinary: boolean): void;
  /** A ping or pong arrived: a sign of life. */
  control?(socket: Socket<Session>): void;
  drained?(socket: Socket<Session>): void;
  /** `code` 1006 = dropped without close frame; `dropCauseOf(code, reason)` says why. 1005 = close frame without a code. */
  closed(session: Session, code: number, reason: string): void;
}

export interface ServerOptions {
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** Certificate and key files for TLS 1.2 or later; plain when absent. Client certificates are not offered: given a CA, the transport
   *  checks a certificate that is shown but does not insist on one, which would look like a protection and be none. */
  readonly tls?: { readonly certFile: string; readonly keyFile: string };
  /** Open connections per address that are not (yet) WebSockets; further ones are closed at once. 0 or absent = no limit.
   *  Addresses in `proxies` are exempt, because they speak for many. */
  readonly maxPlainConnectionsPerAddress?: number;
  /** The same for all addresses together. */
  readonly maxPlainConnections?: number;
  /** What large answers that their readers have not taken yet may hold together; beyond it those that wait for longest are dropped with their
   *  connections. 256 MiB when absent. */
  readonly maxUnreadBytes?: number;
  /** CIDR ranges whose PROXY protocol header (v2) is believed; anybody else's changes nothing (threat T20). */
  readonly proxies?: readonly string[];
  /** Names of the headers that handlers get, lower case; all when absent, which costs time per request. */
  readonly headers?: readonly string[];
  /** A handler threw or rejected, or a WebSocket callback threw. The request has been answered 500, the socket closed with 1011.
   *  Without it the error goes to the process as an unhandled rejection. */
  readonly onError?: (error: unknown, request: RequestSnapshot | undefined) => void;
}

export interface Server {
  readonly port: number;
  /** Open connections that are not (yet) WebSockets. */
  plainConnections(): number;
  /** Large answers that wait for their readers: bytes now, and how many were dropped so far because all together held too much. */
  unread(): { readonly bytes: number; readonly dropped: number };
  /** Stops accepting; open connections go on. Idempotent. */
  stopListening(): void;
  /** Drops everything that is left. Idempotent. */
  close(): void;
}
