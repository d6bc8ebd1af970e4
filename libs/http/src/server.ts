/** Builds and runs one listener: routes, WebSocket upgrades, limits, errors. Everything the platform and the devices reach by HTTP is a
 *  server of this kind.
 *  The port is taken exclusively: a second process on it fails with ListenError instead of silently sharing it.
 *  An error of a handler ends that exchange (500) or that socket (1011) and goes to `onError`. What no route takes is answered by the
 *  `otherwise` handler, 404 unless given: an upgrade request included, so nothing becomes a WebSocket by accident (protocol S1).
 *  Not done here: authentication, error documents, liveness of WebSockets. */
import { BlockList, isIPv6 } from 'node:net';
import { AddressConnections } from './address-connections.ts';
import { type Exchange, type ExchangeServer, Response, Upgrade } from './exchange.ts';
import { HeaderPlan, paramCountOf, proxiedAddressOf, remoteAddressOf, snapshotOf } from './request.ts';
import type { RequestHandler, RequestSnapshot, Server, ServerOptions, Socket, WebSocketBehavior } from './types.ts';
import { UnreadAnswers } from './unread-answers.ts';
import {
  App,
  DISABLED,
  LIBUS_LISTEN_EXCLUSIVE_PORT,
  type NativeApp,
  type NativeHandler,
  type NativeRequest,
  type NativeResponse,
  type NativeSocket,
  SSLApp,
  us_listen_socket_close,
  us_socket_local_port,
} from './uws.ts';

export type RouteMethod = 'GET' | 'POST' | 'PUT' | 'PATCH' | 'DELETE' | 'HEAD' | 'OPTIONS' | 'ANY';

const VERBS = {
  GET: 'get',
  POST: 'post',
  PUT: 'put',
  PATCH: 'patch',
  DELETE: 'del',
  HEAD: 'head',
  OPTIONS: 'options',
  ANY: 'any',
} as const satisfies Record<RouteMethod, keyof NativeApp>;

/** The address could not be listened on. The transport does not say why: in use, not an address of this host, or not allowed. */
export class ListenError extends Error {
  readonly host: string;
  readonly port: number;

  constructor(host: string, port: number) {
    super(`cannot listen on ${host}:${port}: the port is in use, or the address is not available to this process`);
    this.name = 'ListenError';
    this.host = host;
    this.port = port;
  }
}

export interface ServerBuilder {
  /** Patterns as in `/v1/devices/:code`, or with a trailing `/*`. Exact, case-sensitive; fixed segments win over parameters over `*`. */
  route(method: RouteMethod, pattern: string, handler: RequestHandler): ServerBuilder;
  /** Every GET on the pattern with a 24-character Sec-WebSocket-Key goes to `behavior.upgrade`, others to the routes (protocol H9, H10). */
  webSocket<Session>(pattern: string, behavior: WebSocketBehavior<Session>): ServerBuilder;
  /** For whatever no route takes. */
  otherwise(handler: RequestHandler): ServerBuilder;
  /** Rejects with ListenError. Call once, last. */
  listen(): Promise<Server>;
}

const MAX_UNREAD_BYTES = 256 * 1024 * 1024;

const NOT_FOUND: RequestHandler = (_request, response) => {
  response.send(404, [['Content-Type', 'application/json']], '{"error":"not_found"}');
};

export function createServer(options: ServerOptions): ServerBuilder {
  return new Listener(options);
}

class Listener implements ServerBuilder {
  readonly #options: ServerOptions;
  readonly #app: NativeApp;
  readonly #headers: HeaderPlan;
  readonly #proxies: BlockList | undefined;
  readonly #perAddress: AddressConnections | undefined;
  readonly #exchanges: ExchangeServer;
  #otherwise: RequestHandler = NOT_FOUND;
  #plain = 0;

