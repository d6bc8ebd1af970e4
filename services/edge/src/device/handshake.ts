/** Registration: GET → 401 with a nonce, signed GET → 101 (protocol §2–5). Order of work, cheap first: path, size, refused addresses,
 *  draining → admission (first GET only: the nonce is the ticket) → nonce → secret → Sign → claim → 101 (H6). Nothing is written to the
 *  store before the Sign is verified; the claim burns the nonce and mints the epoch in one step (4.4).
 *  Every failed second GET looks like a first one (H5, S4); its reason goes to a metric and a log line.
 *  Store away: 503, the nonce stays usable (F16). If the device goes away during the claim, the ownership is released (H7). */

import type { Profile, Profiles } from '@lapi-broker/device';
import type { HeaderList, RequestSnapshot, ResponseHandle, UpgradeHandle } from '@lapi-broker/http';
import {
  type ChallengeShape,
  challengeBody,
  type DeviceCode,
  type Epoch,
  isRegisterPath,
  keepaliveTimeoutS,
  type NonceIssuer,
  type RegisterStep2,
  readRegisterQuery,
  registerAckText,
  resignFor,
  type SessionId,
  type VerifiedSign,
  verifySign,
} from '@lapi-broker/protocol';
import type { RedisClock } from '@lapi-broker/redis';
import type { ClaimResult, OwnerRegistry } from '@lapi-broker/routing';
import type { Clock } from '@lapi-broker/runtime';
import type { Log } from '@lapi-broker/telemetry';
import { nanoid } from 'nanoid';
import { MAX_REGISTRATIONS_IN_PROGRESS, NONCE_MEMORY_SLACK_MS, REGISTRATION_DEADLINE_MS } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';
import type { ClaimUnderWay, Crossings } from '../route/crossing.ts';
import type { Ownership } from '../route/ownership.ts';
import { type AdmissionBucket, LONGEST_HOLD_MS } from './admission.ts';
import { type CredentialCache, type DeviceCredentials, fingerprint } from './credentials.ts';
import type { FailureLog } from './failures.ts';
import { HeldAnswers } from './held-answers.ts';
import { Session, type SessionHost } from './session.ts';
import type { SessionTable } from './session-table.ts';

export interface HandshakeOptions {
  readonly nonces: NonceIssuer;
  readonly nonceTtlMs: number;
  readonly randomBytes: (count: number) => Buffer;
  readonly random: () => number;
  readonly challengeShape: ChallengeShape;
  readonly profiles: Profiles;
  readonly credentials: CredentialCache;
  readonly admission: AdmissionBucket;
  readonly failures: FailureLog;
  readonly registry: OwnerRegistry;
  /** Would the claim just made survive the loss of its Redis server (I2)? */
  readonly claimConfirmed: (code: DeviceCode) => Promise<boolean>;
  readonly ownership: Ownership;
  /** A command waits in a lane of the device (3.2). */
  readonly lookAtLanes: (session: Session) => void;
  readonly crossings: Crossings;
  readonly sessions: SessionTable;
  readonly maxSessions: number;
  readonly host: SessionHost;
  readonly redisClock: RedisClock;
  readonly clock: Clock;
  readonly draining: () => boolean;
  /** A registration under this code was refused; nobody has verified that it came from the device. */
  readonly refused: (code: DeviceCode, reason: RejectReason, address: string) => void;
  readonly metrics: EdgeMetrics;
  readonly log: Log;
}

/** Why a registration was refused: metric label and log fact (protocol 2.6). */
export type RejectReason =
  | 'bad_path'
  | 'bad_method'
  | 'no_upgrade'
  | 'bad_ws_key'
  | 'bad_param'
  | 'duplicate_param'
  | 'nonce_foreign'
  | 'nonce_expired'
  | 'nonce_reused'
  | 'unknown_device'
  | 'disabled'
  | 'bad_sign_format'
  | 'bad_sign'
  | 'rate_limited'
  | 'hold_down'
  | 'quarantine'
  | 'query_too_long'
  | 'body_on_get'
  | 'admission'
  | 'draining'
  | 'store_unavailable'
  | 'deadline';

/** What both kinds of answer have in common: an HTTP answer to a plain GET, or a refused upgrade. */
interface Answer {
  readonly ended: boolean;
  give(status: number, headers: HeaderList, body: string | Uint8Array, close: boolean): void;
}

