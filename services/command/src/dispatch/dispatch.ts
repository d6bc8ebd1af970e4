/** Takes one LAPI call to the node that holds the device, and its answer back: the direct path (design §6, protocol §9).
 *  - Each call ends exactly once, by its deadline plus a short grace at the latest (I4). Without word from the owning node the end is
 *    pessimistic: `timeout`, written.
 *  - A call is published a second time only when it is certain that nothing of it was written: no receiver, never left this process, or
 *    refused by the node. Then the owner is looked up once more and the same id goes out again, so a node that meets it twice drops it (I7).
 *  - The node compares the epoch and the deadline (store time) before it writes; what is remembered here is only a guess (I3).
 *  Store away, reply channel not trustworthy, or store time unknown: `broker_unavailable` at once, nothing sent.
 *  Not done here: who may call what (access/), HTTP (http/), order and repetition (a direct call has neither). */

import type { PublishResult, PubSub, Subscription } from '@lapi-broker/bus';
import {
  BrokerError,
  type CommandId,
  type DeviceCode,
  decodeEndedFrame,
  decodeReplyFrame,
  decodeShownFrame,
  encodeCommandFrame,
  type InstanceId,
  type LapiMethod,
  type NodeId,
  type ReplyFrame,
  type ReplyOutcome,
  type ShownSession,
} from '@lapi-broker/protocol';
import type { Keyspace, RedisClock } from '@lapi-broker/redis';
import type { OwnerRegistry } from '@lapi-broker/routing';
import type { OwnerCache, Route } from './owner-cache.ts';
import { Pending } from './pending.ts';

export interface DirectCommand {
  readonly code: DeviceCode;
  readonly method: LapiMethod;
  /** RequestURL with its query; has passed C5. */
  readonly url: string;
  /** JSON text of `Data`; empty = `{}`. */
  readonly body: Uint8Array;
  /** For the device's answer, from the moment when a session of it was known. */
  readonly timeoutMs: number;
  /** For an offline device to come; 0 = answer at once. */
  readonly connectTimeoutMs: number;
  /** True once nobody waits for the answer any more: an unsent command is then dropped. */
  withdrawn?(): boolean;
}

export type CommandError = Exclude<ReplyOutcome, 'answered' | 'stale_owner'> | 'device_unknown' | 'rate_limited';

export type CommandEnd =
  | {
      readonly status: 'answered';
      readonly success: boolean;
      readonly responseCode: number | undefined;
      /** The device's answer, one JSON object. */
      readonly body: Uint8Array;
    }
  | {
      readonly status: 'refused';
      readonly error: CommandError;
      /** Did, or may, bytes of it have reached the device's socket? */
      readonly written: boolean;
      readonly detail: string;
    };

/** Store time, so that deadlines mean the same on every machine (reliability D7). */
export type StoreTime = Pick<RedisClock, 'known' | 'nowMs'>;

export interface NodeLiveness {
  liveness(node: NodeId): 'alive' | 'dead' | 'unknown';
  /** Resolves with a directory read that began after this call. */
  refresh(): Promise<void>;
}

/** What happens here, for metrics. Called on the hot path: must be cheap and must not throw. */
export interface DispatchMeter {
  ended(outcome: 'succeeded' | 'failed' | CommandError, ms: number): void;
  located(source: 'cache' | 'registry'): void;
  published(): void;
  retried(): void;
  lateReply(): void;
  foreignFrame(): void;
}

export interface DispatchParts {
  readonly instance: InstanceId;
  readonly keyspace: Pick<Keyspace, 'inbox' | 'reply'>;
  readonly pubsub: PubSub;
  readonly registry: Pick<OwnerRegistry, 'lookUp'>;
  readonly nodes: NodeLiveness;
  readonly time: StoreTime;
  readonly owners: OwnerCache;
  readonly meter: DispatchMeter;
  /** The reply channel also tells of recorded commands that ended. */
  readonly onEnded?: (id: CommandId) => void;
  /** And it brings answers about sessions. */
  readonly onShown?: (shown: ShownSession) => void;
  readonly monotonicMs: () => number;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
}

export interface DispatchLimits {
  readonly pendingCommands: number;
  readonly sweepMs: number;
  readonly replyGraceMs: number;
}

/** locating: the owner is being looked up. away: no session, waiting for one. sent: published; only a proof of the contrary says it was
 *  not written. done: settled. */
type Phase = 'locating' | 'away' | 'sent' | 'done';

const NEXT: Record<Phase, readonly Phase[]> = {
  locating: ['sent', 'away', 'done'],
  away: ['locating', 'done'],
  sent: ['locating', 'away', 'done'],
  done: [],
};

