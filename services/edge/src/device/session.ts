/** One WebSocket of one device, from the 101 to its end: its identity and epoch, its calls, its liveness, its way to the socket.
 *  open → closed, once; `close` names the reason that presence.offline will carry. Each session is looked at through the node's wheel:
 *  there is no timer, closure or buffer per socket, because a node holds tens of thousands (≤ 2 KB each).
 *  The socket object throws once closed, so only this file touches it. What a frame means is decided in conversation.ts. */

import type { Profile } from '@lapi-broker/device';
import type { SendResult, Socket } from '@lapi-broker/http';
import { type DeviceCode, type Epoch, type NodeId, requestText, type SessionId } from '@lapi-broker/protocol';
import type { OfflineReason } from '@lapi-broker/routing';
import { type Call, Inflight, type Line, type WriteResult } from '../command/inflight.ts';
import type { LaneRunner } from '../command/lane-runner.ts';
import type { SubscriptionKeeper } from '../event/subscription-keeper.ts';
import {
  BUSY_SEND_BUFFER_BYTES,
  BYTES_BURST,
  BYTES_PER_SECOND,
  FLOOD_BYTES_BURST,
  FLOOD_BYTES_PER_SECOND,
  FLOOD_FRAMES_BURST,
  FLOOD_FRAMES_PER_SECOND,
  MESSAGES_BURST,
  MESSAGES_PER_SECOND,
} from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import type { FrameLog, Speaker } from '../timeline/frame-log.ts';
import type { Timed, Wheel } from './wheel.ts';

/** What a session needs of its node. */
export interface SessionHost {
  readonly wheel: Wheel<Session>;
  readonly metrics: EdgeMetrics;
  /** The last messages of the sessions. */
  readonly frames: FrameLog;
  readonly livenessFloorMs: number;
  monotonicMs(): number;
  /** The fence (D8): was the lease confirmed recently enough to write to devices? Asked right before every command write. */
  mayWrite(session: Session): boolean;
  /** Called once, when the socket is gone. */
  sessionEnded(session: Session, reason: OfflineReason): void;
}

export interface SessionFacts {
  readonly code: DeviceCode;
  readonly id: SessionId;
  readonly node: NodeId;
  readonly epoch: Epoch;
  readonly profile: Profile;
  readonly tags: readonly string[];
  /** The secret that verified the Sign, to end the session when it is revoked (G7). */
  readonly secretFingerprint: string;
  /** Which of the two active ones that is. */
  readonly secret: 'current' | 'next';
  /** The node that had the device until this session. */
  readonly previous: NodeId | undefined;
  /** Seconds until the device's next keepalive, as told to it (K3). */
  readonly keepaliveS: number;
  readonly address: string;
  /** First message of the session, if the profile has one (A1). */
  readonly acknowledgement: Buffer | undefined;
}

/** Protocol K6. */
function livenessThresholdMs(keepaliveS: number, floorMs: number): number {
  return Math.max(2_500 * keepaliveS, floorMs);
}

export class Session implements Timed, Line, Speaker {
  wheelSlot = -1;
  frameMark = -1;
  dueMs = 0;
  readonly code: DeviceCode;
  readonly id: SessionId;
  readonly profile: Profile;
  readonly secretFingerprint: string;
  readonly secret: 'current' | 'next';
  readonly previous: NodeId | undefined;
  readonly keepaliveS: number;
  readonly address: string;
  /** Incarnation and epoch under which it is served; a re-claim after a fence changes both. */
  node: NodeId;
  epoch: Epoch;
  tags: readonly string[];
  acknowledgement: Buffer | undefined;
  subscription: SubscriptionKeeper | undefined;
  /** Only while a command waits for the device, or is out. */
  lanes: LaneRunner | undefined;
  eventSeq = 0;
  /** Its device is being sent elsewhere: it takes no further call. */
  leaving = false;
  /** When it was last used for a call of a platform or for an event, monotonic ms. */
  usedMs = 0;
  unstoredEvents = 0;
  malformedInARow = 0;
  /** Calls were written, but never a valid response came: with a transport error it is firmware that does not mask (E5 b). */
  callsWritten = 0;
  responsesReceived = 0;
  openedMs = 0;
  lastFrameMs = 0;
  keepalives = 0;
  private readonly host: SessionHost;
  private socket: Socket<Session> | undefined;
  private calls: Inflight | undefined;
  private endReason: OfflineReason | undefined;
  private messageTokens = MESSAGES_BURST;
  private byteTokens = BYTES_BURST;
  private tokensMs = 0;
  private floodFrames = FLOOD_FRAMES_BURST;
  private floodBytes = FLOOD_BYTES_BURST;
  private floodMs = 0;

