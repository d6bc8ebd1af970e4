/** Keeps this node's lease and the ownership of its sessions: who we are (incarnation), since when it was confirmed, what must be
 *  claimed again or released.
 *  - The lease is renewed every 2 s; a lapsed one is never revived: the node becomes a new incarnation, subscribes the inbox of that
 *    incarnation and re-claims the sessions it still holds, in batches, each by a compare on its epoch (design §4, I3).
 *  - Store away: sockets stay, the fence ends command writes after 7 s, renewal goes on trying; on return the lease is renewed or the
 *    node re-claims. Releases that failed are kept, bounded, and repeated.
 *  - After a gap in the inbox every session is compared with the registry, because a `superseded` may have been lost (3.3), and so may a wake-up
 *    of its lanes.
 *  joining → held ⇄ overdue → lapsed → joining …, or → left. */

import { randomBytes } from 'node:crypto';
import {
  BrokerError,
  type DeviceCode,
  type Epoch,
  type NodeId,
  newNodeId,
  type SessionId,
} from '@lapi-broker/protocol';
import type { RedisClock } from '@lapi-broker/redis';
import type {
  HeardAsk,
  NodeDirectory,
  NodeStatus,
  OfflineReason,
  OwnerRegistry,
  ReclaimResult,
} from '@lapi-broker/routing';
import type { Clock, Part } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import type { Session } from '../device/session.ts';
import type { SessionTable } from '../device/session-table.ts';
import {
  FENCE_AFTER_MS,
  LEASE_BEAT_MS,
  LEASE_MS,
  MAX_PENDING_RELEASES,
  RECLAIM_BATCH,
  RENEWAL_NOT_AFTER_MS,
} from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import { Fence } from './fence.ts';

/** Not ready once the lease is unconfirmed for as long as it lives (3.6). */
const NOT_READY_AFTER_MS = LEASE_MS;

export interface OwnershipOptions {
  readonly nodeName: string;
  readonly address: () => string;
  readonly version: string;
  readonly registry: OwnerRegistry;
  readonly directory: NodeDirectory;
  readonly redisClock: RedisClock;
  readonly clock: Clock;
  readonly sessions: SessionTable;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
  /** What this node says of itself; asked once per beat. */
  readonly status: () => NodeStatus;
  /** What the directory says was asked of this node, with every renewal. */
  readonly asked: (ask: HeardAsk) => void;
  /** Closes the session if its device may not be here any more (G7): the hint that said so may have been lost too. */
  readonly checkProvisioning: (session: Session) => Promise<void>;
  /** False if the message certainly did not leave this process. */
  readonly tellSuperseded: (node: NodeId, code: DeviceCode, epoch: Epoch) => Promise<boolean>;
  /** A command may wait in a lane of the device: the hint that said so may have been lost. */
  readonly lookAtLanes: (session: Session) => void;
  /** Moves the inbox to the channel of this incarnation; resolves when the store has confirmed it. */
  readonly listenAs: (node: NodeId) => Promise<void>;
}

/** A claim whose answer never came. */
interface UncertainClaim {
  readonly code: DeviceCode;
  /** Redis time until which it may still happen. */
  readonly notAfterMs: number;
  /** Why the device is offline if it did. */
  readonly reason: OfflineReason;
}

interface PendingRelease {
  readonly code: DeviceCode;
  readonly node: NodeId;
  readonly epoch: Epoch;
  readonly reason: OfflineReason;
}

export class Ownership implements Part {
  readonly name = 'ownership';
  private readonly options: OwnershipOptions;
  private readonly fence = new Fence(FENCE_AFTER_MS);
  private readonly releases = new Map<string, PendingRelease>();
  private readonly releasing = new Set<Promise<void>>();
  private readonly uncertain = new Map<SessionId, UncertainClaim>();
  private readonly untold = new Map<DeviceCode, { readonly previous: NodeId; readonly epoch: Epoch }>();
  private readonly startedAtMs: number;
  private current: NodeId;
  private state: 'joining' | 'held' | 'lapsed' | 'left' = 'joining';
  private timer: NodeJS.Timeout | undefined;
  private beating: Promise<void> | undefined;
  private checking: Promise<void> | undefined;
  private checkDue = false;

