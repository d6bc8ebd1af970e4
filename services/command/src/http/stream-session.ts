/** One socket of a platform on `WS /v1/stream`: its subscriptions, its consumers of durable groups (stream-consumer.ts) and its commands
 *  (messages: stream-message.ts).
 *
 *  States: open → closing → closed. While closing nothing is taken in; the close frame follows when what waited has left, so that the cursors
 *  arrive before it. A peer that takes nothing even then is dropped after `closingMs`.
 *  Bounded: subscriptions and consumers, commands in progress, bytes that wait (for events the feed's own bound; a command is refused while many wait),
 *  messages per second: refusing costs more than doing, so a peer that is refused all the time is cut off first (reliability I4.5).
 *  A message that the transport drops ends the socket at once and without cursors: the client goes on from the last it received (I5.2).
 *  The key is checked again with every command and every `recheckMs`, so a revoked one ends here as soon as anywhere. */

import type { SendResult, Socket } from '@lapi-broker/http';
import { BrokerError, type ErrorCode, httpStatusOf } from '@lapi-broker/protocol';
import { allows, type Caller, missingScope, type Refusal } from '../access/access.ts';
import type { CommandEnd } from '../dispatch/dispatch.ts';
import { parseStartPoint, START_POINTS } from '../event/cursor.ts';
import type { EventFeed, Subscription } from '../event/event-feed.ts';
import type { CloseReason, EventSink, Gap } from '../event/event-sink.ts';
import { parseFilter } from '../event/filter.ts';
import type { OutgoingEvent } from '../event/outgoing-event.ts';
import type { Verdict } from '../group/group.ts';
import type { Broker } from './broker.ts';
import { createProblem, type ProblemCase } from './problem.ts';
import { type ConsumerTable, StreamConsumer } from './stream-consumer.ts';
import {
  type CommandMessage,
  type ConsumeMessage,
  readStreamMessage,
  type SettleMessage,
  type SubscribeMessage,
} from './stream-message.ts';

export interface StreamLimits {
  /** And consumers. */
  readonly subscriptions: number;
  /** Nothing is written for a consumer while more than this waits in the socket. */
  readonly consumerWaitingBytes: number;
  /** In progress at once. */
  readonly commands: number;
  /** No command is taken while more than this waits in the socket. */
  readonly commandWaitingBytes: number;
  /** A socket that takes nothing for so long although bytes wait in it is closed, whatever they are. */
  readonly stuckMs: number;
  /** A message costs 1, one that is refused REFUSED_COST more. */
  readonly messagesPerSecond: number;
  readonly messagesBurst: number;
  /** Silence after which the peer is pinged, and after which it counts as gone. */
  readonly pingMs: number;
  readonly silenceMs: number;
  readonly closingMs: number;
  readonly recheckMs: number;
}

export interface StreamSessionParts {
  readonly feed: EventFeed;
  readonly broker: Pick<Broker, 'policy' | 'dispatch' | 'groups'>;
  readonly consumers: ConsumerTable;
  readonly limits: StreamLimits;
  /** For cursors and times of day. */
  readonly nowMs: () => number;
  readonly monotonicMs: () => number;
  /** Do all sockets of the process together hold too much? Then no command is taken and nothing is pulled by one in which something waits. */
  readonly crowded: () => boolean;
  readonly onDefect: (error: unknown, requestId: string) => void;
  /** Called once, when the socket is gone. */
  readonly onClosed: (session: StreamSession) => void;
}

/** Who opened the socket, and a way to ask again whether they still may. */
export interface StreamCaller {
  readonly keyId: string;
  readonly requestId: string;
  again(): Caller | Refusal | Promise<Caller | Refusal>;
}

type EndReason = CloseReason | 'unauthenticated' | 'too_many_messages';

const CLOSE_CODES: Record<EndReason, number> = {
  slow_consumer: 4008,
  draining: 1001,
  unauthenticated: 1008,
  too_many_messages: 1008,
};
const REFUSED_COST = 20;

