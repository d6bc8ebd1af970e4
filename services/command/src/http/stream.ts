/** The two live ways out for events: `GET /v1/events` (server-sent events; pages, for who asks for JSON) and `WS /v1/stream` (subscriptions and
 *  commands on one socket).
 *  Who may: a key with the scope `read`, by `Authorization: Bearer` only; keys in URLs are not accepted, because URLs are logged (threat T10),
 *  and a page of another origin is refused (threat T17). Commands on the socket need `call`, like everywhere.
 *  Bounded: live connections and pages in progress, per key and per process, messages of 256 KiB, and what event-feed.ts and stream-session.ts bound.
 *  Draining: new ones get `node_draining`, open ones are closed with their cursors.
 *  Not done here: finding and ordering events (event/), the protocol of the socket (stream-session.ts). */

import type { HeaderList, RequestSnapshot, ResponseHandle, ServerBuilder, UpgradeHandle } from '@lapi-broker/http';
import type { ErrorCode } from '@lapi-broker/protocol';
import type { Clock, Part } from '@lapi-broker/runtime';
import { z } from 'zod';
import { allows, type Caller, missingScope, type Refusal } from '../access/access.ts';
import type { EventFeed } from '../event/event-feed.ts';
import type { EventPage, PageRequest } from '../event/event-page.ts';
import { FEED_LIMITS } from '../event/feed-limits.ts';
import type { Broker } from './broker.ts';
import { PAGE_LIMIT, readEventQuery } from './event-query.ts';
import { EventGap, EventView } from './event-schema.ts';
import { EventSource } from './event-source.ts';
import { Exchange, type ExchangeRoute } from './exchange.ts';
import type { ApiObserver } from './observer.ts';
import { invalid, type OperationDoc } from './operation.ts';
import { createProblem, type ProblemCase } from './problem.ts';
import { ConsumerTable } from './stream-consumer.ts';
import { type StreamCaller, type StreamLimits, StreamSession } from './stream-session.ts';

export const EVENTS_PATH = '/v1/events';
export const STREAM_PATH = '/v1/stream';

const MiB = 1024 * 1024;

export const STREAM_LIMITS = {
  connectionsPerKey: 100,
  connections: 10_000,
  /** Pages of stored events in progress: each may read and hold some MiB. */
  pagesPerKey: 8,
  pages: 32,
  messageBytes: 256 * 1024,
  /** Far above what the feed lets wait: one event may be as large as a device message. Beyond it the connection is dropped. */
  waitingBytes: 40 * MiB,
  /** Of one socket, consumers included. */
  subscriptions: 32,
  /** Of one process: each holds a pull open, and what it has pulled. */
  consumers: 1_000,
  consumerWaitingBytes: FEED_LIMITS.waitingBytes,
  commands: 64,
  commandWaitingBytes: 1 * MiB,
  /** In all live connections of the process together; above it only those take commands or pull in which nothing waits. */
  totalWaitingBytes: FEED_LIMITS.totalWaitingBytes,
  stuckMs: FEED_LIMITS.slowGraceMs,
  /** As many as one key may make requests; a burst that takes some 30 ms to refuse. */
  messagesPerSecond: 20_000,
  messagesBurst: 10_000,
  sweepMs: 1_000,
  pingMs: 20_000,
  silenceMs: 60_000,
  closingMs: 10_000,
  recheckMs: 30_000,
  /** What a browser is told to wait before it connects again. */
  retryMs: 2_000,
} as const;

/** Headers that these routes read, to be named where the server copies only some. */
export const EVENT_HEADERS: readonly string[] = [
  'authorization',
  'host',
  'last-event-id',
  'origin',
  'sec-websocket-version',
  'upgrade',
  'x-request-id',
];

export interface EventRouteParts {
  readonly feed: EventFeed;
  readonly broker: Pick<Broker, 'access' | 'policy' | 'dispatch' | 'groups'>;
  readonly observer: ApiObserver;
  readonly clock: Clock;
  readonly limits?: Partial<{ readonly [Name in keyof typeof STREAM_LIMITS]: number }>;
}

/** Mounts both routes. To be called before `registerApi`, which takes what is left. The answer is a part of the process, to be drained
 *  before the feed and stopped before the server. */