  constructor(options: OwnershipOptions) {
    this.options = options;
    this.startedAtMs = options.clock.nowMs();
    this.current = this.nextIncarnation();
  }

  /** The incarnation under which devices are claimed right now. */
  get node(): NodeId {
    return this.current;
  }

  /** Asked in the tick of every command write (D8). A session of an earlier incarnation may belong to somebody else until it is claimed
   *  again (I3). */
  mayWrite(session: Pick<Session, 'node'>): boolean {
    return this.mayClaim && session.node === this.current;
  }

  /** May devices be claimed under the current incarnation? */
  get mayClaim(): boolean {
    return this.state === 'held' && this.fence.holds(this.options.clock.monotonicMs());
  }

  /** Since when no renewal was confirmed, ms. */
  get leaseAgeMs(): number {
    return this.fence.ageMs(this.options.clock.monotonicMs());
  }

  /** True, or why this node should get no new devices. */
  readiness(): true | string {
    if (this.state !== 'held') return 'lease lapsed';
    return this.fence.ageMs(this.options.clock.monotonicMs()) < NOT_READY_AFTER_MS ? true : 'lease not confirmed';
  }

  async start(): Promise<void> {
    await this.join();
    this.timer = setInterval(() => void this.beat(), LEASE_BEAT_MS);
  }

  /** Says it in the directory now, and not only with the next beat. */
  async announce(): Promise<void> {
    await this.beating;
    await this.beat();
  }

  async stop(): Promise<void> {
    clearInterval(this.timer);
    this.timer = undefined;
    await this.repeatAllReleases().catch((error: unknown) => this.options.log.warn({ err: error }, 'release.given_up'));
    const wasHeld = this.state === 'held';
    this.state = 'left';
    this.fence.lapse();
    if (wasHeld) await this.leave();
  }

  /** Says goodbye first: a node whose lease is gone without one is taken for lost. */
  private async leave(): Promise<void> {
    const { registry, directory, log } = this.options;
    await registry
      .announceEnd(this.current, 'left')
      .catch((error: unknown) => log.warn({ err: error }, 'node.end_not_announced'));
    await directory.leave(this.current);
  }

  /** Ends the ownership of a session; repeated later if the store is away. */
  release(session: Session, reason: OfflineReason): Promise<void> {
    return this.releaseClaim({ code: session.code, node: session.node, epoch: session.epoch, reason });
  }

  /** Ends an ownership whose session never opened (H7). */
  releaseClaim(release: PendingRelease): Promise<void> {
    const releasing = this.tryRelease(release).finally(() => this.releasing.delete(releasing));
    this.releasing.add(releasing);
    return releasing;
  }

  /** Resolves when no release is under way any more. */
  async settled(): Promise<void> {
    while (this.releasing.size > 0) await Promise.all(this.releasing);
  }

  private async tryRelease(release: PendingRelease): Promise<void> {
    try {
      const { status } = await this.options.registry.release(release);
      if (status === 'quarantined') this.options.log.warn({ code: release.code }, 'device.quarantined');
    } catch (error) {
      this.options.log.warn({ err: error }, 'release.deferred');
      // A device that flaps while the store is away needs its last release only.
      const known = this.releases.get(release.code);
      if (known !== undefined && known.epoch > release.epoch) return;
      if (known !== undefined || this.releases.size < MAX_PENDING_RELEASES) this.releases.set(release.code, release);
    }
  }

  /** A claim that failed without an answer may happen until `notAfterMs` (Redis time): it is looked up after that, and released. */
  claimUncertain(
    code: DeviceCode,
    session: SessionId,
    notAfterMs: number,
    reason: OfflineReason = 'unconfirmed',
  ): void {
    if (this.uncertain.size < MAX_PENDING_RELEASES) this.uncertain.set(session, { code, notAfterMs, reason });
  }

  /** Compares one session with the store: closed if somebody else has the device, claimed again if its incarnation is over. */
  checkSession(session: Session): void {
    this.checkOne(session).catch((error: unknown) => {
      this.options.log.warn({ err: error }, 'session.check_failed');
      void this.checkSessions();
    });
  }

