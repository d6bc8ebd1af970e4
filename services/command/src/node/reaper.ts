/** Announces that a node died, turns its devices offline, in batches, and later forgets the node (design §4). Driven by the looks of NodeWatch.
 *  A claim that a node sent before it died may land after the first pass; so a node is forgotten only after a second pass, when no such
 *  claim can come any more.
 *  Any number of command processes may reap the same node: the registry compares each row, so a device that was claimed elsewhere stays
 *  online (I3). The short lock only saves work; when its holder dies another process goes on as soon as it expires.
 *  A master without replicas, where there should be some, may be one that was replaced and does not know: from it every node looks dead. So
 *  nothing is reaped there.
 *  Store away: what is left is tried again at the next look. */

import type { NodeId } from '@lapi-broker/protocol';
import { guarded, type Keyspace, type RedisConnection, ReplicaBarrier } from '@lapi-broker/redis';
import type { NodeDirectory, NodeView, OwnerRegistry } from '@lapi-broker/routing';

export interface ReaperOptions {
  readonly registry: Pick<OwnerRegistry, 'announceEnd' | 'reap'>;
  readonly directory: Pick<NodeDirectory, 'forget'>;
  /** True if this process may reap the node for the next `ms`. */
  readonly lock: (node: NodeId, ms: number) => Promise<boolean>;
  readonly unlock: (node: NodeId) => Promise<void>;
  /** Has a replica, where there are any, taken the lock? */
  readonly confirmed: (node: NodeId) => Promise<boolean>;
  readonly batch: number;
  readonly monotonicMs: () => number;
  /** Once per dead node, of all processes together; not for one that left. */
  readonly onLost: (node: NodeId, devices: number) => void;
  readonly onReaped: (node: NodeId, offline: number, forgotten: boolean) => void;
  readonly onFailure: (node: NodeId, error: unknown) => void;
}

const LOCK_MS = 5_000;
/** Longer than a claim can be on its way: the deadline of a registration (protocol H12) and as much again. */
const LATE_CLAIM_MS = 10_000;
/** Steps per hold of the lock, so that one huge node cannot keep its holder past the lock's life. */
const MAX_STEPS = 50;

export class Reaper {
  readonly name = 'reaper';
  readonly #options: ReaperOptions;
  readonly #busy = new Map<NodeId, Promise<void>>();
  /** Nodes without devices since then, waiting for their second pass; as many as the directory lists dead. */
  readonly #emptySinceMs = new Map<NodeId, number>();
  #stopped: boolean = false;

  constructor(options: ReaperOptions) {
    this.#options = options;
  }

  /** Begins with those that are dead and not being reaped here; returns at once. */
  look(nodes: readonly NodeView[]): void {
    if (this.#stopped) return;
    const nowMs = this.#options.monotonicMs();
    const listed = new Set(nodes.map(({ node }) => node));
    for (const node of this.#emptySinceMs.keys()) if (!listed.has(node)) this.#emptySinceMs.delete(node);
    for (const { node, alive } of nodes) {
      if (alive || this.#busy.has(node)) continue;
      if (nowMs - (this.#emptySinceMs.get(node) ?? Number.NEGATIVE_INFINITY) < LATE_CLAIM_MS) continue;
      const work = this.#reap(node)
        .catch((error: unknown) => this.#options.onFailure(node, error))
        .finally(() => this.#busy.delete(node));
      this.#busy.set(node, work);
    }
  }

  /** Resolves when nothing is under way. */
  async idle(): Promise<void> {
    await Promise.all(this.#busy.values());
  }

  async stop(): Promise<void> {
    this.#stopped = true;
    await this.idle();
  }

  async #reap(node: NodeId): Promise<void> {
    const { registry, directory, lock, unlock, confirmed, batch, monotonicMs, onLost, onReaped } = this.#options;
    if (!(await lock(node, LOCK_MS))) return;
    if (!(await confirmed(node))) {
      await unlock(node);
      return;
    }
    // Before its devices: whoever asks for nodes only learns of all of them by this one event.
    const announced = await registry.announceEnd(node, 'lost');
    if (announced.status === 'announced') onLost(node, announced.devices);
    let offline = 0;
    let done = false;
    for (let step = 0; step < MAX_STEPS && !done && !this.#stopped; step++) {
      const result = await registry.reap(node, batch);
      offline += result.offline;
      done = result.done;
    }
    const second = this.#emptySinceMs.has(node);
    if (done && !second) this.#emptySinceMs.set(node, monotonicMs());
    if (done && second) await directory.forget(node);
    if (offline > 0 || done) onReaped(node, offline, done && second);
    await unlock(node);
  }
}

/** The lock, as a key with a life time. Its holder writes its own name, and removes only that. */
export function createReapLock(
  connection: RedisConnection,
  keyspace: Keyspace,
  holder: string,
  replicated: boolean,
): Pick<ReaperOptions, 'lock' | 'unlock' | 'confirmed'> {
  const barrier = new ReplicaBarrier(connection, replicated);
  return {
    confirmed: (node) => barrier.confirm(keyspace.lock(`reap-${node}`)),
    lock: async (node, ms) =>
      (await guarded(connection.set(keyspace.lock(`reap-${node}`), holder, 'PX', ms, 'NX'))) === 'OK',
    unlock: async (node) => {
      const key = keyspace.lock(`reap-${node}`);
      // Not atomic, and need not be: the worst is that another process's lock goes early, and both then reap.
      if ((await guarded(connection.get(key))) === holder) await guarded(connection.del(key));
    },
  };
}
