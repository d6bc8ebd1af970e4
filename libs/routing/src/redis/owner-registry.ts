/** OwnerRegistry on Redis: each change is one Lua script on the shard of the device (claim, release, reclaim, reap), which decides, writes
 *  the row and appends the events (I1–I3, protocol D5). Time is Redis TIME throughout, never the clock of this process.
 *  Redis away: every method rejects with `broker_unavailable`, and the script may have run all the same; what that means per method stands
 *  at the port. Replication is not waited for: a failover may forget a claim, and the clock in the epoch keeps the next one above it (I2). */

import { BrokerError, type DeviceCode, type Epoch, type NodeId, type SessionId } from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import { checkAnnotation } from '../annotation.ts';
import { type FlapGuard, flapGuard } from '../flap-guard.ts';
import type {
  AnnotateResult,
  AnnounceResult,
  ClaimRequest,
  ClaimResult,
  HoldReason,
  LookUp,
  NodeEnd,
  Owner,
  OwnerRegistry,
  ReclaimRequest,
  ReclaimResult,
  ReleaseRequest,
  ReleaseResult,
} from '../owner-registry.ts';
import { nodeEndData, onlineData } from '../presence.ts';
import { isMisbehaviour, QUARANTINE, type Quarantine } from '../quarantine.ts';
import { unexpectedReply, words } from './reply.ts';

export interface RedisOwnerRegistryOptions {
  readonly flap?: Partial<FlapGuard>;
  readonly quarantine?: Quarantine;
  /** How long the timeline of a device is kept after the end that `reap` writes into it; 0 or absent = it writes none. */
  readonly timelineMs?: number;
}

const CLAIM = new URL('./claim.lua', import.meta.url);
const RECLAIM = new URL('./reclaim.lua', import.meta.url);
const RELEASE = new URL('./release.lua', import.meta.url);
const ANNOTATE = new URL('./annotate.lua', import.meta.url);
const ANNOUNCE_END = new URL('./announce-end.lua', import.meta.url);
const REAP = new URL('./reap.lua', import.meta.url);

/** One script call blocks its Redis for about 10 µs per device, and twice as long where it writes timelines. */
const REAP_BATCH = 500;
/** Longer than a dead incarnation is listed, also in an installation that is switched off for weeks: what left would be told lost then. */
const REMEMBER_END_MS = 30 * 86_400_000;
/** Events about things that belong to no device lie in the shard of this code. */
const NO_DEVICE = '' as DeviceCode;

export class RedisOwnerRegistry implements OwnerRegistry {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #guard: FlapGuard;
  readonly #quarantine: Quarantine;
  readonly #timelineMs: number;
  readonly #claim: Script;
  readonly #reclaim: Script;
  readonly #release: Script;
  readonly #annotate: Script;
  readonly #announceEnd: Script;

