/** For tests: sessions without sockets on a node whose clock moves when a test says so. */

import type { Profile } from '@lapi-broker/device';
import type { Socket } from '@lapi-broker/http';
import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';
import type { OfflineReason } from '@lapi-broker/routing';
import { createMetrics } from '@lapi-broker/telemetry';
import type { Call } from '../command/inflight.ts';
import { Departures } from '../device/departures.ts';
import { Session, type SessionHost } from '../device/session.ts';
import { SessionTable } from '../device/session-table.ts';
import { Wheel } from '../device/wheel.ts';
import { createEdgeMetrics } from '../metrics.ts';
import { FrameLog } from '../timeline/frame-log.ts';

const PROFILE = { firstRequestDelayMs: 0, inflight: 8, waiting: 8 } as Profile;
const TICK_MS = 50;

export interface Closed {
  readonly code: DeviceCode;
  /** Code of the close frame. */
  readonly frame: number;
  readonly reason: OfflineReason;
}

export class FakeNode {
  nowMs = 1_000;
  readonly sessions = new SessionTable();
  /** Released before they were closed. */
  readonly released: DeviceCode[] = [];
  readonly departures = new Departures(async (session) => {
    if (session.isOpen) this.released.push(session.code);
  });
  readonly closed: Closed[] = [];
  readonly metrics = createEdgeMetrics(createMetrics('edge'));
  readonly monotonicMs = (): number => this.nowMs;
  private readonly host: SessionHost;
  private codes = 0;
  private lastFrame = 0;

  constructor() {
    this.host = {
      frames: new FrameLog(0),
      wheel: new Wheel<Session>(TICK_MS, this.nowMs),
      metrics: this.metrics,
      livenessFloorMs: 86_400_000,
      monotonicMs: this.monotonicMs,
      mayWrite: () => true,
      sessionEnded: (session, reason) => {
        this.sessions.leave(session);
        this.closed.push({ code: session.code, frame: this.lastFrame, reason });
      },
    };
  }

  /** A device registers. */
  open(code = `CAM-${this.codes}` as DeviceCode): Session {
    const session = new Session(this.host, {
      code,
      id: `s${++this.codes}` as SessionId,
      node: 'edge-1.1' as NodeId,
      epoch: 1 as Epoch,
      profile: PROFILE,
      tags: [],
      secretFingerprint: '',
      secret: 'current',
      previous: undefined,
      keepaliveS: 60,
      address: '',
      acknowledgement: undefined,
    });
    session.opened({
      session,
      send: () => 1,
      ping: () => 1,
      end: (frame) => {
        this.lastFrame = frame ?? 0;
        session.ended('closed');
      },
      close: () => session.ended('closed'),
      cork: (work) => work(),
      getBufferedAmount: () => 0,
    } satisfies Socket<Session>);
    this.sessions.enter(session);
    return session;
  }

  /** Ticks as an edge does, with what is under test, and lets what they began go on. */
  async pass(ms: number, look: (nowMs: number) => void): Promise<void> {
    for (const endMs = this.nowMs + ms; this.nowMs < endMs; ) {
      this.nowMs += TICK_MS;
      this.host.wheel.advance(this.nowMs, (session, now) => session.look(now));
      look(this.nowMs);
      await Promise.resolve();
    }
  }
}

/** A call of a platform that tells its outcome. */
export function callTo(settled: (outcome: string) => void = () => undefined): Call {
  return {
    method: 'GET',
    url: '/LAPI/V1.0/System/DeviceInfo',
    body: new Uint8Array(),
    deadlineMs: Number.MAX_SAFE_INTEGER,
    priority: false,
    settle: ({ outcome }) => settled(outcome),
  };
}
