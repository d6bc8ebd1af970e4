/** NodeDirectory on Redis: one hash per node name that expires with the lease is the truth; the zset `nodes` is a hint in another slot, from
 *  which readers learn the names. So a node that lives may be missing there for a beat, and a dead one stays until it is forgotten.
 *  Redis away: methods reject with `broker_unavailable`; a renewal whose answer was lost may have counted, which is safe. */

import { incarnationOf, type NodeId, nodeNameOf } from '@lapi-broker/protocol';
import { createScript, guarded, type Keyspace, type RedisConnection, type Script } from '@lapi-broker/redis';
import type { NodeDirectory, NodeLoad, NodePhase, NodeRecord, NodeView, RenewResult } from '../node-directory.ts';
import { byNode, deadNode } from '../node-view.ts';
import { unexpectedReply, words } from './reply.ts';

export interface RedisNodeDirectoryOptions {
  /** How many incarnations `list` reads, latest beats first; dead ones beyond it wait until others are forgotten. */
  readonly listLimit?: number;
}

const JOIN = new URL('./join.lua', import.meta.url);
const RENEW = new URL('./renew.lua', import.meta.url);
const LEAVE = new URL('./leave.lua', import.meta.url);

const LIST_LIMIT = 2000;
const FIELDS = ['inc', 'address', 'version', 'started', 'sessions', 'rate', 'lag', 'phase', 'beat'] as const;

export class RedisNodeDirectory implements NodeDirectory {
  readonly #connection: RedisConnection;
  readonly #keyspace: Keyspace;
  readonly #listLimit: number;
  readonly #join: Script;
  readonly #renew: Script;
  readonly #leave: Script;

  /** A state connection; the caller opens and closes it. */
  constructor(
    connection: RedisConnection,
    keyspace: Keyspace,
    { listLimit = LIST_LIMIT }: RedisNodeDirectoryOptions = {},
  ) {
    this.#connection = connection;
    this.#keyspace = keyspace;
    this.#listLimit = listLimit;
    this.#join = createScript(connection, JOIN, 1);
    this.#renew = createScript(connection, RENEW, 1);
    this.#leave = createScript(connection, LEAVE, 1);
  }

  async join(record: NodeRecord, leaseMs: number): Promise<{ readonly redisTimeMs: number }> {
    const { node, address, version, startedAtMs } = record;
    const reply = words(
      await this.#join([this.#key(node)], [incarnationOf(node), address, version, startedAtMs, leaseMs]),
    );
    if (reply[0] !== 'JOINED') throw unexpectedReply('join', reply);
    const redisTimeMs = Number(reply[1]);
    // Awaited: the reaper finds the devices of a node only through this list, so it comes before the first claim.
    await guarded(this.#listed(node, redisTimeMs));
    return { redisTimeMs };
  }

  async renew(
    node: NodeId,
    load: NodeLoad,
    phase: NodePhase,
    leaseMs: number,
    notAfterMs: number,
  ): Promise<RenewResult> {
    const { sessions, registrations, loopLagMs } = load;
    const reply = words(
      await this.#renew(
        [this.#key(node)],
        [incarnationOf(node), leaseMs, Math.floor(notAfterMs), sessions, registrations, loopLagMs, phase],
      ),
    );
    switch (reply[0]) {
      case 'RENEWED': {
        const redisTimeMs = Number(reply[1]);
        // Not awaited: the lease is renewed whatever becomes of the hint, and the next beat repeats it.
        this.#listed(node, redisTimeMs).catch(() => undefined);
        return { status: 'renewed', redisTimeMs };
      }
      case 'LAPSED':
        return { status: 'lapsed' };
      case 'LATE':
        return { status: 'late' };
      default:
        throw unexpectedReply('renew', reply);
    }
  }

  async leave(node: NodeId): Promise<void> {
    const reply = words(await this.#leave([this.#key(node)], [incarnationOf(node)]));
    if (reply[0] !== 'LEFT' && reply[0] !== 'FOREIGN') throw unexpectedReply('leave', reply);
  }

  async list(): Promise<readonly NodeView[]> {
    const scored = await guarded(
      this.#connection.zrevrange(this.#keyspace.nodes(), 0, this.#listLimit - 1, 'WITHSCORES'),
    );
    const beats = pairs(scored);
    const names = [...new Set(beats.map(([node]) => nodeNameOf(node)))];
    const rows = await Promise.all(
      names.map((name) => guarded(this.#connection.hmget(this.#keyspace.node(name), ...FIELDS))),
    );
    const rowOf = new Map(names.map((name, i) => [name, rows[i] ?? []]));
    return beats.map(([node, beatMs]) => view(node, beatMs, rowOf.get(nodeNameOf(node)) ?? [])).sort(byNode);
  }

  /** Two slots, so two steps; nothing can come between them, because a lease that lapsed never lives again. */
  async forget(node: NodeId): Promise<boolean> {
    if ((await guarded(this.#connection.hget(this.#key(node), 'inc'))) === incarnationOf(node)) return false;
    await guarded(this.#connection.zrem(this.#keyspace.nodes(), node));
    return true;
  }

  #key(node: NodeId): string {
    return this.#keyspace.node(nodeNameOf(node));
  }

  #listed(node: NodeId, beatMs: number): Promise<unknown> {
    return this.#connection.zadd(this.#keyspace.nodes(), beatMs, node);
  }
}

/** A flat list of member, score, member, score … */
function pairs(scored: readonly string[]): readonly (readonly [NodeId, number])[] {
  return Array.from(
    { length: scored.length / 2 },
    (_, i) => [scored[2 * i] as NodeId, Number(scored[2 * i + 1])] as const,
  );
}

function view(node: NodeId, beatMs: number, row: readonly (string | null)[]): NodeView {
  const [incarnation, address, version, started, sessions, rate, lag, phase, beat] = row;
  if (incarnation !== incarnationOf(node)) return deadNode(node, beatMs);
  return {
    node,
    address: address ?? '',
    version: version ?? '',
    startedAtMs: Number(started ?? 0),
    sessions: Number(sessions ?? 0),
    registrations: Number(rate ?? 0),
    loopLagMs: Number(lag ?? 0),
    phase: phase === 'draining' ? 'draining' : 'serving',
    alive: true,
    lastBeatMs: Number(beat ?? beatMs),
  };
}
