/** Takes what other processes send to this incarnation: commands for its devices and control messages (design §6).
 *  A command is written at most once: frames with a foreign epoch, past their deadline or with a known id are refused or dropped, and
 *  while the subscription cannot be trusted none is taken (3.3, D7). Every command gets one reply, unless the asking process is gone.
 *  The inbox is a hint: whatever is lost here is found again in the registry. */

import type { FrameSource, PubSub, Subscription } from '@lapi-broker/bus';
import {
  COMMAND_FRAME,
  CONTROL_FRAME,
  type CommandFrame,
  type ControlMessage,
  type DeviceAnswer,
  decodeCommandFrame,
  decodeControlFrame,
  encodeReplyFrame,
  type InstanceId,
  type LapiMethod,
  type NodeId,
  REPLY_HEAD_BYTES,
  type ReplyFrame,
  writeAnswerObject,
  writeReplyHead,
} from '@lapi-broker/protocol';
import type { Keyspace, RedisClock } from '@lapi-broker/redis';
import type { Log } from '@lapi-broker/telemetry';
import type { SessionTable } from '../device/session-table.ts';
import { ENVELOPE_BYTES, MAX_ASKING_PROCESSES, MAX_MESSAGE_BYTES, REMEMBERED_COMMAND_IDS } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import type { Call, CallOutcome } from './inflight.ts';

export interface InboxOptions {
  readonly pubsub: PubSub;
  readonly keyspace: Keyspace;
  readonly sessions: SessionTable;
  readonly redisClock: RedisClock;
  readonly monotonicMs: () => number;
  readonly onControl: (message: ControlMessage) => void;
  /** Frames may have been lost. */
  readonly onGap: () => void;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
}

/** A refusal whose publishing failed goes out again, for as long as a store takes to come back. */
const REPLY_REPEAT_MS = 500;
const REPLY_ATTEMPTS = 20;
const MAX_REPEATED_REPLIES = 10_000;
/** A smaller answer that could not leave is not worth a promise for each: its caller's deadline tells. */
const LARGE_ANSWER_BYTES = 64 * 1024;

const NOTHING = Buffer.alloc(0);
const ANSWERED = { outcome: 'answered' } as const;

/** Which commands were taken, so that a repeat is found: per asking process the last ids, each in the place that follows from its number.
 *  Ids of one process come in order, so this touches memory in order too, where a set of as many would miss the cache several times for
 *  each command. A command that ended unwritten is forgotten: its sender may bring it again under the same id.
 *  Bound: REMEMBERED_COMMAND_IDS places for each of MAX_ASKING_PROCESSES; the process that was not heard of for longest goes. */
class TakenIds {
  private readonly places = new Map<InstanceId, Float64Array>();
  private last: InstanceId | undefined;
  private lastPlaces: Float64Array = new Float64Array(0);

  has(from: InstanceId, id: number): boolean {
    const places = this.placesOf(from);
    return places !== undefined && places[id % REMEMBERED_COMMAND_IDS] === id;
  }

  add(from: InstanceId, id: number): void {
    let places = this.placesOf(from);
    if (places === undefined) {
      if (this.places.size >= MAX_ASKING_PROCESSES) {
        const oldest = this.places.keys().next();
        if (!oldest.done) this.places.delete(oldest.value);
      }
      places = new Float64Array(REMEMBERED_COMMAND_IDS);
      this.places.set(from, places);
    }
    places[id % REMEMBERED_COMMAND_IDS] = id;
  }

  forget(from: InstanceId, id: number): void {
    const places = this.placesOf(from);
    if (places?.[id % REMEMBERED_COMMAND_IDS] === id) places[id % REMEMBERED_COMMAND_IDS] = 0;
  }

  private placesOf(from: InstanceId): Float64Array | undefined {
    if (from === this.last) return this.lastPlaces;
    const places = this.places.get(from);
    if (places === undefined) return undefined;
    // Inserted again, so that the map's order is the order of last use.
    this.places.delete(from);
    this.places.set(from, places);
    this.last = from;
    this.lastPlaces = places;
    return places;
  }
}

/** The reply frame of an answered command, written from the device's message straight into the batch that leaves: an answer may be large. */
class AnsweredFrame implements FrameSource {
  readonly length: number;
  readonly id: number;
  readonly outcome = 'answered';
  readonly written = true;
  readonly success: boolean;
  readonly responseCode: number | undefined;
  private readonly response: DeviceAnswer;

  constructor(id: number, response: DeviceAnswer) {
    this.id = id;
    this.success = response.success;
    this.responseCode = response.responseCode;
    this.response = response;
    this.length = REPLY_HEAD_BYTES + response.text.length - (response.cutEnd - response.cutStart);
  }

  writeTo(target: Buffer, at: number): void {
    writeReplyHead(this, target, at);
    writeAnswerObject(this.response, target, at + REPLY_HEAD_BYTES);
  }
}

/** One command of a platform while it is at this node. A class, so that a command costs one object and no closures. */
class RemoteCall implements Call {
  readonly priority = false;
  readonly method: LapiMethod;
  readonly url: string;
  readonly body: Uint8Array;
  readonly deadlineMs: number;
  private readonly inbox: Inbox;
  private readonly id: number;
  private readonly replyTo: InstanceId;

