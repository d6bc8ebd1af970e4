/** OwnerRegistry in this process: for tests and for a broker of one process without Redis. Same promises as RedisOwnerRegistry (I1–I3), as
 *  long as the process lives. Each method decides and changes in one synchronous step, so calls never interleave inside.
 *  Provisioning is not kept here; `provisioning` reads it (MemoryDeviceStore has it). Events go to `append`, in order.
 *  Grows with the devices that ever claimed, of which the provisioned ones are the bound; nonces leave when they expire. */

import {
  BrokerError,
  type DeviceCode,
  type Epoch,
  type EventRecord,
  type NodeId,
  type SessionId,
} from '@lapi-broker/protocol';
import { checkAnnotation } from '../annotation.ts';
import { type FlapGuard, flapGuard, type TakeOver, takeOver } from '../flap-guard.ts';
import type {
  AnnotateResult,
  AnnounceResult,
  ClaimRequest,
  ClaimResult,
  Hold,
  LookUp,
  NodeEnd,
  OfflineReason,
  Owner,
  OwnerRegistry,
  ReclaimRequest,
  ReclaimResult,
  ReleaseRequest,
  ReleaseResult,
  SessionFacts,
} from '../owner-registry.ts';
import { holdData, nodeEndData, offlineData, onlineData, quarantineData } from '../presence.ts';
import { countEnds, isMisbehaviour, QUARANTINE, type Quarantine } from '../quarantine.ts';

/** What the registry must know about a device's provisioning. */
export interface KnownProvisioning {
  readonly revision: number;
  readonly enabled: boolean;
  readonly tags: readonly string[];
}

export interface MemoryOwnerRegistryOptions {
  /** Undefined = not provisioned. */
  readonly provisioning: (code: DeviceCode) => KnownProvisioning | undefined;
  readonly append: (event: EventRecord) => void;
  readonly nowMs: () => number;
  readonly flap?: Partial<FlapGuard>;
  readonly quarantine?: Quarantine;
  /** Does a command of the device wait, or is one out? Default: never. */
  readonly laneBusy?: (code: DeviceCode) => boolean;
}

/** The session part of a device row, for whoever lists devices. */
export interface SessionRow {
  readonly owner: Owner | undefined;
  readonly facts: SessionFacts | undefined;
  readonly lastOffline: { readonly reason: OfflineReason; readonly atMs: number } | undefined;
  /** Over once its time has passed. */
  readonly hold: Hold | undefined;
  /** What `annotate` noted of the running session; empty if nothing. */
  readonly subscription: string;
}

interface Row {
  /** Stays when the owner goes (I2). */
  readonly epoch: number;
  readonly owner: Owner | undefined;
  readonly facts: SessionFacts | undefined;
  readonly lastOffline: SessionRow['lastOffline'];
  readonly subscription: string;
  readonly hold: Hold | undefined;
  readonly takeOvers: readonly TakeOver[];
  /** When sessions ended for misbehaviour, oldest first. */
  readonly badEndsMs: readonly number[];
}

/** Whoever asks for what became of a node does so for as long as its incarnation is listed. */
const REMEMBER_END_MS = 30 * 86_400_000;
const NO_DEVICE = { code: '' as DeviceCode, epoch: 0 as Epoch, session: '' as const };

const EMPTY_ROW: Row = {
  epoch: 0,
  owner: undefined,
  facts: undefined,
  lastOffline: undefined,
  subscription: '',
  hold: undefined,
  takeOvers: [],
  badEndsMs: [],
};

export class MemoryOwnerRegistry implements OwnerRegistry {
  readonly #options: MemoryOwnerRegistryOptions;
  readonly #guard: FlapGuard;
  readonly #quarantine: Quarantine;
  readonly #rows = new Map<DeviceCode, Row>();
  /** Used nonces → expiry, oldest first. */
  readonly #nonces = new Map<string, number>();
  readonly #owned = new Map<NodeId, Set<DeviceCode>>();
  /** Incarnations whose end was announced → when that is forgotten, oldest first. */
  readonly #ended = new Map<NodeId, number>();

  constructor(options: MemoryOwnerRegistryOptions) {
    this.#options = options;
    this.#guard = flapGuard(options.flap);
    this.#quarantine = options.quarantine ?? QUARANTINE;
  }