  constructor(host: SessionHost, facts: SessionFacts) {
    this.host = host;
    this.code = facts.code;
    this.id = facts.id;
    this.node = facts.node;
    this.epoch = facts.epoch;
    this.profile = facts.profile;
    this.tags = facts.tags;
    this.secretFingerprint = facts.secretFingerprint;
    this.secret = facts.secret;
    this.previous = facts.previous;
    this.keepaliveS = facts.keepaliveS;
    this.address = facts.address;
    this.acknowledgement = facts.acknowledgement;
  }

  get isOpen(): boolean {
    return this.socket !== undefined;
  }

  /** Why the session ended or is ending; undefined while nobody here decided to end it. */
  get reason(): OfflineReason | undefined {
    return this.endReason;
  }

  get readyAtMs(): number {
    return this.openedMs + this.profile.firstRequestDelayMs;
  }

  get pendingCalls(): number {
    return this.calls?.pendingCount ?? 0;
  }

  /** Nothing is out, waits or is being stored: ending it now would cut nothing off. */
  get isIdle(): boolean {
    const calls = this.pendingCalls + (this.calls?.waitingCount ?? 0);
    return calls === 0 && (this.lanes?.unfinished ?? 0) === 0 && this.unstoredEvents === 0;
  }

  /** Does the device not keep up with reading? Then it takes no further call. */
  get congested(): boolean {
    return (this.socket?.getBufferedAmount() ?? 0) > BUSY_SEND_BUFFER_BYTES;
  }

  /** Asks for a look at this time; not once it is over. */
  lookAt(dueMs: number): void {
    if (this.socket !== undefined) this.host.wheel.lookAt(this, dueMs);
  }

  /** The socket is open: the acknowledgement goes first (A1). */
  opened(socket: Socket<Session>): void {
    const nowMs = this.host.monotonicMs();
    this.socket = socket;
    this.openedMs = nowMs;
    this.usedMs = nowMs;
    this.lastFrameMs = nowMs;
    this.tokensMs = nowMs;
    this.floodMs = nowMs;
    if (this.acknowledgement !== undefined) socket.send(this.acknowledgement, false);
    this.acknowledgement = undefined;
    this.host.wheel.lookAt(
      this,
      this.subscription?.dueMs ?? nowMs + livenessThresholdMs(this.keepaliveS, this.host.livenessFloorMs),
    );
  }

  /** Sends a response or notification answer. False if the session is over or its buffer is full; then it ends (D16). */
  send(message: Buffer): boolean {
    const socket = this.socket;
    if (socket === undefined) return false;
    const result: SendResult = socket.send(message, false);
    if (result !== 2) return true;
    this.host.metrics.sendDropped.inc();
    this.close(1008, 'send buffer full', 'overflow');
    return false;
  }

  submit(call: Call): void {
    const nowMs = this.host.monotonicMs();
    if (call.isUpkeep !== true) this.usedMs = nowMs;
    this.calls ??= new Inflight(this, this.profile.inflight, this.profile.waiting, this.readyAtMs);
    this.calls.submit(call, nowMs);
    if (this.socket === undefined) return;
    const { readyAtMs } = this;
    this.host.wheel.lookAt(this, nowMs < readyAtMs ? Math.min(call.deadlineMs, readyAtMs) : call.deadlineMs);
  }

  /** Protocol C6, C7, D8, D16: the fence is asked in the same tick as the write. */
  write(call: Call, cseq: number): WriteResult {
    const socket = this.socket;
    if (socket === undefined) return 'closed';
    if (this.congested) return 'busy';
    if (!this.host.mayWrite(this) || (call.epoch ?? this.epoch) !== this.epoch) return 'fenced';
    const result = socket.send(requestText({ url: call.url, method: call.method, cseq, data: call.body }), false);
    if (result === 2) {
      this.host.metrics.sendDropped.inc();
      // After this tick, so that the call is settled as not written before the session ends.
      queueMicrotask(() => this.close(1008, 'send buffer full', 'overflow'));
      return 'busy';
    }
    this.callsWritten++;
    if (call.isUpkeep !== true) {
      this.host.frames.note(this, {
        atMs: this.host.monotonicMs(),
        direction: 'out',
        type: 'request',
        bytes: call.body.byteLength,
        method: call.method,
        url: call.url,
        data: call.body,
      });
    }
    return 'written';
  }