export class StreamSession {
  readonly #parts: StreamSessionParts;
  readonly #caller: StreamCaller;
  readonly #subscriptions = new Map<string, SocketSink>();
  /** A seat is taken before its consumer is known. */
  readonly #consumers = new Map<string, { consumer: StreamConsumer | undefined }>();
  #socket: Socket<StreamSession> | undefined;
  #state: 'open' | 'closing' | 'closed' = 'open';
  #pending: (string | Buffer)[] = [];
  #pendingBytes = 0;
  /** Sent since nothing waited. */
  #messages = 0;
  #commands = 0;
  /** What it may still send now; below 0 it has sent too much. */
  #messageTokens: number;
  #tokensAtMs: number;
  #lastSeenMs: number;
  #lastPingMs = 0;
  #lastCheckMs: number;
  #closingSinceMs = 0;
  #stuckSinceMs: number | undefined;
  #endReason: EndReason = 'draining';

  constructor(parts: StreamSessionParts, caller: StreamCaller) {
    this.#parts = parts;
    this.#caller = caller;
    this.#lastSeenMs = parts.monotonicMs();
    this.#lastCheckMs = this.#lastSeenMs;
    this.#messageTokens = parts.limits.messagesBurst;
    this.#tokensAtMs = this.#lastSeenMs;
  }

  get keyId(): string {
    return this.#caller.keyId;
  }

  get consumes(): boolean {
    return this.#consumers.size > 0;
  }

  opened(socket: Socket<StreamSession>): void {
    this.#socket = socket;
  }