type Verified =
  | {
      readonly status: 'verified';
      readonly secret: string;
      readonly sign: VerifiedSign;
      readonly credentials: DeviceCredentials;
    }
  | { readonly status: 'refused'; readonly reason: 'unknown_device' | 'disabled' | 'bad_sign' | 'bad_sign_format' };

const JSON_TYPE: HeaderList = [['Content-Type', 'application/json; charset=utf-8']];
const NOT_FOUND = '{"error":"not_found"}';
const MAX_QUERY_BYTES = 2_048;
const RETRY_UNAVAILABLE_S = 5;
const RETRY_LIMITED_S = 30;
/** Answers that are being held back, of either kind, so that a storm of first GETs does not end the delay of failing ones (F13). */
const MAX_HELD_ANSWERS = 5_000;
/** Provisioning that changes faster than a device can be verified against it is refused rather than chased. */
const MAX_VERIFICATIONS = 3;
const LOGGED_REJECTIONS_PER_SECOND = 20;
/** With more second GETs than this in progress, first ones get no nonce. */
const MAX_IN_PROGRESS_FOR_TICKETS = MAX_REGISTRATIONS_IN_PROGRESS * 0.7;

/** Headers that registration looks at; the transport copies only these. */
export const REGISTER_HEADERS = ['upgrade', 'content-length', 'transfer-encoding', 'sec-websocket-key'] as const;

export class Handshake {
  private readonly options: HandshakeOptions;
  /** Signs for devices that do not exist, so that they cost the same work (F10, S4). */
  private readonly decoyKey: Buffer;
  private readonly failing = new HeldAnswers(MAX_HELD_ANSWERS);
  private readonly first = new HeldAnswers(MAX_HELD_ANSWERS);
  private inProgress = 0;
  private loggedInSecond = 0;
  private loggedSecond = 0;

  constructor(options: HandshakeOptions) {
    this.options = options;
    this.decoyKey = options.randomBytes(32);
  }

  /** Second GETs under way, each of which may become a session. */
  get registering(): number {
    return this.inProgress;
  }

  stop(): void {
    this.failing.stop();
    this.first.stop();
  }

  /** A GET that the transport took for a WebSocket handshake, on any path (S1: all but Register is refused). */
  async upgrade(request: RequestSnapshot, upgrade: UpgradeHandle<Session>): Promise<void> {
    const answer: Answer = {
      get ended() {
        return upgrade.ended;
      },
      give: (status, headers, body, close) => upgrade.refuse(status, headers, body, { close }),
    };
    if (!this.passesFirstChecks(request, answer)) return;
    if (!/(^|[\s,])websocket($|[\s,])/i.test(request.header('upgrade'))) {
      this.challenge(request, answer, 'no_upgrade');
      return;
    }
    const query = readRegisterQuery(request.query);
    if (query.status === 'step1') {
      this.firstGet(request, answer);
      return;
    }
    if (query.status === 'rejected') {
      this.fail(request, answer, query.reason, undefined);
      return;
    }
    if (query.sessionIdSeen) this.options.metrics.sessionIdSeen.inc();
    await this.secondGet(request, query, upgrade, answer);
  }

  /** Any other request on the device listener: never verifies anything (H10). */
  plain(request: RequestSnapshot, response: ResponseHandle): void {
    const answer: Answer = {
      get ended() {
        return response.ended;
      },
      give: (status, headers, body, close) => response.send(status, headers, body, { close }),
    };
    if (!this.passesFirstChecks(request, answer)) return;
    const query = readRegisterQuery(request.query);
    if (query.status === 'step1') {
      this.firstGet(request, answer);
      return;
    }
    this.challenge(request, answer, /websocket/i.test(request.header('upgrade')) ? 'bad_ws_key' : 'no_upgrade');
  }