  /** Tells the node that held the device before. A hint (3.3): one that certainly did not leave is sent again by the beats. */
  supersede(previous: NodeId, code: DeviceCode, epoch: Epoch): void {
    void this.options.tellSuperseded(previous, code, epoch).then((left) => {
      if (left) this.untold.delete(code);
      else if (this.untold.size < MAX_PENDING_RELEASES) this.untold.set(code, { previous, epoch });
    });
  }

  /** Under the current incarnation; the session is closed if somebody else has the device. One that is leaving may have been released already:
   *  claimed again, its device would be shown online, and take over from a session that lives where it goes. */
  private async claimAgain(session: Session): Promise<void> {
    if (session.leaving) return;
    const { registry, metrics, redisClock } = this.options;
    const { code, node: from, epoch, id } = session;
    const to = this.current;
    let result: ReclaimResult;
    try {
      result = await registry.reclaim({ code, from, epoch, to, session: id });
    } catch (error) {
      // It may have happened; if the session ends before it is tried again, nothing else would release it.
      this.claimUncertain(code, id, redisClock.nowMs(), 'closed');
      throw error;
    }
    metrics.reclaims.inc({ result: result.status });
    if (result.status === 'lost') {
      session.close(1000, 'claimed elsewhere', 'fenced');
      return;
    }
    const gone = !session.isOpen;
    session.node = to;
    session.epoch = result.epoch;
    if (gone) await this.release(session, session.reason ?? 'closed');
    else if (result.laneBusy) this.options.lookAtLanes(session);
  }

  /** After a gap in the inbox: what was claimed elsewhere is closed, what belongs to an earlier incarnation is claimed again, and lanes are
   *  looked at. A check that is asked for while one runs follows it; one that failed is repeated by the beat, once the lease is confirmed again. */
  checkSessions(): Promise<void> {
    this.checkDue = true;
    this.checking ??= this.checkWhileDue().finally(() => {
      this.checking = undefined;
    });
    return this.checking;
  }

  private nextIncarnation(): NodeId {
    const random = randomBytes(3).toString('hex');
    return newNodeId(this.options.nodeName, this.options.clock.nowMs(), random);
  }

  private async join(): Promise<void> {
    const { directory, clock, redisClock, address, version, status } = this.options;
    this.state = 'joining';
    // The inbox first: whoever finds this incarnation in a row must be able to reach it.
    await this.options.listenAs(this.current);
    const sentMs = clock.monotonicMs();
    const joined = await directory.join(
      { node: this.current, address: address(), version, startedAtMs: this.startedAtMs },
      LEASE_MS,
      status(),
    );
    const receivedMs = clock.monotonicMs();
    redisClock.observe(joined.redisTimeMs, sentMs, receivedMs);
    this.state = 'held';
    this.fence.confirm(sentMs, receivedMs);
    this.options.log.info({ node: this.current }, 'lease.taken');
  }

  private beat(): Promise<void> {
    if (this.state === 'left') return Promise.resolve();
    this.beating ??= this.takeBeat().finally(() => {
      this.beating = undefined;
    });
    return this.beating;
  }

  private async takeBeat(): Promise<void> {
    try {
      if (this.state === 'held') await this.renew();
      if (this.state === 'lapsed' || this.state === 'joining') await this.rejoin();
      // Not awaited: with many sessions it takes longer than a beat, and the lease must be renewed meanwhile.
      if (this.checkDue) void this.checkSessions();
      for (const [code, { previous, epoch }] of [...this.untold].slice(0, RECLAIM_BATCH))
        this.supersede(previous, code, epoch);
      await this.repeatReleases();
    } catch (error) {
      // Store away: the fence does the rest, the next beat tries again.
      this.options.log.warn({ err: error, state: this.state }, 'lease.not_renewed');
    }
  }

  private async renew(): Promise<void> {
    const { directory, clock, redisClock, status, asked } = this.options;
    const sentMs = clock.monotonicMs();
    const notAfterMs = redisClock.nowMs() + RENEWAL_NOT_AFTER_MS;
    const result = await directory.renew(this.current, status(), LEASE_MS, notAfterMs);
    const receivedMs = clock.monotonicMs();
    if (result.status === 'renewed') {
      redisClock.observe(result.redisTimeMs, sentMs, receivedMs);
      this.fence.confirm(sentMs, receivedMs);
      if (result.asked !== undefined) asked(result.asked);
    } else if (result.status === 'lapsed') {
      this.fence.lapse();
      this.state = 'lapsed';
      this.options.metrics.fence.inc();
      this.options.log.warn({ node: this.current }, 'lease.lapsed');
    }
  }