  /** `bytes` need not outlive the call. */
  received(bytes: Buffer, isBinary: boolean): void {
    this.seen();
    if (this.#state !== 'open') return;
    if (!this.#takeToken()) {
      this.end('too_many_messages');
      return;
    }
    if (isBinary) {
      this.#refuse(undefined, 'invalid_request', 'messages are JSON text, not binary');
      return;
    }
    const read = readStreamMessage(bytes);
    if (read.status === 'invalid') {
      const [{ path, problem }] = read.faults;
      this.#refuse(read.id, 'invalid_request', `${path}: ${problem}`, { faults: read.faults });
      return;
    }
    const { message } = read;
    if (message.type === 'ping') this.say('{"type":"pong"}');
    else if (message.type === 'unsubscribe') this.#unsubscribe(message.id);
    else if (message.type === 'subscribe') void this.#subscribe(message);
    else if (message.type === 'consume') void this.#consume(message);
    else if (message.type === 'ack' || message.type === 'nack' || message.type === 'extend') this.#settle(message);
    else void this.#command(message, Buffer.from(read.data));
  }

  #takeToken(): boolean {
    const { messagesPerSecond, messagesBurst } = this.#parts.limits;
    const earned = ((this.#lastSeenMs - this.#tokensAtMs) / 1000) * messagesPerSecond;
    this.#tokensAtMs = this.#lastSeenMs;
    this.#messageTokens = Math.min(messagesBurst, this.#messageTokens + earned) - 1;
    return this.#messageTokens >= 0;
  }

  /** A sign of life. */
  seen(): void {
    this.#lastSeenMs = this.#parts.monotonicMs();
  }

  drained(): void {
    this.#messages = 0;
    this.#stuckSinceMs = undefined;
    if (this.#state === 'closing') {
      this.#finish();
      return;
    }
    for (const sink of this.#subscriptions.values()) sink.subscription?.drained();
    for (const { consumer } of this.#consumers.values()) consumer?.wake();
  }

  /** The socket is gone. Idempotent. */
  closed(): void {
    if (this.#state === 'closed') return;
    this.#state = 'closed';
    this.#socket = undefined;
    this.#pending = [];
    this.#pendingBytes = 0;
    for (const sink of this.#subscriptions.values()) sink.subscription?.close();
    this.#subscriptions.clear();
    this.#endConsumers('leave');
    this.#parts.onClosed(this);
  }

  sweep(nowMs: number): void {
    const { pingMs, silenceMs, closingMs, recheckMs, stuckMs } = this.#parts.limits;
    const silentMs = nowMs - this.#lastSeenMs;
    if (silentMs >= silenceMs || (this.#state === 'closing' && nowMs - this.#closingSinceMs >= closingMs)) {
      this.#socket?.close();
      return;
    }
    if (this.waitingBytes() === 0) this.#stuckSinceMs = undefined;
    else this.#stuckSinceMs ??= nowMs;
    if (this.#stuckSinceMs !== undefined && nowMs - this.#stuckSinceMs >= stuckMs) this.end('slow_consumer');
    if (silentMs >= pingMs && nowMs - this.#lastPingMs >= pingMs) {
      this.#lastPingMs = nowMs;
      this.#socket?.ping();
    }
    if (nowMs - this.#lastCheckMs >= recheckMs) void this.#admitted();
    for (const { consumer } of this.#consumers.values()) consumer?.sweep(nowMs);
  }

  /** Tells the peer its cursors, then closes. */
  end(reason: EndReason): void {
    if (this.#state !== 'open') return;
    this.#state = 'closing';
    this.#endReason = reason;
    this.#closingSinceMs = this.#parts.monotonicMs();
    const cursors: Record<string, string> = Object.create(null);
    for (const [id, { subscription }] of this.#subscriptions) {
      if (subscription === undefined) continue;
      subscription.close();
      cursors[id] = subscription.cursor();
    }
    this.#endConsumers('release');
    this.say(JSON.stringify({ type: 'closing', reason, cursors }));
    this.#finish();
  }

  say(message: string | Buffer): void {
    this.give(message);
    this.flush();
  }

  give(message: string | Buffer): void {
    this.#pending.push(message);
    this.#pendingBytes += message.length;
    this.#messages += 1;
  }

  flush(): void {
    const socket = this.#socket;
    if (socket === undefined || this.#pending.length === 0) return;
    const messages = this.#pending;
    this.#pending = [];
    this.#pendingBytes = 0;
    let worst: SendResult = 1;
    socket.cork(() => {
      for (const message of messages) {
        const result = socket.send(message, false);
        if (result === 2) worst = 2;
        else if (result === 0 && worst === 1) worst = 0;
        if (result === 2) return;
      }
    });
    // A hole in the flow: no cursor told from here on would be true.
    if (isDropped(worst)) socket.close();
    else if (socket.getBufferedAmount() === 0) this.#messages = 0;
  }

  waitingBytes(): number {
    return this.#pendingBytes + (this.#socket?.getBufferedAmount() ?? 0);
  }

  waitingMessages(): number {
    return this.#messages;
  }

  #finish(): void {
    const socket = this.#socket;
    if (socket === undefined || socket.getBufferedAmount() > 0) return; // `drained` or the sweep goes on.
    socket.end(CLOSE_CODES[this.#endReason], this.#endReason);
  }

  // A method, so that the check after an await is not taken for the one before it.
  #isOpen(): boolean {
    return this.#state === 'open';
  }

  async #subscribe({ id, filter: terms, from }: SubscribeMessage): Promise<void> {
    const { feed, nowMs } = this.#parts;
    if (this.#refuseSeat(id)) return;
    const parsed = parseFilter(terms);
    if (parsed.status === 'invalid') return this.#refuse(id, 'invalid_request', `filter: ${parsed.detail}`);
    const start = parseStartPoint(from, feed.shards, nowMs());
    if (start === undefined) return this.#refuse(id, 'invalid_request', `from: is not ${START_POINTS}`);

    const sink = new SocketSink(this, id);
    this.#subscriptions.set(id, sink);
    try {
      await feed.open();
      // Closed, or unsubscribed meanwhile.
      if (!this.#isOpen() || this.#subscriptions.get(id) !== sink) return;
      sink.subscription = feed.join(parsed.filter, start, sink);
    } catch (error) {
      if (this.#subscriptions.get(id) === sink) this.#subscriptions.delete(id);
      if (this.#isOpen()) this.#failed(id, error);
      return;
    }
    this.say(JSON.stringify({ type: 'subscribed', id, cursor: sink.subscription.cursor() }));
  }

  /** For subscriptions and consumers alike. */
  #refuseSeat(id: string): boolean {
    const { subscriptions } = this.#parts.limits;
    if (this.#subscriptions.has(id) || this.#consumers.has(id)) {
      this.#refuse(id, 'conflict', 'there is a subscription with this id');
    } else if (this.#subscriptions.size + this.#consumers.size >= subscriptions) {
      this.#refuse(id, 'rate_limited', `${subscriptions} subscriptions on one socket`);
    } else return false;
    return true;
  }

  async #consume({ id, subscription, maxInFlight }: ConsumeMessage): Promise<void> {
    const { broker, consumers, limits, monotonicMs } = this.#parts;
    if (this.#refuseSeat(id)) return;
    const seat: { consumer: StreamConsumer | undefined } = { consumer: undefined };
    this.#consumers.set(id, seat);
    try {
      const group = await broker.groups.get(subscription);
      // Closed, or unsubscribed meanwhile.
      if (!this.#isOpen() || this.#consumers.get(id) !== seat) return;
      if (consumers.isFull) {
        this.#consumers.delete(id);
        this.#refuse(id, 'rate_limited', `${consumers.limit} consumers on sockets of this process`);
        return;
      }
      const most = Math.min(maxInFlight, group.maxInFlight);
      const consumer = new StreamConsumer({
        id,
        group,
        maxInFlight: most,
        groups: broker.groups,
        socket: this,
        waitingBytes: () => (this.#parts.crowded() ? 0 : limits.consumerWaitingBytes),
        monotonicMs,
      });
      seat.consumer = consumer;
      this.say(JSON.stringify({ type: 'consuming', id, maxInFlight: most }));
      const { error } = await consumers.run(consumer);
      if (this.#consumers.get(id) === seat) this.#consumers.delete(id);
      if (this.#isOpen()) this.say(`{"type":"unsubscribed","id":${JSON.stringify(id)}${this.#problemMember(error)}}`);
    } catch (error) {
      if (this.#consumers.get(id) === seat) this.#consumers.delete(id);
      if (this.#isOpen()) this.#failed(id, error);
    }
  }

  #settle(message: SettleMessage): void {
    const { id, ackIds } = message;
    const consumer = this.#consumers.get(id)?.consumer;
    if (consumer === undefined) {
      this.#refuse(id, 'not_found', 'there is no consumer with this id');
      return;
    }
    const taken = consumer.settle({
      ackIds,
      verdict: verdictOf(message),
      onSettled: (results) => {
        if (this.#isOpen()) this.give(JSON.stringify({ type: 'settled', id, results }));
      },
      onRefused: (error) => {
        if (this.#isOpen()) this.#failed(id, error);
      },
    });
    if (!taken) this.#refuse(id, 'rate_limited', 'ids of one consumer that wait to be settled');
  }

  #endConsumers(how: 'release' | 'leave'): void {
    for (const { consumer } of this.#consumers.values()) consumer?.end(how);
    this.#consumers.clear();
  }

  #unsubscribe(id: string): void {
    const seat = this.#consumers.get(id);
    if (seat !== undefined) {
      this.#consumers.delete(id);
      // Else `unsubscribed` follows when it has given back what it held.
      if (seat.consumer === undefined) this.say(JSON.stringify({ type: 'unsubscribed', id }));
      else seat.consumer.end('release');
      return;
    }
    const sink = this.#subscriptions.get(id);
    if (sink === undefined) {
      this.#refuse(id, 'not_found', 'there is no subscription with this id');
      return;
    }
    this.#subscriptions.delete(id);
    sink.subscription?.close();
    this.say(JSON.stringify({ type: 'unsubscribed', id, cursor: sink.subscription?.cursor() }));
  }

  async #command(message: CommandMessage, data: Buffer): Promise<void> {
    const { limits } = this.#parts;
    const { id, method, url } = message;
    const waitingBytes = this.waitingBytes();
    const isFull = waitingBytes > (this.#parts.crowded() ? 0 : limits.commandWaitingBytes);
    if (this.#commands >= limits.commands || isFull) {
      this.#messageTokens -= REFUSED_COST;
      return this.#replyProblem(message, 'rate_limited', 'commands in progress on one socket', false);
    }
    this.#commands += 1;
    try {
      const caller = await this.#admitted();
      if (!this.#isOpen()) return undefined;
      if (caller.status === 'refused') return this.#replyProblem(message, caller.error, caller.detail, false);
      if (!allows(caller, 'call')) {
        return this.#replyProblem(message, 'forbidden', missingScope('call').detail, false);
      }
      const verdict = this.#parts.broker.policy.judge(url);
      if (verdict.status === 'guarded' && !allows(caller, 'admin')) {
        return this.#replyProblem(message, 'forbidden_by_policy', verdict.reason, false);
      }
      if (verdict.status === 'invalid_request' || verdict.status === 'forbidden_by_policy') {
        return this.#replyProblem(message, verdict.status, verdict.reason, false);
      }
      const { code, timeoutMs, connectTimeoutMs } = message;
      const end = await this.#parts.broker.dispatch.call({
        code,
        method,
        url,
        body: data,
        timeoutMs,
        connectTimeoutMs,
        withdrawn: () => this.#state === 'closed',
      });
      this.#reply(message, end);
    } catch (error) {
      this.#failed(id, error);
    } finally {
      this.#commands -= 1;
    }
    return undefined;
  }

  #reply(message: CommandMessage, end: CommandEnd): void {
    if (end.status === 'refused') {
      this.#replyProblem(message, end.error, end.detail, end.written);
      return;
    }
    const status = httpStatusOf(end.responseCode, end.success);
    const head = { type: 'reply', id: message.id, status, executed: 'yes', source: 'device' };
    this.say(Buffer.concat([Buffer.from(`${JSON.stringify(head).slice(0, -1)},"response":`), end.body, CLOSE_OBJECT]));
  }

  #replyProblem({ id, method }: CommandMessage, code: ErrorCode, detail: string, written: boolean): void {
    if (this.#state === 'closed') return;
    const { requestId } = this.#caller;
    const { status, body } = createProblem(code, { detail, requestId, method, command: { written } });
    const head = { type: 'reply', id, status, executed: written ? 'maybe' : 'no', source: 'broker' };
    this.say(`${JSON.stringify(head).slice(0, -1)},"problem":${body}}`);
  }

  /** Asks whether the key still opens this; ends the socket when it does not. Never rejects. */
  async #admitted(): Promise<Caller | Refusal> {
    this.#lastCheckMs = this.#parts.monotonicMs();
    const caller = await this.#caller.again();
    if (caller.status === 'refused' && caller.error === 'unauthenticated') this.end('unauthenticated');
    return caller;
  }

  #refuse(id: string | undefined, code: ErrorCode, detail: string, about: Partial<ProblemCase> = {}): void {
    this.#messageTokens -= REFUSED_COST;
    const { body } = createProblem(code, { method: 'GET', ...about, detail, requestId: this.#caller.requestId });
    this.say(`{"type":"error",${id === undefined ? '' : `"id":${JSON.stringify(id)},`}"problem":${body}}`);
  }

  #failed(id: string, error: unknown): void {
    const { code, detail } = this.#told(error);
    this.#refuse(id, code, detail);
  }

  /** What a client may know of an error; the rest is reported. */
  #told(error: unknown): { readonly code: ErrorCode; readonly detail: string } {
    if (error instanceof BrokerError && error.code !== 'internal') return { code: error.code, detail: error.message };
    this.#parts.onDefect(error, this.#caller.requestId);
    return { code: 'internal', detail: 'the broker failed in a way it does not know' };
  }

  #problemMember(error: unknown): string {
    if (error === undefined) return '';
    const { code, detail } = this.#told(error);
    return `,"problem":${createProblem(code, { method: 'GET', detail, requestId: this.#caller.requestId }).body}`;
  }
}

function verdictOf(message: SettleMessage): Verdict {
  switch (message.type) {
    case 'ack':
      return { type: 'ack' };
    case 'nack':
      return { type: 'nack', delayMs: message.delaySeconds * 1_000 };
    case 'extend':
      return { type: 'extend', deadlineMs: message.seconds * 1_000 };
  }
}

const CLOSE_OBJECT = Buffer.from('}');

// The callback above assigns it, which the compiler does not follow.
function isDropped(result: SendResult): boolean {
  return result === 2;
}

/** One subscription's share of a socket. */
class SocketSink implements EventSink {
  readonly #session: StreamSession;
  readonly #name: string;
  /** Undefined until it has joined. */
  subscription: Subscription | undefined;

  constructor(session: StreamSession, id: string) {
    this.#session = session;
    this.#name = JSON.stringify(id);
  }

  event(event: OutgoingEvent, cursor: string): void {
    const json = event.json();
    const head = `{"type":"event","subscription":${this.#name},"cursor":"${cursor}","event":`;
    const headBytes = Buffer.byteLength(head);
    const message = Buffer.allocUnsafe(headBytes + json.length + 1);
    message.write(head, 0, 'utf8');
    message.set(json, headBytes);
    message[message.length - 1] = 0x7d;
    this.#session.give(message);
  }

  gap(gap: Gap, cursor: string): void {
    this.#session.give(`{"type":"gap","subscription":${this.#name},"cursor":"${cursor}","gap":${JSON.stringify(gap)}}`);
  }

  heartbeat(cursor: string, storeAway: boolean): void {
    const store = storeAway ? 'unavailable' : 'available';
    this.#session.give(`{"type":"heartbeat","subscription":${this.#name},"cursor":"${cursor}","store":"${store}"}`);
  }

  flush(): void {
    this.#session.flush();
  }

  waitingBytes(): number {
    return this.#session.waitingBytes();
  }

  waitingMessages(): number {
    return this.#session.waitingMessages();
  }

  closed(reason: CloseReason): void {
    this.#session.end(reason);
  }
}
