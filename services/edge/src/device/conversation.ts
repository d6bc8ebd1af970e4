/** What a device says, and what it gets for it: every inbound frame of every session passes here (protocol §6–11).
 *  - Any frame is a sign of life (K5). Keepalives are answered from memory, at once, whatever else is broken (K4).
 *  - Every device request gets exactly one response with its own URL and Cseq (E14); notifications after they are stored (V2), the
 *    lossy class at once.
 *  - Identity is the session's DeviceCode; nothing inside a message changes it (S6, V6).
 *  - What cannot be read is counted and ignored; five in a row end the session (E16).
 *  Bytes are views that die with the callback (E8): what is kept is copied first. */

import {
  type DeviceCall,
  dedupKeyOf,
  type EventRecord,
  happenedAt,
  keepaliveText,
  looksUnmasked,
  notificationAnswer,
  readDeviceRequest,
  readEnvelope,
  readNotification,
  responseText,
} from '@lapi-broker/protocol';
import type { Clock } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import type { Outbox, StoreResult } from '../event/outbox.ts';
import type { Picture, Pictures } from '../event/pictures.ts';
import { SubscriptionKeeper, type SubscriptionView } from '../event/subscription-keeper.ts';
import { MAX_MALFORMED_IN_A_ROW } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import type { Frame } from '../timeline/frame-log.ts';
import type { Session, SessionHost } from './session.ts';

const SUCCEED = 0;
const COMMON_ERROR = 1;
const NOT_SUPPORTED = 4;
const EMPTY_DATA = Buffer.from('{}');

export interface ConversationOptions {
  readonly host: SessionHost;
  readonly outbox: Outbox;
  readonly pictures: Pick<Pictures, 'takeOut'>;
  readonly clock: Clock;
  readonly random: () => number;
  readonly subscriptionChanged: (session: Session, view: SubscriptionView) => void;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
}

export class Conversation {
  private readonly options: ConversationOptions;

  constructor(options: ConversationOptions) {
    this.options = options;
  }

  /** The session is open and entered: its subscription begins (U1). */
  begin(session: Session): void {
    const plan = session.profile.subscription;
    if (plan === 'off') return;
    const { host, random, subscriptionChanged } = this.options;
    session.subscription = new SubscriptionKeeper(
      {
        monotonicMs: () => host.monotonicMs(),
        submit: (call) => session.submit(call),
        lookAt: (dueMs) => session.lookAt(dueMs),
        changed: (view) => {
          if (session.isOpen) subscriptionChanged(session, view);
        },
        random,
      },
      plan,
      session.readyAtMs,
    );
    host.wheel.lookAt(session, session.readyAtMs);
  }

  receive(session: Session, bytes: Buffer, isBinary: boolean): void {
    const { host, metrics, clock } = this.options;
    const nowMs = host.monotonicMs();
    if (!session.alive(bytes.length, nowMs)) {
      metrics.frames.inc({ type: 'flood' });
      return;
    }
    const withinRate = session.takeTokens(bytes.length, nowMs);
    if (isBinary) {
      metrics.frames.inc({ type: 'binary' });
      this.note(session, { type: 'binary', bytes: bytes.length });
      return;
    }
    const envelope = readEnvelope(bytes);
    switch (envelope.type) {
      case 'malformed':
        this.note(session, { type: 'malformed', bytes: bytes.length, data: bytes });
        this.malformed(session, bytes, envelope.reason);
        return;
      case 'stray':
        session.malformedInARow = 0;
        metrics.frames.inc({ type: 'stray' });
        this.note(session, { type: 'stray', bytes: bytes.length, data: bytes });
        return;
      case 'response':
        session.malformedInARow = 0;
        metrics.frames.inc({ type: 'response' });
        // Most devices that were asked nothing yet answer our own upkeep here.
        if (session.frameMark >= 0) {
          const { url, responseCode, data } = envelope;
          this.note(session, { type: 'response', bytes: bytes.length, url, responseCode, data });
        }
        if (envelope.cseq === undefined || !session.answered(envelope.cseq, envelope)) metrics.lateResponses.inc();
        return;
      case 'request':
        session.malformedInARow = 0;
        this.request(session, envelope, clock.nowMs(), withinRate, bytes.length);
    }
  }