  /** F1, F2, F14, F15, F16: what needs no look at the query. */
  private passesFirstChecks(request: RequestSnapshot, answer: Answer): boolean {
    if (!isRegisterPath(request.path)) {
      this.reject(request, 'bad_path');
      answer.give(404, JSON_TYPE, NOT_FOUND, false);
      return false;
    }
    if (request.method !== 'GET') {
      this.reject(request, 'bad_method');
      answer.give(
        405,
        [['Allow', 'GET'], ...JSON_TYPE],
        request.method === 'HEAD' ? '' : '{"error":"method_not_allowed"}',
        false,
      );
      return false;
    }
    const length = request.header('content-length');
    if ((length !== '' && length !== '0') || request.header('transfer-encoding') !== '') {
      this.reject(request, 'body_on_get');
      answer.give(400, JSON_TYPE, '{"error":"body_on_get"}', true);
      return false;
    }
    if (Buffer.byteLength(request.query ?? '') > MAX_QUERY_BYTES) {
      this.reject(request, 'query_too_long');
      answer.give(400, JSON_TYPE, '{"error":"query_too_long"}', true);
      return false;
    }
    const { failures, clock, draining } = this.options;
    if (failures.refuses(request.address, clock.monotonicMs())) {
      this.limit(request, answer, 'rate_limited', RETRY_LIMITED_S);
      return false;
    }
    if (draining()) {
      this.unavailable(request, answer, 'draining', RETRY_UNAVAILABLE_S);
      return false;
    }
    return true;
  }

  private firstGet(request: RequestSnapshot, answer: Answer): void {
    const { admission, clock, random, sessions, maxSessions, metrics } = this.options;
    const full = sessions.size >= maxSessions;
    const admitted = full
      ? ({ status: 'refused', retryAfterS: RETRY_LIMITED_S, holdMs: random() * LONGEST_HOLD_MS } as const)
      : admission.ask(request.address, clock.monotonicMs(), random());
    const give = (): void => {
      // Asked when the answer leaves, because its ticket comes back at once: one that could not be served is not handed out.
      if (admitted.status === 'admitted' && this.inProgress < MAX_IN_PROGRESS_FOR_TICKETS) {
        metrics.challenges.inc();
        this.giveChallenge(answer);
        return;
      }
      metrics.registerRejected.inc({ reason: 'admission' });
      const retryAfterS = admitted.status === 'refused' ? admitted.retryAfterS : RETRY_UNAVAILABLE_S;
      if (!answer.ended) answer.give(503, [['Retry-After', String(retryAfterS)]], '', true);
    };
    if (this.first.hold(admitted.holdMs, give)) metrics.heldAnswers.inc({ reason: 'load' });
  }

  private async secondGet(
    request: RequestSnapshot,
    query: RegisterStep2,
    upgrade: UpgradeHandle<Session>,
    answer: Answer,
  ): Promise<void> {
    const { nonces, clock } = this.options;
    const verdict = nonces.verify(nonceOf(query), clock.nowMs());
    if (verdict !== 'valid') {
      this.fail(request, answer, verdict, query.code);
      return;
    }
    const { sessions, maxSessions } = this.options;
    // The nonce may come from a node that had room; who has a session here needs no further place.
    if (sessions.size + this.inProgress >= maxSessions && sessions.get(query.code) === undefined) {
      this.unavailable(request, answer, 'admission', RETRY_LIMITED_S, query.code);
      return;
    }
    if (this.inProgress >= MAX_REGISTRATIONS_IN_PROGRESS || !this.options.ownership.mayClaim) {
      this.unavailable(request, answer, 'store_unavailable', RETRY_UNAVAILABLE_S, query.code);
      return;
    }
    this.inProgress++;
    const crossing = this.options.crossings.begin(query.code);
    try {
      await this.register(request, query, upgrade, answer, crossing);
    } catch (error) {
      this.options.log.warn({ err: error, code: query.code }, 'register.failed');
      this.unavailable(request, answer, 'store_unavailable', RETRY_UNAVAILABLE_S, query.code);
    } finally {
      crossing.end();
      this.inProgress--;
    }
  }

