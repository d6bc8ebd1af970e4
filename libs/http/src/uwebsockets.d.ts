/** The part of uWebSockets.js that this package uses. The declarations shipped with the packed release name constants it does not
 *  export and miss the listen call with host and options; an ambient module stands before them. */
declare module 'uWebSockets.js' {
  export type Bytes = string | ArrayBuffer | Uint8Array;
  /** Opaque native handles. */
  export interface ListenToken {
    readonly brand: 'ListenToken';
  }
  export interface UpgradeContext {
    readonly brand: 'UpgradeContext';
  }

  export interface HttpRequest {
    /** Empty when absent. */
    getHeader(lowerCaseName: string): string;
    getParameter(index: number): string | undefined;
    getUrl(): string;
    /** Lower case. */
    getMethod(): string;
    /** Undefined without `?`. The form with a name is left out on purpose: it decodes in place (protocol H8). */
    getQuery(): string | undefined;
    forEach(callback: (name: string, value: string) => void): void;
  }

  export interface HttpResponse {
    writeStatus(status: string): HttpResponse;
    writeHeader(name: string, value: string): HttpResponse;
    write(chunk: Bytes): boolean;
    end(body?: Bytes, closeConnection?: boolean): HttpResponse;
    /** Writes what the kernel takes of the rest of a body of `totalBytes`, and keeps none of it. */
    tryEnd(rest: Bytes, totalBytes: number): [tookAll: boolean, done: boolean];
    endWithoutBody(): HttpResponse;
    close(): HttpResponse;
    cork(callback: () => void): HttpResponse;
    onAborted(callback: () => void): HttpResponse;
    onData(callback: (chunk: ArrayBuffer, isLast: boolean) => void): HttpResponse;
    onWritable(callback: (offset: number) => boolean): HttpResponse;
    getRemoteAddressAsText(): ArrayBuffer;
    getProxiedRemoteAddressAsText(): ArrayBuffer;
    upgrade(userData: object, key: string, protocol: string, extensions: string, context: UpgradeContext): void;
  }

  /** The properties of the object given to `upgrade` are copied onto it. */
  export interface WebSocket {
    readonly [property: string]: unknown;
    send(message: Bytes, isBinary: boolean): number;
    ping(message?: Bytes): number;
    end(code: number, reason: string): void;
    close(): void;
    cork(callback: () => void): void;
    getBufferedAmount(): number;
  }

  export interface WebSocketSettings {
    readonly compression: number;
    readonly maxPayloadLength: number;
    readonly maxBackpressure: number;
    readonly closeOnBackpressureLimit: boolean;
    readonly idleTimeout: number;
    readonly maxLifetime: number;
    readonly sendPingsAutomatically: boolean;
    upgrade(response: HttpResponse, request: HttpRequest, context: UpgradeContext): void;
    open(socket: WebSocket): void;
    message(socket: WebSocket, message: ArrayBuffer, isBinary: boolean): void;
    drain?: ((socket: WebSocket) => void) | undefined;
    ping?: ((socket: WebSocket, message: ArrayBuffer) => void) | undefined;
    pong?: ((socket: WebSocket, message: ArrayBuffer) => void) | undefined;
    close(socket: WebSocket, code: number, message: ArrayBuffer): void;
  }

  export type Handler = (response: HttpResponse, request: HttpRequest) => void;
  type Route = (pattern: string, handler: Handler) => App;

  export interface App {
    readonly get: Route;
    readonly post: Route;
    readonly put: Route;
    readonly patch: Route;
    readonly del: Route;
    readonly head: Route;
    readonly options: Route;
    readonly any: Route;
    ws(pattern: string, settings: WebSocketSettings): App;
    /** `change` is 1 for a new connection, -1 for one that ended without having become a WebSocket. */
    filter(callback: (response: HttpResponse, change: number) => void): App;
    listen(host: string, port: number, options: number, callback: (token: ListenToken | false) => void): App;
    close(): App;
  }

  export interface TlsOptions {
    readonly cert_file_name: string;
    readonly key_file_name: string;
  }

  export function App(): App;
  export function SSLApp(options: TlsOptions): App;
  export function us_listen_socket_close(token: ListenToken): void;
  export function us_socket_local_port(token: ListenToken): number;
  export const LIBUS_LISTEN_EXCLUSIVE_PORT: number;
  export const DISABLED: number;
}