  constructor(inbox: Inbox, frame: CommandFrame, deadlineMs: number) {
    this.inbox = inbox;
    this.id = frame.id;
    this.replyTo = frame.replyTo;
    this.method = frame.method;
    this.url = frame.url;
    this.body = frame.body;
    this.deadlineMs = deadlineMs;
  }

  settle(outcome: CallOutcome): void {
    if (outcome.outcome === 'answered') {
      this.inbox.pass(this.replyTo, new AnsweredFrame(this.id, outcome.response));
      return;
    }
    if (!outcome.written) this.inbox.forget(this.replyTo, this.id);
    this.inbox.refuse(this.replyTo, this.id, outcome.outcome, outcome.written);
  }
}

export class Inbox {
  private readonly options: InboxOptions;
  private readonly taken = new TakenIds();
  private readonly repeats = new Set<NodeJS.Timeout>();
  private subscription: Subscription | undefined;
  private stopped = false;

  constructor(options: InboxOptions) {
    this.options = options;
  }

  /** Moves to the channel of this incarnation; frames for an earlier one are no longer taken. */
  async listenAs(node: NodeId): Promise<void> {
    const previous = this.subscription;
    this.subscription = await this.options.pubsub.subscribe(
      this.options.keyspace.inbox(node),
      (frame) => this.take(frame),
      this.options.onGap,
    );
    await previous?.close();
  }

  /** What is on its way is still taken, so that its sender hears that nothing was written. */
  async stop(): Promise<void> {
    const subscription = this.subscription;
    this.subscription = undefined;
    await subscription?.close();
    this.stopped = true;
    for (const timer of this.repeats) clearTimeout(timer);
    this.repeats.clear();
  }

  /** An answer of a device. */
  pass(to: InstanceId, frame: AnsweredFrame): void {
    this.options.metrics.commands.inc(ANSWERED);
    // A reply that nobody takes is a process that is gone; its callers are gone with it.
    const published = this.options.pubsub.publish(this.options.keyspace.reply(to), frame);
    if (frame.length < LARGE_ANSWER_BYTES) return;
    // Many large ones at once find no room. Its caller is told at once that the device has answered and the answer is lost.
    const { id } = frame;
    void published.then(({ status }) => {
      if (status === 'not_sent' && !this.stopped) this.refuse(to, id, 'outcome_unknown', true);
    });
  }

  reply(to: InstanceId, frame: ReplyFrame): void {
    this.options.metrics.commands.inc({ outcome: frame.outcome });
    void this.deliver(this.options.keyspace.reply(to), encodeReplyFrame(frame), 0);
  }

  /** Refusals are small and worth repeating: without one the asking process must take the command for written. One that arrives twice is
   *  counted there and dropped. */
  private async deliver(channel: string, frame: Buffer, attempt: number): Promise<void> {
    const result = await this.options.pubsub.publish(channel, frame);
    if (result.status === 'published' || this.stopped) return;
    if (attempt >= REPLY_ATTEMPTS || this.repeats.size >= MAX_REPEATED_REPLIES) return;
    const timer = setTimeout(() => {
      this.repeats.delete(timer);
      void this.deliver(channel, frame, attempt + 1);
    }, REPLY_REPEAT_MS);
    this.repeats.add(timer);
  }

  refuse(to: InstanceId, id: number, outcome: ReplyFrame['outcome'], written: boolean): void {
    this.reply(to, { id, outcome, written, success: false, responseCode: undefined, body: NOTHING });
  }

  forget(to: InstanceId, id: number): void {
    this.taken.forget(to, id);
  }

  private take(bytes: Buffer): void {
    if (bytes[0] === COMMAND_FRAME) {
      const frame = decodeCommandFrame(bytes);
      if (frame !== undefined) {
        this.takeCommand(frame);
        return;
      }
    } else if (bytes[0] === CONTROL_FRAME) {
      const message = decodeControlFrame(bytes);
      if (message !== undefined) {
        this.options.onControl(message);
        return;
      }
    }
    this.options.log.warn({ type: bytes[0], bytes: bytes.length }, 'inbox.foreign_frame');
  }

  private takeCommand(frame: CommandFrame): void {
    const { sessions, redisClock, monotonicMs, pubsub, metrics } = this.options;
    const nowMs = monotonicMs();
    const { replyTo, id } = frame;
    if (this.taken.has(replyTo, id)) {
      // Its first copy has been written, or waits to be.
      metrics.commands.inc({ outcome: 'repeated' });
      return;
    }
    const leftMs = frame.deadlineMs - redisClock.nowMs();
    if (leftMs <= 0) {
      this.refuse(replyTo, id, 'timeout_not_sent', false);
      return;
    }
    if (!pubsub.trustworthy()) {
      this.refuse(replyTo, id, 'broker_unavailable', false);
      return;
    }
    const session = sessions.get(frame.code);
    if (session === undefined || session.epoch !== frame.epoch || !session.isOpen) {
      this.refuse(replyTo, id, 'stale_owner', false);
      return;
    }
    if (session.leaving) {
      this.refuse(replyTo, id, 'node_draining', false);
      return;
    }
    if (frame.body.byteLength + frame.url.length + ENVELOPE_BYTES > MAX_MESSAGE_BYTES) {
      this.refuse(replyTo, id, 'request_too_large', false);
      return;
    }
    this.taken.add(replyTo, id);
    session.submit(new RemoteCall(this, frame, nowMs + leftMs));
  }
}