  constructor(options: ServerOptions) {
    this.#options = options;
    this.#app = options.tls === undefined ? App() : secureApp(options.tls);
    this.#headers = new HeaderPlan(options.headers ?? 'all');
    this.#proxies =
      options.proxies === undefined || options.proxies.length === 0 ? undefined : blockListOf(options.proxies);
    const perAddress =
      (options.maxPlainConnectionsPerAddress ?? 0) > 0 ? new AddressConnections(() => performance.now()) : undefined;
    this.#perAddress = perAddress;
    const unread = new UnreadAnswers(options.maxUnreadBytes ?? MAX_UNREAD_BYTES);
    this.#exchanges = {
      unread,
      countsAddresses: perAddress !== undefined,
      answered: (remote) => remote !== undefined && perAddress?.requestAnswered(remote),
      aborted: (remote) => remote !== undefined && perAddress?.requestAborted(remote),
      upgraded: (remote) => {
        this.#plain -= 1;
        if (remote !== undefined) perAddress?.upgraded(remote);
      },
      report: (error) => this.#report(error, undefined),
      addressOf: (raw, remote) => (this.#isProxy(remote) ? proxiedAddressOf(raw) || remote : remote),
    };
    this.#app.filter((response, change) => this.#connectionChanged(response, change));
  }

  route(method: RouteMethod, pattern: string, handler: RequestHandler): this {
    const verb = VERBS[method];
    this.#app[verb](pattern, this.#handlerOf(pattern, handler));
    return this;
  }

  otherwise(handler: RequestHandler): this {
    this.#otherwise = handler;
    return this;
  }