  private async rejoin(): Promise<void> {
    // Only a lapsed incarnation is replaced; a join that failed half way is repeated as it was.
    if (this.state === 'lapsed') this.current = this.nextIncarnation();
    await this.join();
    this.checkDue = true;
  }

  /** Until none is left, or the store does not take one: what stays would be told as lost with the node. */
  private async repeatAllReleases(): Promise<void> {
    do await this.repeatReleases();
    while (this.releases.size > 0);
  }

  private async repeatReleases(): Promise<void> {
    if (this.releases.size === 0 && this.uncertain.size === 0) return;
    const nowMs = this.options.redisClock.nowMs() - this.options.redisClock.maxErrorMs();
    const uncertain = [...this.uncertain].filter(([, { notAfterMs }]) => notAfterMs < nowMs).slice(0, RECLAIM_BATCH);
    const results = await Promise.allSettled([
      ...[...this.releases.values()].slice(0, RECLAIM_BATCH).map((release) => this.repeatRelease(release)),
      ...uncertain.map(([session, { code, reason }]) => this.settleUncertain(session, code, reason)),
    ]);
    const failed = results.find((result) => result.status === 'rejected');
    if (failed !== undefined) throw failed.reason;
  }

  private async repeatRelease(release: PendingRelease): Promise<void> {
    await this.options.registry.release(release);
    if (this.releases.get(release.code) === release) this.releases.delete(release.code);
  }

  private async settleUncertain(session: SessionId, code: DeviceCode, reason: OfflineReason): Promise<void> {
    const { owner } = await this.options.registry.lookUp(code);
    this.uncertain.delete(session);
    if (owner?.session === session && this.options.sessions.get(code)?.id !== session) {
      await this.releaseClaim({ code, node: owner.node, epoch: owner.epoch, reason });
    }
  }

  private async checkWhileDue(): Promise<void> {
    while (this.checkDue && this.state === 'held') {
      this.checkDue = false;
      if (!(await this.checkAll())) {
        this.checkDue = true;
        return;
      }
    }
  }

  /** False if the store did not answer: the rest would fail the same way. What is wrong with one device alone stops nobody else. */
  private async checkAll(): Promise<boolean> {
    const { sessions, log } = this.options;
    const all = [...sessions.values()];
    for (let i = 0; i < all.length; i += RECLAIM_BATCH) {
      const results = await Promise.allSettled(
        all.slice(i, i + RECLAIM_BATCH).map((session) => this.checkOne(session)),
      );
      const failures = results.filter((result) => result.status === 'rejected').map(({ reason }) => reason as unknown);
      const away = failures.find((error) => error instanceof BrokerError && error.code === 'broker_unavailable');
      const shown = away ?? failures[0];
      if (shown !== undefined)
        log.warn({ err: shown, checked: i, failed: failures.length, total: all.length }, 'sessions.check_failed');
      if (away !== undefined) return false;
    }
    if (all.length > 0) log.info({ sessions: all.length }, 'sessions.checked');
    return true;
  }

  private async checkOne(session: Session): Promise<void> {
    if (!session.isOpen) return;
    if (session.node === this.current) await this.checkOwner(session);
    else await this.claimAgain(session);
    if (session.isOpen) await this.options.checkProvisioning(session);
  }

  private async checkOwner(session: Session): Promise<void> {
    const { registry, lookAtLanes } = this.options;
    const [{ owner }, laneBusy] = await Promise.all([registry.lookUp(session.code), registry.laneBusy(session.code)]);
    if (!session.isOpen || session.node !== this.current) return;
    if (owner === undefined) {
      // Reaped, or the row was lost with the store's last writes: the same compare as after a fence decides.
      await this.claimAgain(session);
    } else if (owner.epoch > session.epoch) {
      session.close(1000, 'claimed elsewhere', 'superseded');
    } else if (owner.session !== session.id) {
      // The store fell back behind our claim; a new registration puts it right.
      session.close(1000, 'claim forgotten', 'fenced');
    } else if (laneBusy) lookAtLanes(session);
  }
}