  private async register(
    request: RequestSnapshot,
    query: RegisterStep2,
    upgrade: UpgradeHandle<Session>,
    answer: Answer,
    crossing: ClaimUnderWay,
  ): Promise<void> {
    const { ownership, redisClock, registry, nonceTtlMs, credentials: cache } = this.options;
    const startedMs = this.options.clock.monotonicMs();
    const notAfterMs = redisClock.nowMs() + REGISTRATION_DEADLINE_MS;
    for (let round = 0; round < MAX_VERIFICATIONS; round++) {
      const verified = await this.verify(query, round > 0);
      if (verified.status === 'refused') {
        this.fail(request, answer, verified.reason, query.code);
        return;
      }
      const profile = this.profileOf(verified.credentials);
      if (profile.resign === 'cnonce' && this.options.nonces.isOwn(query.cnonce)) {
        // Signing our own nonce back would hand out a valid Sign (T4).
        this.fail(request, answer, 'bad_param', query.code);
        return;
      }
      if (answer.ended) return;
      const node = ownership.node;
      const session = nanoid(12) as SessionId;
      let claim: ClaimResult;
      try {
        claim = await registry.claim({
          code: query.code,
          node,
          session,
          facts: {
            vendor: query.vendor.decoded.toString(),
            deviceType: query.deviceType.decoded.toString(),
            algorithm: query.algorithm?.decoded.toString() ?? '',
            address: request.address,
          },
          nonce: nonceOf(query),
          nonceTtlMs: nonceTtlMs + NONCE_MEMORY_SLACK_MS,
          revision: verified.credentials.revision,
          notAfterMs,
        });
      } catch (error) {
        ownership.claimUncertain(query.code, session, notAfterMs);
        throw error;
      }
      switch (claim.status) {
        case 'claimed':
          // Also if no session comes of it: the old one has lost its row (D3).
          this.closeOlder(query.code, claim.epoch);
          if (claim.previous !== undefined && claim.previous.node !== node)
            ownership.supersede(claim.previous.node, query.code, claim.epoch);
          if (!(await this.options.claimConfirmed(query.code))) {
            void ownership.releaseClaim({ code: query.code, node, epoch: claim.epoch, reason: 'unconfirmed' });
            this.unavailable(request, answer, 'store_unavailable', RETRY_UNAVAILABLE_S, query.code);
            return;
          }
          this.welcome(request, query, upgrade, { verified, profile, claim, session, node, crossing });
          return;
        case 'stale_provisioning':
          cache.forget(query.code);
          continue;
        case 'replayed':
          this.fail(request, answer, 'nonce_reused', query.code);
          return;
        case 'held_down':
          this.limit(
            request,
            answer,
            claim.reason === 'quarantined' ? 'quarantine' : 'hold_down',
            RETRY_LIMITED_S,
            query.code,
          );
          return;
        case 'late':
          this.options.log.warn(
            { code: query.code, tookMs: this.options.clock.monotonicMs() - startedMs },
            'register.late',
          );
          this.unavailable(request, answer, 'deadline', RETRY_UNAVAILABLE_S, query.code);
          return;
      }
    }
    this.unavailable(request, answer, 'deadline', RETRY_UNAVAILABLE_S, query.code);
  }

  /** Tries a remembered copy of the secrets first; any refusal is confirmed with a fresh one. Without a copy the same work is done with the
   *  decoy, so that the time of a refusal does not tell which devices registered lately (S4). */
  private async verify(query: RegisterStep2, fresh: boolean): Promise<Verified> {
    const { credentials: cache, clock } = this.options;
    const remembered = fresh ? undefined : cache.remembered(query.code, clock.monotonicMs());
    const verified = this.verifyWith(query, remembered);
    if (verified.status === 'verified') return verified;
    return this.verifyWith(query, await cache.read(query.code, clock.monotonicMs()));
  }

  private verifyWith(query: RegisterStep2, credentials: DeviceCredentials | undefined): Verified {
    const usable = credentials?.enabled === true ? credentials : undefined;
    const secrets = usable?.secrets ?? [];
    const result = verifySign(query, secrets, this.decoyKey);
    if (credentials === undefined) return { status: 'refused', reason: 'unknown_device' };
    if (usable === undefined) return { status: 'refused', reason: 'disabled' };
    if (result.status !== 'verified') return { status: 'refused', reason: result.status };
    return { status: 'verified', secret: secrets[result.secret] as string, sign: result, credentials: usable };
  }

  private profileOf({ profile: name }: DeviceCredentials): Profile {
    const { profiles, log } = this.options;
    const profile = profiles.get(name);
    if (profile !== undefined) return profile;
    log.warn({ profile: name }, 'profile.unknown');
    return profiles.get('default') as Profile;
  }

  private closeOlder(code: DeviceCode, epoch: Epoch): void {
    const session = this.options.sessions.get(code);
    if (session !== undefined && session.epoch < epoch) session.close(1000, 'superseded', 'superseded');
  }