  webSocket<Session>(pattern: string, behavior: WebSocketBehavior<Session>): this {
    const paramCount = paramCountOf(pattern);
    const headers = behavior.headers === undefined ? this.#headers : new HeaderPlan(behavior.headers);
    const failed = (socket: NativeSocket, error: unknown): void => {
      this.#report(error, undefined);
      endQuietly(socket);
    };
    const guarded = (socket: NativeSocket, work: (socket: Socket<Session>) => void): void => {
      try {
        work(typed(socket));
      } catch (error) {
        failed(socket, error);
      }
    };
    /** A socket between its upgrade and `open`; at most one. */
    const opening: [NativeSocket | undefined] = [undefined];
    const opener = (session: Session, upgrade: () => void): boolean => {
      upgrade();
      const [socket] = opening;
      opening[0] = undefined;
      if (socket === undefined) return false;
      Object.assign(socket, { session });
      guarded(socket, (it) => behavior.open(it));
      return true;
    };
    const upgradeHandler = (request: RequestSnapshot, upgrade: Upgrade<Session>): void | Promise<void> =>
      behavior.upgrade(request, upgrade);
    this.#app.ws(pattern, {
      compression: DISABLED,
      maxPayloadLength: behavior.maxMessageBytes,
      maxBackpressure: behavior.maxBufferedBytes,
      closeOnBackpressureLimit: false,
      idleTimeout: 0,
      maxLifetime: 0,
      sendPingsAutomatically: false,
      upgrade: (raw, request, context) => {
        const key = request.getHeader('sec-websocket-key');
        const upgrade = new Upgrade<Session>(raw, this.#exchanges, key, context, opener);
        const snapshot = snapshotOf(request, 'get', upgrade, paramCount, headers);
        this.#run(upgrade, snapshot, upgradeHandler);
      },
      // Nothing else may run inside the upgrade (see uws.ts); this is a built-in function that lets the engine do nothing else first.
      open: Reflect.set.bind(Reflect, opening, 0),
      // Written out, because a closure for each message would cost more than the guard.
      message: (socket, message, isBinary) => {
        try {
          behavior.message(typed(socket), Buffer.from(message), isBinary);
        } catch (error) {
          failed(socket, error);
        }
      },
      ...(behavior.drained === undefined ? {} : { drain: (socket) => guarded(socket, (it) => behavior.drained?.(it)) }),
      ...(behavior.control === undefined
        ? {}
        : {
            ping: (socket) => guarded(socket, (it) => behavior.control?.(it)),
            pong: (socket) => guarded(socket, (it) => behavior.control?.(it)),
          }),
      close: (socket, code, reason) => {
        // Nobody has seen it open; `accept` tells of it.
        if (socket === opening[0]) opening[0] = undefined;
        else guarded(socket, (it) => behavior.closed(it.session, code, Buffer.from(reason).toString('utf8')));
      },
    });
    return this;
  }

  listen(): Promise<Server> {
    const { host, port } = this.#options;
    this.#app.any('/*', this.#handlerOf('/*', this.#otherwise));
    return new Promise((resolve, reject) => {
      this.#app.listen(host, port, LIBUS_LISTEN_EXCLUSIVE_PORT, (token) => {
        if (token === false) {
          this.#app.close();
          reject(new ListenError(host, port));
          return;
        }
        let listening = true;
        let open = true;
        resolve({
          port: us_socket_local_port(token),
          plainConnections: () => this.#plain,
          unread: () => ({ bytes: this.#exchanges.unread.bytes, dropped: this.#exchanges.unread.dropped }),
          stopListening: () => {
            if (!listening) return;
            listening = false;
            us_listen_socket_close(token);
          },
          close: () => {
            if (!open) return;
            open = false;
            listening = false;
            this.#app.close();
          },
        });
      });
    });
  }

  #handlerOf(pattern: string, handler: RequestHandler): NativeHandler {
    const paramCount = paramCountOf(pattern);
    return (raw: NativeResponse, request: NativeRequest) => {
      const method = request.getMethod();
      const response = new Response(raw, method === 'head', this.#exchanges);
      const snapshot = snapshotOf(request, method, response, paramCount, this.#headers);
      this.#run(response, snapshot, handler);
    };
  }

  #run<E extends Exchange>(
    exchange: E,
    snapshot: RequestSnapshot,
    handler: (request: RequestSnapshot, exchange: E) => void | Promise<void>,
  ): void {
    if (exchange.remote !== undefined) this.#perAddress?.requestStarted(exchange.remote);
    try {
      const pending = handler(snapshot, exchange);
      if (pending !== undefined) pending.catch((error: unknown) => this.#fail(exchange, snapshot, error));
    } catch (error) {
      this.#fail(exchange, snapshot, error);
    }
    exchange.handlerReturned();
  }

  #fail(exchange: Exchange, snapshot: RequestSnapshot, error: unknown): void {
    exchange.fail();
    this.#report(error, snapshot);
  }

  #report(error: unknown, request: RequestSnapshot | undefined): void {
    const { onError } = this.#options;
    if (onError !== undefined) onError(error, request);
    // Off the transport's stack, where a throw would not reach the process' own handling.
    else void Promise.reject(error);
  }

  #isProxy(address: string): boolean {
    return this.#proxies?.check(address, isIPv6(address) ? 'ipv6' : 'ipv4') ?? false;
  }

  #connectionChanged(response: NativeResponse, change: number): void {
    this.#plain += change;
    if (change < 0) {
      this.#perAddress?.closed();
      return;
    }
    const { maxPlainConnections = 0, maxPlainConnectionsPerAddress = 0 } = this.#options;
    if (maxPlainConnections > 0 && this.#plain > maxPlainConnections) {
      response.close();
      return;
    }
    const perAddress = this.#perAddress;
    if (perAddress === undefined) return;
    const address = remoteAddressOf(response);
    perAddress.opened(address);
    response.onAborted(() => perAddress.closedUnanswered(address));
    if (!this.#isProxy(address) && perAddress.from(address) > maxPlainConnectionsPerAddress) response.close();
  }
}

/** Its session is put on the socket before anybody sees it, which makes it a Socket<Session>; no declaration of the transport can say so,
 *  because the type of the session is the user's. */
function typed<Session>(socket: NativeSocket): Socket<Session> {
  return socket as unknown as Socket<Session>;
}

function endQuietly(socket: NativeSocket): void {
  try {
    socket.end(1011, 'internal error');
  } catch {
    // Closed already: the callback that failed was its last one, or closed it before it failed.
  }
}

function secureApp({ certFile, keyFile }: NonNullable<ServerOptions['tls']>): NativeApp {
  try {
    return SSLApp({ cert_file_name: certFile, key_file_name: keyFile });
  } catch (error) {
    throw new Error(`TLS files refused: ${certFile}, ${keyFile}`, { cause: error });
  }
}

function blockListOf(ranges: readonly string[]): BlockList {
  const list = new BlockList();
  for (const range of ranges) {
    const [address = '', bits] = range.split('/');
    const type = isIPv6(address) ? 'ipv6' : 'ipv4';
    list.addSubnet(address, bits === undefined ? (type === 'ipv6' ? 128 : 32) : Number(bits), type);
  }
  return list;
}