export function registerEventRoutes(server: ServerBuilder, parts: EventRouteParts): EventConnections {
  const connections = new EventConnections(parts);
  const events = exchangeRoute(EVENTS_PATH, false, parts.observer);
  server.route('GET', EVENTS_PATH, (request, response) => connections.listen(new Exchange(request, response, events)));
  server.route('ANY', EVENTS_PATH, refuseMethod(exchangeRoute(EVENTS_PATH, true, parts.observer)));
  const stream = exchangeRoute(STREAM_PATH, true, parts.observer);
  server.webSocket<StreamSession>(STREAM_PATH, {
    maxMessageBytes: connections.limits.messageBytes,
    maxBufferedBytes: connections.limits.waitingBytes,
    headers: EVENT_HEADERS,
    upgrade: (request, upgrade) => connections.upgrade(request, upgrade),
    open: (socket) => socket.session.opened(socket),
    message: (socket, bytes, isBinary) => socket.session.received(bytes, isBinary),
    control: (socket) => socket.session.seen(),
    drained: (socket) => socket.session.drained(),
    closed: (session) => session.closed(),
  });
  server.route('GET', STREAM_PATH, (request, response) => {
    new Exchange(request, response, stream).problem('invalid_request', 'this path speaks WebSocket only');
  });
  server.route('ANY', STREAM_PATH, refuseMethod(stream));
  return connections;
}

/** A live connection, as far as this file looks after it. */
interface Connection {
  readonly keyId: string;
  /** Has it consumers of durable groups? */
  readonly consumes?: boolean;
  waitingBytes(): number;
  sweep(nowMs: number): void;
  end(reason: 'draining'): void;
}

export class EventConnections implements Part {
  readonly name = 'event connections';
  readonly limits: { readonly [Name in keyof typeof STREAM_LIMITS]: number };
  readonly #parts: EventRouteParts;
  readonly #connections = new Set<Connection>();
  readonly #consumers: ConsumerTable;
  readonly #perKey = new Map<string, number>();
  /** In progress. */
  #pages = 0;
  readonly #pagesOf = new Map<string, number>();
  /** Runs while there are connections. */
  #sweepTimer: NodeJS.Timeout | undefined;
  #leaving: boolean = false;
  /** As of the last sweep. */
  #crowded: boolean = false;

  constructor(parts: EventRouteParts) {
    this.#parts = parts;
    this.limits = { ...STREAM_LIMITS, ...parts.limits };
    this.#consumers = new ConsumerTable(this.limits.consumers);
  }

  get count(): number {
    return this.#connections.size;
  }