interface Call {
  readonly id: number;
  readonly command: DirectCommand;
  readonly startedAtMs: number;
  readonly connectUntilMs: number;
  readonly settle: (end: CommandEnd) => void;
  readonly fail: (error: unknown) => void;
  phase: Phase;
  dueAtMs: number;
  deadlineMs: number;
  /** The last publish; tells its result from that of an earlier one. */
  publishing: Promise<PublishResult> | undefined;
  secondTryLeft: boolean;
  fromCache: boolean;
  backoffMs: number;
  refusal: CommandError;
}

const FIRST_BACKOFF_MS = 200;
const LAST_BACKOFF_MS = 1_000;

const DETAILS: Partial<Record<CommandError, string>> = {
  device_offline: 'the device has no session',
  device_busy: 'too many calls wait for this device, or its connection takes no more bytes',
  node_draining: 'the node of the device is leaving',
  timeout_not_sent: 'the deadline passed while the call waited for its turn',
  timeout: 'the device did not answer before the deadline',
  outcome_unknown: 'the session ended after the call was written',
  request_too_large: 'the message to the device would exceed its limit',
  broker_unavailable: 'the node of the device is cut off from the store',
};

export class Dispatch {
  readonly name = 'dispatch';
  readonly #parts: DispatchParts;
  readonly #limits: DispatchLimits;
  readonly #pending: Pending<Call>;
  /** Calls by the publish that carries them, until it resolves. */
  readonly #publishing = new Map<Promise<PublishResult>, Call[]>();
  #subscription: Subscription | undefined;
  #sweep: NodeJS.Timeout | undefined;
  #stopped: boolean = false;
  #idle: (() => void) | undefined;

  constructor(parts: DispatchParts, limits: DispatchLimits) {
    this.#parts = parts;
    this.#limits = limits;
    this.#pending = new Pending(limits.pendingCommands);
  }

  get pendingCount(): number {
    return this.#pending.size;
  }