  /** A state connection; the caller opens and closes it. */
  constructor(connection: RedisConnection, keyspace: Keyspace, options: RedisOwnerRegistryOptions = {}) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#guard = flapGuard(options.flap);
    this.#quarantine = options.quarantine ?? QUARANTINE;
    this.#timelineMs = options.timelineMs ?? 0;
    this.#claim = createScript(connection, CLAIM, 5);
    this.#reclaim = createScript(connection, RECLAIM, 5);
    this.#release = createScript(connection, RELEASE, 3);
    this.#annotate = createScript(connection, ANNOTATE, 1);
    this.#announceEnd = createScript(connection, ANNOUNCE_END, 2);
  }

  async claim(request: ClaimRequest): Promise<ClaimResult> {
    const { code, node, session, facts } = request;
    const shard = this.#keyspace.shardOf(code);
    const reply = words(
      await this.#claim(
        [
          this.#keyspace.device(code),
          this.#keyspace.nonce(request.nonce, code),
          this.#keyspace.owned(shard, node),
          this.#keyspace.events(shard),
          this.#keyspace.lane(code),
        ],
        [
          code,
          node,
          session,
          request.revision,
          Math.floor(request.notAfterMs),
          Math.ceil(request.nonceTtlMs),
          facts.address,
          facts.vendor,
          facts.deviceType,
          facts.algorithm,
          onlineData(node, session, facts.address),
          this.#guard.limit,
          this.#guard.windowMs,
          this.#guard.holdMs,
          this.#quarantine.holdMs,
        ],
      ),
    );
    switch (reply[0]) {
      case 'CLAIMED':
        return {
          status: 'claimed',
          epoch: epochOf(reply[1]),
          laneBusy: reply[2] === '1',
          previous: ownerOf(reply.slice(3)),
        };
      case 'HELD':
        return { status: 'held_down', retryAfterMs: Number(reply[1]), reason: (reply[2] ?? '') as HoldReason };
      case 'STALE':
        return { status: 'stale_provisioning' };
      case 'REPLAYED':
        return { status: 'replayed' };
      case 'LATE':
        return { status: 'late' };
      default:
        throw unexpectedReply('claim', reply);
    }
  }

  async reclaim({ code, from, epoch, to, session }: ReclaimRequest): Promise<ReclaimResult> {
    const shard = this.#keyspace.shardOf(code);
    const reply = words(
      await this.#reclaim(
        [
          this.#keyspace.device(code),
          this.#keyspace.owned(shard, from),
          this.#keyspace.owned(shard, to),
          this.#keyspace.events(shard),
          this.#keyspace.lane(code),
        ],
        [code, from, epoch, to, session],
      ),
    );
    if (reply[0] === 'RECLAIMED') {
      return { status: 'reclaimed', epoch: epochOf(reply[1]), laneBusy: reply[2] === '1' };
    }
    if (reply[0] === 'LOST') return { status: 'lost' };
    throw unexpectedReply('reclaim', reply);
  }

  async release({ code, node, epoch, reason }: ReleaseRequest): Promise<ReleaseResult> {
    const shard = this.#keyspace.shardOf(code);
    const [answer] = words(
      await this.#release(
        [this.#keyspace.device(code), this.#keyspace.owned(shard, node), this.#keyspace.events(shard)],
        [
          code,
          node,
          epoch,
          reason,
          isMisbehaviour(reason) ? 1 : 0,
          this.#quarantine.limit,
          this.#quarantine.windowMs,
          this.#quarantine.holdMs,
        ],
      ),
    );
    if (answer === 'RELEASED') return { status: 'released' };
    if (answer === 'QUARANTINED') return { status: 'quarantined' };
    if (answer === 'STALE') return { status: 'stale' };
    throw unexpectedReply('release', [answer ?? '']);
  }

  async annotate(code: DeviceCode, node: NodeId, epoch: Epoch, subscription: string): Promise<AnnotateResult> {
    checkAnnotation(subscription);
    const [answer] = words(await this.#annotate([this.#keyspace.device(code)], [node, epoch, subscription]));
    if (answer === 'NOTED') return { status: 'noted' };
    if (answer === 'STALE') return { status: 'stale' };
    throw unexpectedReply('annotate', [answer ?? '']);
  }

  async lookUp(code: DeviceCode): Promise<LookUp> {
    const key = this.#keyspace.device(code);
    const [revision, ...owner] = await guarded(this.#connection.hmget(key, 'rev', 'node', 'epoch', 'session', 'since'));
    return { provisioned: typeof revision === 'string', owner: ownerOf(owner) };
  }

  async laneBusy(code: DeviceCode): Promise<boolean> {
    return (await guarded(this.#connection.exists(this.#keyspace.lane(code)))) === 1;
  }

  async announceEnd(node: NodeId, end: NodeEnd): Promise<AnnounceResult> {
    const shard = this.#keyspace.shardOf(NO_DEVICE);
    const key = this.#keyspace.ended(shard, node);
    // Before the count, which costs as many reads as the node held devices.
    if ((await guarded(this.#connection.exists(key))) === 1) return { status: 'known' };
    const devices = end === 'lost' ? await this.#countOwned(node) : 0;
    const [answer] = words(
      await this.#announceEnd(
        [key, this.#keyspace.events(shard)],
        [`node.${end}`, nodeEndData(node, end, devices), REMEMBER_END_MS],
      ),
    );
    if (answer === 'ANNOUNCED') return { status: 'announced', devices };
    if (answer === 'KNOWN') return { status: 'known' };
    throw unexpectedReply('announce-end', [answer ?? '']);
  }

  async reap(node: NodeId, limit: number): Promise<{ readonly offline: number; readonly done: boolean }> {
    const shards = Array.from({ length: this.#keyspace.shards }, (_, shard) => this.#reapShard(shard, node, limit));
    const results = await Promise.all(shards);
    return {
      offline: results.reduce((sum, each) => sum + each.offline, 0),
      done: results.every((each) => each.left === 0),
    };
  }

  /** Rows that name the incarnation. Its index alone also holds devices that have gone elsewhere since. */
  async #countOwned(node: NodeId): Promise<number> {
    const counts = Array.from({ length: this.#keyspace.shards }, async (_, shard) => {
      const codes = (await guarded(
        this.#connection.zrange(this.#keyspace.owned(shard, node), 0, '-1'),
      )) as DeviceCode[];
      let count = 0;
      for (let start = 0; start < codes.length; start += REAP_BATCH) {
        const batch = codes.slice(start, start + REAP_BATCH);
        const owners = await Promise.all(
          batch.map((code) => guarded(this.#connection.hget(this.#keyspace.device(code), 'node'))),
        );
        count += owners.filter((owner) => owner === node).length;
      }
      return count;
    });
    return (await Promise.all(counts)).reduce((sum, count) => sum + count, 0);
  }

  async #reapShard(shard: number, node: NodeId, limit: number): Promise<{ offline: number; left: number }> {
    const ownedKey = this.#keyspace.owned(shard, node);
    const codes = (await guarded(this.#connection.zrange(ownedKey, 0, String(limit - 1)))) as DeviceCode[];
    let offline = 0;
    let left = 0;
    for (let start = 0; start < codes.length; start += REAP_BATCH) {
      const batch = codes.slice(start, start + REAP_BATCH);
      const ofDevices = batch.flatMap((code) => [this.#keyspace.device(code), this.#keyspace.timeline(code)]);
      const keys = [ownedKey, this.#keyspace.events(shard), ...ofDevices];
      // The number of keys differs from batch to batch; the text of the script is read once.
      const reap = createScript(this.#connection, REAP, keys.length);
      const reply = words(await reap(keys, [node, this.#timelineMs, ...batch]));
      if (reply[0] !== 'REAPED') throw unexpectedReply('reap', reply);
      offline += Number(reply[1]);
      left = Number(reply[2]);
    }
    return { offline, left };
  }
}

function epochOf(text: string | undefined): Epoch {
  const epoch = Number(text);
  if (!Number.isSafeInteger(epoch)) throw new BrokerError('internal', `the row holds no valid epoch: ${text}`);
  return epoch as Epoch;
}

function ownerOf([node, epoch, session, since]: readonly (string | null)[]): Owner | undefined {
  if (!node) return undefined;
  return {
    node: node as NodeId,
    epoch: epochOf(epoch ?? undefined),
    session: (session ?? '') as SessionId,
    sinceMs: Number(since ?? 0),
  };
}