  /** Consumers go first, and give back what they hold, so that others have it at once. The feed closes those that listen, paced; what is left
   *  then are sockets without a subscription. */
  async drain(deadlineMs: number): Promise<void> {
    this.#leaving = true;
    for (const connection of [...this.#connections]) if (connection.consumes) connection.end('draining');
    await Promise.all([this.#parts.feed.drain(deadlineMs), this.#consumers.ended()]);
    for (const connection of [...this.#connections]) connection.end('draining');
  }

  async stop(): Promise<void> {
    this.#leaving = true;
    for (const connection of [...this.#connections]) connection.end('draining');
    await this.#consumers.ended();
  }

  /** `GET /v1/events`. Answers or streams; never rejects. */
  async listen(exchange: Exchange): Promise<void> {
    try {
      await this.#listen(exchange);
    } catch (error) {
      exchange.failed(error);
    }
  }

  async upgrade(request: RequestSnapshot, upgrade: UpgradeHandle<StreamSession>): Promise<void> {
    const { broker, feed, clock, observer } = this.#parts;
    const given = request.header('x-request-id');
    const requestId = /^[A-Za-z0-9._:-]{1,64}$/.test(given) ? given : observer.newRequestId();
    const refuse = (code: ErrorCode, about: ProblemCaseOf): void => {
      const { status, headers, body } = createProblem(code, { method: 'GET', requestId, ...about });
      observer.answered(STREAM_PATH, status);
      upgrade.refuse(status, [['X-Request-Id', requestId], ...headers], body, { close: true });
    };
    const fault = upgradeFault(request);
    if (fault !== undefined) return refuse(fault.code, fault);
    const again = reauthentication(request, broker.access);
    const caller = await again();
    if (upgrade.ended) return;
    if (caller.status === 'refused') {
      const { error, detail, retryAfterMs } = caller;
      return refuse(error, { detail, ...(retryAfterMs === undefined ? {} : { retryAfterMs }) });
    }
    const refusal = this.#refusalOf(caller);
    if (refusal !== undefined) return refuse(refusal.code, refusal);
    const { keyId } = caller;
    const identity: StreamCaller = { keyId, requestId, again };
    const session = new StreamSession(
      {
        feed,
        broker,
        consumers: this.#consumers,
        limits: this.limits satisfies StreamLimits,
        nowMs: () => clock.nowMs(),
        monotonicMs: () => clock.monotonicMs(),
        crowded: () => this.#crowded,
        onDefect: (error, id) => observer.defect(error, id, STREAM_PATH),
        onClosed: (gone) => this.#remove(gone),
      },
      identity,
    );
    this.#add(session);
    observer.answered(STREAM_PATH, 101);
    if (!upgrade.accept(session)) session.closed();
  }

  async #listen(exchange: Exchange): Promise<void> {
    const { request, response } = exchange;
    const { broker, feed, clock, observer } = this.#parts;
    const again = reauthentication(request, broker.access);
    const caller = await again();
    if (caller.status === 'refused') return exchange.refuse(caller);
    const refusal = this.#refusalOf(caller);
    if (refusal !== undefined) return exchange.problem(refusal.code, refusal.detail);
    const query = readEventQuery(request, feed.shards, clock.nowMs());
    if (query.status === 'invalid') return exchange.answer(invalid(query.faults));
    if (query.page !== undefined) return await this.#answerPage(exchange, caller.keyId, { ...query, ...query.page });
    await feed.open();
    // While the tail was opened others may have come, and the peer may have gone.
    const late = this.#refusalOf(caller);
    if (late !== undefined) return exchange.problem(late.code, late.detail);
    if (response.ended) return undefined;
    const source = new EventSource({
      keyId: caller.keyId,
      again,
      recheckMs: this.limits.recheckMs,
      monotonicMs: () => clock.monotonicMs(),
      onClosed: (gone) => this.#remove(gone),
    });
    const subscription = feed.join(query.filter, query.start, source);
    this.#add(source);
    observer.answered(EVENTS_PATH, 200);
    const headers: HeaderList = [['X-Request-Id', exchange.requestId], ...STREAM_HEADERS];
    const stream = response.stream(200, headers, { maxBufferedBytes: this.limits.waitingBytes });
    source.begin(stream, subscription, this.limits.retryMs);
    return undefined;
  }

  async #answerPage(exchange: Exchange, keyId: string, request: PageRequest): Promise<void> {
    const { pages, pagesPerKey } = this.limits;
    const own = this.#pagesOf.get(keyId) ?? 0;
    if (own >= pagesPerKey) return exchange.problem('rate_limited', `${pagesPerKey} pages at once of one API key`);
    if (this.#pages >= pages) return exchange.problem('rate_limited', `${pages} pages at once of this process`);
    this.#pages += 1;
    this.#pagesOf.set(keyId, own + 1);
    try {
      const page = await this.#parts.feed.page(request, () => !exchange.response.ended);
      exchange.send(200, 'application/json', pageJson(page), [['Cache-Control', 'no-store']]);
    } finally {
      this.#pages -= 1;
      const left = (this.#pagesOf.get(keyId) ?? 1) - 1;
      if (left > 0) this.#pagesOf.set(keyId, left);
      else this.#pagesOf.delete(keyId);
    }
    return undefined;
  }

  #refusalOf(caller: Caller): { readonly code: ErrorCode; readonly detail: string } | undefined {
    const { connectionsPerKey, connections } = this.limits;
    if (!allows(caller, 'read')) return { code: 'forbidden', detail: missingScope('read').detail };
    if (this.#leaving) return { code: 'node_draining', detail: 'this process is leaving; connect again' };
    if ((this.#perKey.get(caller.keyId) ?? 0) >= connectionsPerKey) {
      return { code: 'rate_limited', detail: `${connectionsPerKey} live connections of one API key` };
    }
    if (this.#connections.size >= connections) {
      return { code: 'rate_limited', detail: `${connections} live connections of this process` };
    }
    return undefined;
  }

  #add(connection: Connection): void {
    this.#connections.add(connection);
    this.#sweepTimer ??= setInterval(() => this.#sweep(), this.limits.sweepMs);
    this.#perKey.set(connection.keyId, (this.#perKey.get(connection.keyId) ?? 0) + 1);
  }

  #remove(connection: Connection): void {
    if (!this.#connections.delete(connection)) return;
    const left = (this.#perKey.get(connection.keyId) ?? 1) - 1;
    if (left > 0) this.#perKey.set(connection.keyId, left);
    else this.#perKey.delete(connection.keyId);
    if (this.#connections.size > 0) return;
    clearInterval(this.#sweepTimer);
    this.#sweepTimer = undefined;
  }

  #sweep(): void {
    const nowMs = this.#parts.clock.monotonicMs();
    let waitingBytes = 0;
    for (const connection of this.#connections) {
      waitingBytes += connection.waitingBytes();
      connection.sweep(nowMs);
    }
    this.#crowded = waitingBytes > this.limits.totalWaitingBytes;
  }
}

const STREAM_HEADERS: HeaderList = [
  ['Content-Type', 'text/event-stream; charset=utf-8'],
  ['Cache-Control', 'no-store'],
  // nginx would collect the stream otherwise.
  ['X-Accel-Buffering', 'no'],
];

/** The events as they are, not written anew. */
function pageJson({ events, gaps, cursor, more }: EventPage): Buffer {
  const parts: Uint8Array[] = [Buffer.from('{"events":[')];
  for (const [index, event] of events.entries()) {
    if (index > 0) parts.push(COMMA);
    parts.push(event.json());
  }
  parts.push(Buffer.from(`],"gaps":${JSON.stringify(gaps)},"cursor":"${cursor}","more":${more}}`));
  return Buffer.concat(parts);
}

const COMMA = Buffer.from(',');

/** The transport calls a WebSocket handler for any GET with a key of the right length, so the rest of RFC 6455 is checked here. */
function upgradeFault(request: RequestSnapshot): (ProblemCaseOf & { readonly code: ErrorCode }) | undefined {
  if (request.header('upgrade').toLowerCase() !== 'websocket') {
    return { code: 'invalid_request', detail: 'this path speaks WebSocket only' };
  }
  if (request.header('sec-websocket-version') !== '13') {
    const headers = [['Sec-WebSocket-Version', '13']] as const;
    return { code: 'invalid_request', detail: 'Sec-WebSocket-Version must be 13', headers };
  }
  const origin = request.header('origin');
  if (origin !== '' && hostOf(origin) !== request.header('host').toLowerCase()) {
    return { code: 'forbidden', detail: 'the Origin is another host' };
  }
  return undefined;
}

type ProblemCaseOf = Partial<ProblemCase> & { readonly detail: string };

function hostOf(origin: string): string | undefined {
  return URL.canParse(origin) ? new URL(origin).host : undefined;
}

/** Keeps of the request only what is needed to ask again: the header, for as long as the connection lives. */
function reauthentication(
  request: RequestSnapshot,
  access: EventRouteParts['broker']['access'],
): () => Caller | Refusal | Promise<Caller | Refusal> {
  const authorization = request.header('authorization');
  const asked = { header: (name: string): string => (name === 'authorization' ? authorization : '') };
  return () => access.authenticate(asked);
}

function exchangeRoute(label: string, open: boolean, observer: ApiObserver): ExchangeRoute {
  return {
    label,
    open,
    count: (route, status) => observer.answered(route, status),
    newRequestId: () => observer.newRequestId(),
    leaving: () => observer.leaving(),
    onDefect: (error, requestId, route) => observer.defect(error, requestId, route),
  };
}

function refuseMethod(route: ExchangeRoute): (request: RequestSnapshot, response: ResponseHandle) => void {
  return (request, response) => {
    new Exchange(request, response, route).problem('method_not_allowed', 'use GET', { headers: [['Allow', 'GET']] });
  };
}

const term = (what: string) => z.string().optional().describe(what);

const EventPageView = z
  .object({
    events: z.array(EventView),
    gaps: z.array(EventGap),
    cursor: z.string().describe('Where the next page begins; also for the stream.'),
    more: z.boolean(),
  })
  .meta({ id: 'EventPage' });

/** For the OpenAPI document; the requests themselves are read by event-query.ts. */
export const EVENT_OPERATIONS: readonly {
  readonly method: 'GET';
  readonly path: string;
  readonly operation: OperationDoc;
}[] = [
  {
    method: 'GET',
    path: EVENTS_PATH,
    operation: {
      id: 'listenToEvents',
      tag: 'Events',
      summary: 'Listen to events, live and from where a subscriber left off; or fetch stored ones in pages',
      description: `Server-sent events. Each \`data:\` is one event; its \`data\` is the device's own JSON, unchanged. \`id:\` is a cursor: connect again with it in \`Last-Event-ID\` (browsers do) or \`from\`, and nothing is skipped; events may repeat. \`event: gap\` \`{shard, from, to, count, reason}\` says that events are no longer stored, before what follows them. \`event: closed\` \`{reason, cursor}\` is the last message: \`slow_consumer\`, \`draining\` or \`unauthenticated\`. Idle streams get a comment and a bare \`id:\` every ${FEED_LIMITS.heartbeatMs / 1000} s. Live delivery is at most once and in the order of each device.\n\nWith \`Accept: application/json\` (and no \`text/event-stream\` beside it) the answer is one page of stored events instead, in order of time, from \`from\` on (\`start\` unless given). Ask again with its \`cursor\` in \`from\`; \`more: false\` says that there was nothing else. A page may be empty although more follows: the broker reads only so much for one answer.`,
      scope: 'read',
      query: z.strictObject({
        device: term('DeviceCodes, comma-separated or repeated; `*` stands for any characters.'),
        kind: term('Kinds, comma-separated or repeated: `alarm.MotionAlarmOn`, `alarm.*`, `structure`, `presence.*`.'),
        tag: term('Tags, comma-separated or repeated; any of them.'),
        from: term(
          'A cursor, an event id, an RFC 3339 time, `start` (the oldest kept; default of pages) or `now` (default of the stream). `Last-Event-ID` wins.',
        ),
        limit: z.coerce
          .number()
          .int()
          .min(PAGE_LIMIT.min)
          .max(PAGE_LIMIT.max)
          .default(PAGE_LIMIT.default)
          .describe('Events of a page at most.'),
      }),
      headers: z.object({ 'Last-Event-ID': term('As `from`.') }),
      responses: {
        200: {
          description: 'The stream, or the page.',
          schema: z.string(),
          contentType: 'text/event-stream',
          also: { 'application/json': EventPageView },
        },
      },
      errors: ['rate_limited', 'node_draining', 'broker_unavailable'],
    },
  },
  {
    method: 'GET',
    path: STREAM_PATH,
    operation: {
      id: 'openStream',
      tag: 'Events',
      summary: 'Subscriptions, consumers of durable subscriptions, and commands on one WebSocket',
      description:
        'RFC 6455, version 13, JSON text messages. Authenticate the upgrade with the `Authorization` header; keys are accepted neither in the URL nor as a sub-protocol, and a page of another origin is refused. Messages hold at most 256 KiB; a longer one ends the socket, so send larger commands over HTTP. Client: `subscribe {id, filter: {devices, kinds, tags}, from}`, `unsubscribe {id}`, `consume {id, subscription, maxInFlight}`, `ack {id, ackIds}`, `nack {id, ackIds, delaySeconds}`, `extend {id, ackIds, seconds}`, `command {id, code, method, url, data, timeoutMs, connectTimeoutMs}` (scope `call`), `ping`. Broker: `subscribed {id, cursor}`, `event {subscription, cursor, event}`, `gap {subscription, cursor, gap}`, `heartbeat {subscription, cursor, store}`, `unsubscribed {id, cursor}`, `consuming {id, maxInFlight}`, `delivery {consumer, ackId, attempt, event | gap}`, `settled {id, results}`, `reply {id, status, executed, source, response | problem}`, `pong`, `error {id, problem}`, `closing {reason, cursors}`. Close codes: 4008 slow consumer, 1001 draining, 1008 key revoked, or too many messages per second (refused ones count 20 times).',
      scope: 'read',
      responses: { 101: { description: 'The socket is open.' } },
      errors: ['invalid_request', 'rate_limited', 'node_draining'],
    },
  },
];