  /** Undefined when calls can be taken, else what is missing. */
  unready(): string | undefined {
    if (this.#stopped || this.#subscription === undefined) return 'the reply channel is not subscribed';
    if (!this.#parts.pubsub.trustworthy()) return 'the reply channel is not trustworthy now';
    if (!this.#parts.time.known) return 'the time of the store is not known';
    return undefined;
  }

  async start(): Promise<void> {
    if (this.#subscription !== undefined) return;
    const { pubsub, keyspace, instance } = this.#parts;
    this.#subscription = await pubsub.subscribe(
      keyspace.reply(instance),
      (frame) => this.#onFrame(frame),
      // Answers may be lost. Their calls end at their deadline as `timeout`, written: all that can be said of them.
      () => undefined,
    );
    this.#sweep = setInterval(() => this.#sweepDue(), this.#limits.sweepMs);
  }

  /** Waits for the calls in progress. */
  async drain(deadlineMs: number): Promise<void> {
    if (this.#pending.size === 0) return;
    let timer: NodeJS.Timeout | undefined;
    await new Promise<void>((resolve) => {
      this.#idle = resolve;
      timer = setTimeout(resolve, deadlineMs);
    });
    clearTimeout(timer);
    this.#idle = undefined;
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    clearInterval(this.#sweep);
    for (const call of this.#pending.all()) {
      if (call.phase === 'sent') this.#refuse(call, 'outcome_unknown', true, 'this process of the broker stops');
      else this.#refuse(call, 'broker_unavailable', false, 'this process of the broker stops');
    }
    const subscription = this.#subscription;
    this.#subscription = undefined;
    await subscription?.close();
  }

  /** At most once. Rejects only on a defect of the broker itself. */
  call(command: DirectCommand): Promise<CommandEnd> {
    return new Promise((settle, fail) => this.begin(command, settle, fail));
  }

  /** The same without a promise, for the path on which every microsecond counts. One of the two is called once, perhaps before this
   *  returns, with frames of other calls waiting behind it: they must not throw. */
  begin(command: DirectCommand, settle: (end: CommandEnd) => void, fail: (error: unknown) => void): void {
    const nowMs = this.#parts.monotonicMs();
    const unready = this.unready();
    if (unready !== undefined || this.#pending.full) {
      const error = unready === undefined ? 'rate_limited' : 'broker_unavailable';
      this.#parts.meter.ended(error, 0);
      settle({ status: 'refused', error, written: false, detail: unready ?? 'commands in progress in this process' });
      return;
    }
    const deadlineMs = nowMs + command.timeoutMs;
    const call: Call = {
      id: this.#pending.nextId(),
      command,
      startedAtMs: nowMs,
      connectUntilMs: nowMs + command.connectTimeoutMs,
      settle,
      fail,
      phase: 'locating',
      dueAtMs: deadlineMs,
      deadlineMs,
      publishing: undefined,
      secondTryLeft: true,
      fromCache: false,
      backoffMs: FIRST_BACKOFF_MS,
      refusal: 'device_offline',
    };
    this.#pending.add(call.id, call);
    const route = this.#parts.owners.get(command.code, nowMs);
    if (route !== undefined && this.#parts.nodes.liveness(route.node) !== 'dead') {
      this.#parts.meter.located('cache');
      this.#send(call, route, true, nowMs);
      return;
    }
    void this.#locate(call);
  }

  /** Asks the registry, then sends. Never rejects. */
  async #locate(call: Call): Promise<void> {
    const { registry, owners, keyspace, meter, monotonicMs } = this.#parts;
    const { code } = call.command;
    meter.located('registry');
    try {
      const { provisioned, owner } = await registry.lookUp(code);
      const alive = owner !== undefined && (await this.#alive(owner.node));
      // The sweep or stop() may have ended it meanwhile.
      if (call.phase !== 'locating') return;
      if (!provisioned)
        return this.#refuse(call, 'device_unknown', false, 'no device with this DeviceCode is provisioned');
      if (owner === undefined || !alive) return this.#waitForDevice(call, 'device_offline');
      const nowMs = monotonicMs();
      const route: Route = { node: owner.node, epoch: owner.epoch, channel: keyspace.inbox(owner.node) };
      owners.set(code, route, nowMs);
      this.#send(call, route, false, nowMs);
    } catch (error) {
      if (call.phase === 'done') return;
      if (error instanceof BrokerError && error.code === 'broker_unavailable') {
        this.#refuse(
          call,
          'broker_unavailable',
          call.phase === 'sent',
          'the owner of the device cannot be looked up now',
        );
      } else {
        this.#end(call);
        call.fail(error);
      }
    }
  }

  async #alive(node: NodeId): Promise<boolean> {
    const { nodes } = this.#parts;
    const known = nodes.liveness(node);
    if (known !== 'unknown') return known === 'alive';
    // A node that joined since the last look at the directory.
    await nodes.refresh();
    return nodes.liveness(node) === 'alive';
  }

  #send(call: Call, route: Route, fromCache: boolean, nowMs: number): void {
    const { pubsub, time, instance, meter } = this.#parts;
    const { code, method, url, body } = call.command;
    this.#move(call, 'sent');
    call.fromCache = fromCache;
    call.dueAtMs = call.deadlineMs + this.#limits.replyGraceMs;
    // Known, because no call is taken before it is, and it is never forgotten.
    const deadlineMs = time.nowMs() + (call.deadlineMs - nowMs);
    const frame = encodeCommandFrame({
      id: call.id,
      replyTo: instance,
      code,
      epoch: route.epoch,
      deadlineMs,
      method,
      url,
      body,
    });
    meter.published();
    call.publishing = pubsub.publish(route.channel, frame);
    // Frames that leave together share one promise, so they share one callback too.
    const batch = this.#publishing.get(call.publishing);
    if (batch === undefined) this.#watch(call.publishing, [call]);
    else batch.push(call);
  }

  #watch(publishing: Promise<PublishResult>, batch: Call[]): void {
    this.#publishing.set(publishing, batch);
    void publishing.then((result) => {
      this.#publishing.delete(publishing);
      // `unknown`: it may have arrived. Only the reply or the deadline can tell.
      if (result.status === 'unknown' || (result.status === 'published' && result.receivers > 0)) return;
      const detail =
        result.status === 'not_sent'
          ? 'the call could not leave this process'
          : 'the node of the device does not listen';
      for (const call of batch)
        if (call.phase === 'sent' && call.publishing === publishing) this.#onUndelivered(call, detail);
    });
  }

  /** It is certain that the last publish reached nobody. */
  #onUndelivered(call: Call, detail: string): void {
    this.#parts.owners.delete(call.command.code);
    if (this.#tryAgain(call)) return;
    this.#waitForDevice(call, 'broker_unavailable', detail);
  }

  #onFrame(bytes: Buffer): void {
    const frame = decodeReplyFrame(bytes);
    if (frame === undefined) {
      this.#onNotice(bytes);
      return;
    }
    const call = this.#pending.get(frame.id);
    if (call === undefined) {
      this.#parts.meter.lateReply();
      return;
    }
    if (frame.outcome === 'answered') {
      this.#end(call);
      this.#parts.meter.ended(frame.success ? 'succeeded' : 'failed', this.#parts.monotonicMs() - call.startedAtMs);
      call.settle({ status: 'answered', success: frame.success, responseCode: frame.responseCode, body: frame.body });
      return;
    }
    this.#onRefusal(call, frame.outcome, frame);
  }