  /** Hands an answer to the call that waits for it; false for a foreign or finished Cseq. */
  answered(cseq: number, response: Parameters<Inflight['answer']>[1]): boolean {
    this.responsesReceived++;
    return this.calls?.answer(cseq, response, this.host.monotonicMs()) ?? false;
  }

  refuseWaiting(outcome: 'node_draining' | 'broker_unavailable'): void {
    this.calls?.refuseWaiting(outcome);
  }

  /** Does the device keep within its message and byte rate (S11)? */
  takeTokens(bytes: number, nowMs: number): boolean {
    const seconds = (nowMs - this.tokensMs) / 1_000;
    this.tokensMs = nowMs;
    this.messageTokens = Math.min(MESSAGES_BURST, this.messageTokens + seconds * MESSAGES_PER_SECOND) - 1;
    this.byteTokens = Math.min(BYTES_BURST, this.byteTokens + seconds * BYTES_PER_SECOND) - bytes;
    // A debt is kept, but not deeper than one burst: who slows down is served again soon.
    const within = this.messageTokens >= 0 && this.byteTokens >= 0;
    this.messageTokens = Math.max(this.messageTokens, -MESSAGES_BURST);
    this.byteTokens = Math.max(this.byteTokens, -BYTES_BURST);
    return within;
  }

  /** A frame of any kind came: a sign of life (K5). False if it was one too many for a device; then the session ends (S11), because one
   *  that floods takes the time of all others. */
  alive(bytes: number, nowMs: number): boolean {
    this.lastFrameMs = nowMs;
    const seconds = (nowMs - this.floodMs) / 1_000;
    this.floodMs = nowMs;
    this.floodFrames = Math.min(FLOOD_FRAMES_BURST, this.floodFrames + seconds * FLOOD_FRAMES_PER_SECOND) - 1;
    this.floodBytes = Math.min(FLOOD_BYTES_BURST, this.floodBytes + seconds * FLOOD_BYTES_PER_SECOND) - bytes;
    if (this.floodFrames >= 0 && this.floodBytes >= 0) return true;
    this.close(1008, 'too many frames', 'overflow');
    return false;
  }

  /** Does everything that is due; answers when the next look is needed (monotonic ms). */
  look(nowMs: number): number {
    if (this.socket === undefined) return Number.POSITIVE_INFINITY;
    const silentAtMs = this.lastFrameMs + livenessThresholdMs(this.keepaliveS, this.host.livenessFloorMs);
    if (nowMs >= silentAtMs) {
      this.close(1000, 'no sign of life', 'liveness_timeout');
      return Number.POSITIVE_INFINITY;
    }
    const callsMs = this.calls?.look(nowMs) ?? Number.POSITIVE_INFINITY;
    const subscriptionMs = this.subscription?.look(nowMs) ?? Number.POSITIVE_INFINITY;
    const lanesMs = this.lanes?.look(nowMs) ?? Number.POSITIVE_INFINITY;
    return this.socket === undefined
      ? Number.POSITIVE_INFINITY
      : Math.min(silentAtMs, callsMs, subscriptionMs, lanesMs);
  }

  /** Ends the session from this side; the first reason counts. Never waits for the device (D7). */
  close(code: number, text: string, reason: OfflineReason): void {
    this.endReason ??= reason;
    this.socket?.end(code, text);
  }

  /** Drops the connection without a close frame. */
  drop(reason: OfflineReason): void {
    this.endReason ??= reason;
    this.socket?.close();
  }

  /** The socket is gone; called by the transport, once. */
  ended(reason: OfflineReason): void {
    if (this.socket === undefined) return;
    this.socket = undefined;
    this.endReason ??= reason;
    this.host.wheel.remove(this);
    this.subscription = undefined;
    this.calls?.end();
    this.lanes = undefined;
    this.host.sessionEnded(this, this.endReason);
  }
}