  async claim(request: ClaimRequest): Promise<ClaimResult> {
    const { code, node, session, facts, revision, notAfterMs } = request;
    const now = this.#options.nowMs();
    if (now > notAfterMs) return { status: 'late' };
    const known = this.#options.provisioning(code);
    if (known === undefined || known.revision !== revision || !known.enabled) return { status: 'stale_provisioning' };
    if (this.#isUsed(request, now)) return { status: 'replayed' };

    const row = this.#rows.get(code) ?? EMPTY_ROW;
    const hold = this.#lasting(row.hold, now);
    if (hold !== undefined && (row.owner !== undefined || hold.reason === 'quarantined')) {
      return { status: 'held_down', reason: hold.reason, retryAfterMs: hold.untilMs - Math.floor(now) };
    }
    let { takeOvers } = row;
    if (row.owner !== undefined) {
      const result = takeOver(takeOvers, this.#guard, { atMs: Math.floor(now), address: facts.address });
      if ('hold' in result) return this.#holdDown(code, row, row.owner, result.hold, facts.address, now);
      takeOvers = result.passed;
    }
    const epoch = mint(row.epoch, now);
    this.#nonces.set(nonceKey(request), now + request.nonceTtlMs);
    this.#rows.set(code, {
      ...row,
      epoch,
      owner: { node, epoch, session, sinceMs: Math.floor(now) },
      facts,
      hold,
      takeOvers,
      subscription: '',
    });
    this.#ownedBy(node).add(code);
    if (row.owner !== undefined) this.#offline(code, row.owner, 'superseded', now);
    this.#online(code, { node, epoch, session }, facts.address, now);
    return { status: 'claimed', epoch, previous: row.owner, laneBusy: this.#isLaneBusy(code) };
  }

  async reclaim({ code, from, epoch: oldEpoch, to, session }: ReclaimRequest): Promise<ReclaimResult> {
    const now = this.#options.nowMs();
    const row = this.#rows.get(code) ?? EMPTY_ROW;
    const { owner } = row;
    const laneBusy = this.#isLaneBusy(code);
    if (owner?.node === to && owner.session === session) return { status: 'reclaimed', epoch: owner.epoch, laneBusy };
    if (row.epoch !== oldEpoch || (owner !== undefined && owner.node !== from)) return { status: 'lost' };
    if (this.#options.provisioning(code)?.enabled !== true) return { status: 'lost' };
    const kept = row.hold?.reason === 'quarantined' && now < row.hold.untilMs;
    if (owner === undefined && kept) return { status: 'lost' };

    const epoch = mint(row.epoch, now);
    this.#rows.set(code, { ...row, epoch, owner: { node: to, epoch, session, sinceMs: Math.floor(now) } });
    this.#disown(from, code);
    this.#ownedBy(to).add(code);
    if (owner !== undefined) this.#offline(code, owner, 'fenced', now);
    this.#online(code, { node: to, epoch, session }, row.facts?.address ?? '', now);
    return { status: 'reclaimed', epoch, laneBusy };
  }

  async release({ code, node, epoch, reason }: ReleaseRequest): Promise<ReleaseResult> {
    const row = this.#rows.get(code) ?? EMPTY_ROW;
    const { owner } = row;
    if (owner?.node !== node) {
      this.#disown(node, code);
      return { status: 'stale' };
    }
    if (owner.epoch !== epoch) return { status: 'stale' };
    this.#disown(node, code);
    if (isMisbehaviour(reason)) return this.#endBadly(code, row, owner, reason);
    this.#end(code, row, owner, reason);
    return { status: 'released' };
  }

  async annotate(code: DeviceCode, node: NodeId, epoch: Epoch, subscription: string): Promise<AnnotateResult> {
    checkAnnotation(subscription);
    const row = this.#rows.get(code);
    if (row?.owner?.node !== node || row.owner.epoch !== epoch) return { status: 'stale' };
    this.#rows.set(code, { ...row, subscription });
    return { status: 'noted' };
  }

  async lookUp(code: DeviceCode): Promise<LookUp> {
    return { provisioned: this.#options.provisioning(code) !== undefined, owner: this.#rows.get(code)?.owner };
  }

  async laneBusy(code: DeviceCode): Promise<boolean> {
    return this.#isLaneBusy(code);
  }

  async announceEnd(node: NodeId, end: NodeEnd): Promise<AnnounceResult> {
    const now = this.#options.nowMs();
    for (const [known, until] of this.#ended) if (until < now) this.#ended.delete(known);
    if (this.#ended.has(node)) return { status: 'known' };
    this.#ended.set(node, now + REMEMBER_END_MS);
    const held = this.owned(node).filter((code) => this.#rows.get(code)?.owner?.node === node);
    const devices = end === 'lost' ? held.length : 0;
    this.#say(NO_DEVICE, `node.${end}`, nodeEndData(node, end, devices), now);
    return { status: 'announced', devices };
  }

  /** One process, one shard: `limit` is the number of devices. */
  async reap(node: NodeId, limit: number): Promise<{ readonly offline: number; readonly done: boolean }> {
    let offline = 0;
    for (const code of [...(this.#owned.get(node) ?? [])].slice(0, limit)) {
      const row = this.#rows.get(code);
      if (row?.owner?.node === node) {
        this.#end(code, row, row.owner, 'node_lost');
        offline++;
      }
      this.#disown(node, code);
    }
    return { offline, done: !this.#owned.has(node) };
  }

  sessionOf(code: DeviceCode): SessionRow | undefined {
    return this.#rows.get(code);
  }

  /** Codes in the index of this incarnation: a superset of what it owns. */
  owned(node: NodeId): readonly DeviceCode[] {
    return [...(this.#owned.get(node) ?? [])];
  }

  /** Raises the last epoch of a device that has no owner, as if the clock had been ahead before. */
  raiseEpoch(code: DeviceCode, epoch: Epoch): void {
    const row = this.#rows.get(code) ?? EMPTY_ROW;
    if (row.owner !== undefined || epoch < row.epoch) {
      throw new BrokerError('internal', `the epoch of ${code} can only be raised, and only without an owner`);
    }
    this.#rows.set(code, { ...row, epoch });
  }

  /** One that is further away than any lasts was made before the clock went back. */
  #lasting(hold: Hold | undefined, now: number): Hold | undefined {
    if (hold === undefined || now >= hold.untilMs) return undefined;
    const longestMs = Math.max(this.#guard.holdMs, this.#quarantine.holdMs);
    return hold.untilMs - now <= longestMs ? hold : undefined;
  }

  #isLaneBusy(code: DeviceCode): boolean {
    return this.#options.laneBusy?.(code) ?? false;
  }

  #holdDown(code: DeviceCode, row: Row, owner: Owner, hold: Hold, address: string, now: number): ClaimResult {
    this.#rows.set(code, { ...row, hold, takeOvers: [] });
    const data = holdData(hold, this.#guard, address, row.facts?.address ?? '');
    this.#say({ code, ...owner }, `device.${hold.reason}`, data, now);
    return { status: 'held_down', reason: hold.reason, retryAfterMs: hold.untilMs - Math.floor(now) };
  }

  #endBadly(code: DeviceCode, row: Row, owner: Owner, reason: OfflineReason): ReleaseResult {
    const now = this.#options.nowMs();
    const badEndsMs = countEnds(row.badEndsMs, this.#quarantine, Math.floor(now));
    if (badEndsMs.length <= this.#quarantine.limit) {
      this.#end(code, { ...row, badEndsMs }, owner, reason);
      return { status: 'released' };
    }
    const address = row.facts?.address ?? '';
    const untilMs = Math.floor(now) + this.#quarantine.holdMs;
    const hold: Hold = { reason: 'quarantined', untilMs, addresses: [address] };
    this.#end(code, { ...row, hold, badEndsMs: [] }, owner, 'quarantined');
    const data = quarantineData(reason, this.#quarantine, untilMs, address);
    this.#say({ code, ...owner }, 'device.quarantined', data, now);
    return { status: 'quarantined' };
  }

  #end(code: DeviceCode, row: Row, owner: Owner, reason: OfflineReason): void {
    const now = this.#options.nowMs();
    this.#rows.set(code, {
      ...row,
      owner: undefined,
      subscription: '',
      lastOffline: { reason, atMs: Math.floor(now) },
    });
    this.#offline(code, owner, reason, now);
  }

  #isUsed(request: ClaimRequest, now: number): boolean {
    for (const [key, expiresAt] of this.#nonces) {
      if (expiresAt > now) break;
      this.#nonces.delete(key);
    }
    return (this.#nonces.get(nonceKey(request)) ?? 0) > now;
  }

  #ownedBy(node: NodeId): Set<DeviceCode> {
    let codes = this.#owned.get(node);
    if (codes === undefined) {
      codes = new Set();
      this.#owned.set(node, codes);
    }
    return codes;
  }

  #disown(node: NodeId, code: DeviceCode): void {
    const codes = this.#owned.get(node);
    codes?.delete(code);
    if (codes?.size === 0) this.#owned.delete(node);
  }

  #online(code: DeviceCode, owner: Omit<Owner, 'sinceMs'>, address: string, now: number): void {
    this.#say({ code, ...owner }, 'presence.online', onlineData(owner.node, owner.session, address), now);
  }

  #offline(code: DeviceCode, owner: Owner, reason: OfflineReason, now: number): void {
    this.#say({ code, ...owner }, 'presence.offline', offlineData(reason, owner.node), now);
  }

  #say(
    { code, epoch, session }: { code: DeviceCode; epoch: Epoch; session: SessionId | '' },
    kind: string,
    data: string,
    now: number,
  ): void {
    const tags = this.#options.provisioning(code)?.tags ?? [];
    this.#options.append({
      code,
      kind,
      url: '',
      at: Math.floor(now),
      receivedAt: Math.floor(now),
      epoch,
      session,
      seq: 0,
      tags,
      dedupKey: '',
      images: '',
      data: Buffer.from(data),
    });
  }
}

/** Above every earlier epoch, and near the clock so that a registry that forgot its last writes still grows (I2, D1). */
function mint(last: number, nowMs: number): Epoch {
  const epoch = Math.max(last + 1, Math.floor(nowMs * 1000));
  // Above 2^53 adding 1 changes nothing, and two ownerships would share an epoch (I1).
  if (epoch <= last) throw new BrokerError('internal', 'no higher epoch left');
  return epoch as Epoch;
}

function nonceKey({ nonce, code }: ClaimRequest): string {
  return `${nonce}:${code}`;
}