  /** What the reply channel brings beside replies to calls. */
  #onNotice(bytes: Buffer): void {
    const ended = decodeEndedFrame(bytes);
    const shown = ended === undefined ? decodeShownFrame(bytes) : undefined;
    if (ended !== undefined) this.#parts.onEnded?.(ended);
    else if (shown !== undefined) this.#parts.onShown?.(shown);
    else this.#parts.meter.foreignFrame();
  }

  #onRefusal(call: Call, outcome: Exclude<ReplyOutcome, 'answered'>, frame: ReplyFrame): void {
    // To the platform a session that moved before the write is a session that was lost (protocol 13.3).
    const error = outcome === 'stale_owner' ? 'device_offline' : outcome;
    if (frame.written) {
      this.#refuse(call, error, true);
      return;
    }
    // The refusal of a try that was given up before.
    if (call.phase !== 'sent') {
      this.#parts.meter.lateReply();
      return;
    }
    const isGone = error === 'device_offline' || error === 'node_draining';
    if (isGone || error === 'broker_unavailable') this.#parts.owners.delete(call.command.code);
    // A fresh look-up that led to `device_offline` would lead there again.
    const mayHaveMoved = outcome === 'stale_owner' || (outcome === 'device_offline' && call.fromCache);
    if (mayHaveMoved && this.#tryAgain(call)) return;
    if (isGone) this.#waitForDevice(call, error);
    else this.#refuse(call, error, false);
  }

  /** The one further look-up that C6 allows when nothing was written. */
  #tryAgain(call: Call): boolean {
    if (!call.secondTryLeft) return false;
    call.secondTryLeft = false;
    this.#parts.meter.retried();
    this.#move(call, 'locating');
    call.dueAtMs = call.deadlineMs;
    void this.#locate(call);
    return true;
  }

  /** Nothing was written and nobody can take it now: look again until the connect timeout is over, then refuse. */
  #waitForDevice(call: Call, error: CommandError, detail?: string): void {
    const nowMs = this.#parts.monotonicMs();
    if (nowMs >= call.connectUntilMs) {
      this.#refuse(call, error, false, detail);
      return;
    }
    this.#move(call, 'away');
    call.refusal = error;
    call.secondTryLeft = true;
    // Jitter, because a thousand calls for the devices of one dead node begin to wait in the same moment.
    call.dueAtMs = Math.min(nowMs + call.backoffMs * (0.5 + this.#parts.random()), call.connectUntilMs);
    call.backoffMs = Math.min(call.backoffMs * 2, LAST_BACKOFF_MS);
  }

  #sweepDue(): void {
    const nowMs = this.#parts.monotonicMs();
    this.#pending.sweep(nowMs, (call) => this.#onDue(call, nowMs));
  }

  #onDue(call: Call, nowMs: number): void {
    if (call.phase === 'sent') {
      this.#refuse(call, 'timeout', true, 'no word from the node of the device before the deadline');
    } else if (call.phase === 'locating') {
      this.#refuse(call, 'timeout_not_sent', false, 'the deadline passed during the look-up');
    } else if (call.command.withdrawn?.() === true) {
      this.#refuse(call, call.refusal, false);
    } else {
      this.#move(call, 'locating');
      // Past connectUntilMs this is the last look; the time for the answer begins with the session.
      call.deadlineMs = nowMs + call.command.timeoutMs;
      call.dueAtMs = call.deadlineMs;
      void this.#locate(call);
    }
  }

  #refuse(call: Call, error: CommandError, written: boolean, detail = DETAILS[error] ?? ''): void {
    this.#end(call);
    this.#parts.meter.ended(error, this.#parts.monotonicMs() - call.startedAtMs);
    call.settle({ status: 'refused', error, written, detail });
  }

  #end(call: Call): void {
    this.#move(call, 'done');
    this.#pending.delete(call.id);
    if (this.#pending.size === 0) this.#idle?.();
  }

  #move(call: Call, to: Phase): void {
    if (!NEXT[call.phase].includes(to))
      throw new BrokerError('internal', `a call cannot go from ${call.phase} to ${to}`);
    call.phase = to;
  }
}