  private request(session: Session, call: DeviceCall, nowMs: number, withinRate: boolean, bytes: number): void {
    const { metrics } = this.options;
    const request = readDeviceRequest(call.url);
    metrics.frames.inc({ type: request.type });
    if (request.type === 'keepalive') {
      session.keepalives++;
      session.send(keepaliveText(call.url, call.cseq, nowMs, session.keepaliveS));
      return;
    }
    const { url, method } = call;
    this.note(session, { type: 'request', bytes, url, method, data: call.data });
    if (request.type === 'unregister') {
      session.send(responseText({ url: call.url, code: SUCCEED, cseq: call.cseq }));
      session.close(1000, 'unregistered', 'unregistered');
      return;
    }
    if (!withinRate) {
      metrics.overRate.inc();
      this.answer(session, call, COMMON_ERROR);
      return;
    }
    const notification = readNotification(request, call.data);
    const okAnswer = notificationAnswer(request, notification.fields, nowMs, session.profile.timeZone);
    const answerOk = (): void => {
      session.send(
        responseText({
          url: call.url,
          code: request.type === 'unhandled' ? NOT_SUPPORTED : SUCCEED,
          cseq: call.cseq,
          data: okAnswer.data,
          pacsCode: okAnswer.pacsCode,
        }),
      );
    };
    if (request.type === 'heartbeat') {
      answerOk();
      return;
    }
    // Copied: the message's bytes are gone when this callback returns (E8).
    const { data, pictures } = this.options.pictures.takeOut(notification.kind, call.data ?? EMPTY_DATA, nowMs);
    const event: EventRecord = {
      code: session.code,
      kind: notification.kind,
      url: call.url,
      at: happenedAt(notification.fields, nowMs, session.profile.timeZone),
      receivedAt: nowMs,
      epoch: session.epoch,
      session: session.id,
      seq: ++session.eventSeq,
      tags: session.tags,
      dedupKey: dedupKeyOf(session.code, call.url, notification.fields),
      images: '',
      data,
    };
    this.publish(session, call, event, pictures, notification.delivery, answerOk);
  }

  /** V2–V4: stored first and answered then, or answered first where the class or the profile says so. */
  private publish(
    session: Session,
    call: DeviceCall,
    event: EventRecord,
    pictures: readonly Picture[],
    delivery: 'stored' | 'lossy',
    answerOk: () => void,
  ): void {
    const { outbox } = this.options;
    session.usedMs = session.lastFrameMs;
    if (delivery === 'lossy' || session.profile.ackMode === 'immediate') {
      answerOk();
      outbox.store(session, event, () => undefined, pictures);
      return;
    }
    const stored = (result: StoreResult): void => {
      if (result === 'stored') answerOk();
      else this.answer(session, call, COMMON_ERROR);
    };
    outbox.store(session, event, stored, pictures);
  }

  private answer(session: Session, call: DeviceCall, code: number): void {
    this.note(session, { direction: 'out', type: 'response', bytes: 0, url: call.url, responseCode: code });
    session.send(responseText({ url: call.url, code, cseq: call.cseq }));
  }

  private note(session: Session, frame: Omit<Frame, 'atMs' | 'direction'> & Partial<Pick<Frame, 'direction'>>): void {
    const { frames } = this.options.host;
    frames.note(session, { direction: 'in', ...frame, atMs: this.options.host.monotonicMs() });
  }

  private malformed(session: Session, bytes: Buffer, reason: string): void {
    const { metrics, log } = this.options;
    metrics.frames.inc({ type: 'malformed' });
    if (looksUnmasked(bytes)) {
      log.warn({ code: session.code }, 'session.unsupported_firmware');
      session.close(1008, 'frames must be masked', 'unmasked');
      return;
    }
    if (++session.malformedInARow < MAX_MALFORMED_IN_A_ROW) return;
    log.warn({ code: session.code, reason }, 'session.malformed_messages');
    session.close(1007, 'malformed messages', 'bad_json');
  }
}