  private welcome(
    request: RequestSnapshot,
    query: RegisterStep2,
    upgrade: UpgradeHandle<Session>,
    won: {
      readonly verified: Extract<Verified, { status: 'verified' }>;
      readonly profile: Profile;
      readonly claim: Extract<ClaimResult, { status: 'claimed' }>;
      readonly session: SessionId;
      readonly node: Session['node'];
      readonly crossing: ClaimUnderWay;
    },
  ): void {
    const { ownership, metrics, host, log } = this.options;
    const { code } = query;
    const { verified, profile, claim, node } = won;
    const previous = claim.previous;
    if (this.options.draining()) {
      void ownership.releaseClaim({ code, node, epoch: claim.epoch, reason: 'draining' });
      upgrade.refuse(503, [['Retry-After', String(RETRY_UNAVAILABLE_S)]], '', { close: true });
      return;
    }
    const session = new Session(host, {
      code,
      id: won.session,
      node,
      epoch: claim.epoch,
      profile,
      tags: verified.credentials.tags,
      secretFingerprint: fingerprint(verified.secret),
      secret: verified.sign.secret === 0 ? 'current' : 'next',
      previous: previous?.node,
      keepaliveS: keepaliveTimeoutS(code, profile.keepaliveTimeoutS),
      address: request.address,
      acknowledgement: acknowledgement(profile, query, verified),
    });
    if (upgrade.accept(session)) {
      const { secret } = session;
      metrics.registrations.inc({ secret });
      log.info(
        // Not as `secret`: logs hide what is under such a name.
        {
          code,
          session: session.id,
          epoch: session.epoch,
          address: session.address,
          verifiedBy: secret,
          previous: previous?.node,
        },
        'session.opened',
      );
      if (claim.laneBusy) this.options.lookAtLanes(session);
      if (won.crossing.crossed || session.node !== ownership.node) ownership.checkSession(session);
      return;
    }
    // The device went away while the claim was under way (H7).
    void ownership.releaseClaim({ code, node, epoch: claim.epoch, reason: 'closed' });
  }

  private fail(request: RequestSnapshot, answer: Answer, reason: RejectReason, code: DeviceCode | undefined): void {
    this.reject(request, reason, code);
    const { failures, clock, metrics } = this.options;
    const delayMs = failures.record(request.address, code, clock.monotonicMs());
    if (this.failing.hold(delayMs, () => this.giveChallenge(answer))) metrics.heldAnswers.inc({ reason: 'failures' });
  }

  /** F4: a nonce although the request can never become a WebSocket. */
  private challenge(request: RequestSnapshot, answer: Answer, reason: RejectReason): void {
    this.reject(request, reason);
    this.giveChallenge(answer);
  }

  private giveChallenge(answer: Answer): void {
    if (answer.ended) return;
    const { nonces, clock, randomBytes, challengeShape } = this.options;
    answer.give(401, JSON_TYPE, challengeBody(challengeShape, nonces.issue(clock.nowMs(), randomBytes)), false);
  }

  private unavailable(
    request: RequestSnapshot,
    answer: Answer,
    reason: RejectReason,
    retryAfterS: number,
    code?: DeviceCode,
  ): void {
    this.reject(request, reason, code);
    answer.give(503, [['Retry-After', String(retryAfterS)]], '', true);
  }

  private limit(
    request: RequestSnapshot,
    answer: Answer,
    reason: RejectReason,
    retryAfterS: number,
    code?: DeviceCode,
  ): void {
    this.reject(request, reason, code);
    answer.give(429, [['Retry-After', String(retryAfterS)]], '', true);
  }

  /** One log line a rejection, bounded per second so that a flood is not also a flood of lines; the metric counts all. */
  private reject(request: RequestSnapshot, reason: RejectReason, code?: DeviceCode): void {
    this.options.metrics.registerRejected.inc({ reason });
    if (code !== undefined) this.options.refused(code, reason, request.address);
    const second = Math.floor(this.options.clock.monotonicMs() / 1_000);
    if (second !== this.loggedSecond) {
      this.loggedSecond = second;
      this.loggedInSecond = 0;
    }
    if (this.loggedInSecond++ >= LOGGED_REJECTIONS_PER_SECOND) return;
    this.options.log.info(
      { reason, address: request.address, ...(code === undefined ? {} : { code }) },
      'register.rejected',
    );
  }
}

function nonceOf(query: RegisterStep2): string {
  return query.nonce.decoded.toString('latin1');
}

/** Protocol A1–A6. */
function acknowledgement(
  profile: Profile,
  query: RegisterStep2,
  verified: Extract<Verified, { status: 'verified' }>,
): Buffer | undefined {
  if (profile.registerAck === 'none') return undefined;
  if (profile.resign === 'none') return registerAckText(query.cnonce, undefined);
  const resign =
    profile.resign === 'echo' ? verified.sign.sign : resignFor(verified.sign, verified.secret, query.cnonce);
  return registerAckText(query.cnonce, resign);
}
