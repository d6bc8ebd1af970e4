/** NodeDirectory in this process: for tests and for a broker of one process without Redis. A lease ends when `nowMs` passes its end; no
 *  timer is needed. Grows with the incarnations that nobody forgot. */

import { incarnationOf, type NodeId, nodeNameOf } from '@lapi-broker/protocol';
import type {
  HeardAsk,
  NodeAsk,
  NodeDirectory,
  NodeRecord,
  NodeStatus,
  NodeView,
  RenewResult,
} from '../node-directory.ts';
import { byNode, deadNode, IDLE } from '../node-view.ts';

interface Lease {
  readonly record: NodeRecord;
  readonly status: NodeStatus;
  readonly asked?: HeardAsk;
  readonly beatMs: number;
  readonly endsAtMs: number;
}

export class MemoryNodeDirectory implements NodeDirectory {
  readonly #nowMs: () => number;
  readonly #leases = new Map<string, Lease>();
  /** Every incarnation that was not forgotten → its last beat. */
  readonly #beats = new Map<NodeId, number>();

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  async join(record: NodeRecord, leaseMs: number, status = IDLE): Promise<{ readonly redisTimeMs: number }> {
    const now = this.#now();
    const lease: Lease = { record, status, beatMs: now, endsAtMs: now + leaseMs };
    this.#leases.set(nodeNameOf(record.node), lease);
    this.#beats.set(record.node, now);
    return { redisTimeMs: now };
  }

  async renew(node: NodeId, status: NodeStatus, leaseMs: number, notAfterMs: number): Promise<RenewResult> {
    const now = this.#now();
    const lease = this.#living(node);
    if (lease === undefined) return { status: 'lapsed' };
    if (now > notAfterMs) return { status: 'late' };
    this.#leases.set(nodeNameOf(node), { ...lease, status, beatMs: now, endsAtMs: now + leaseMs });
    this.#beats.set(node, now);
    return { status: 'renewed', redisTimeMs: now, ...(lease.asked === undefined ? {} : { asked: lease.asked }) };
  }

  async ask(node: NodeId, ask: NodeAsk): Promise<'asked' | 'gone'> {
    const lease = this.#living(node);
    if (lease === undefined) return 'gone';
    const number = Math.max((lease.asked?.number ?? 0) + 1, this.#now() * 1_000);
    this.#leases.set(nodeNameOf(node), { ...lease, asked: { ...ask, number } });
    return 'asked';
  }

  async leave(node: NodeId): Promise<void> {
    if (this.#living(node) !== undefined) this.#leases.delete(nodeNameOf(node));
  }

  async list(): Promise<readonly NodeView[]> {
    const views = [...this.#beats].map(([node, beatMs]): NodeView => {
      const lease = this.#living(node);
      if (lease === undefined) return deadNode(node, beatMs);
      return { ...lease.record, ...lease.status, alive: true, lastBeatMs: lease.beatMs };
    });
    return views.sort(byNode);
  }

  async forget(node: NodeId): Promise<boolean> {
    if (this.#living(node) !== undefined) return false;
    this.#beats.delete(node);
    return true;
  }

  #now(): number {
    return Math.floor(this.#nowMs());
  }

  #living(node: NodeId): Lease | undefined {
    const lease = this.#leases.get(nodeNameOf(node));
    if (lease === undefined || incarnationOf(lease.record.node) !== incarnationOf(node)) return undefined;
    return this.#nowMs() < lease.endsAtMs ? lease : undefined;
  }
}
