/** Keeps a view of the node directory that is about a second old, so that a look-up can tell a living owner from a dead one without
 *  asking the store each time. One read of O(nodes) per interval, whatever the number of devices (reliability D2).
 *  Dead is final (a lapsed lease never lives again); alive may be one interval old, which the epoch check of the node covers (I3).
 *  Store away: the view ages; past `staleMs` it answers `unknown`, and `refresh` fails with `broker_unavailable`. */

import type { NodeId } from '@lapi-broker/protocol';
import type { NodeDirectory, NodeView } from '@lapi-broker/routing';

export interface NodeWatchOptions {
  readonly directory: Pick<NodeDirectory, 'list'>;
  readonly intervalMs: number;
  readonly staleMs: number;
  readonly monotonicMs: () => number;
  /** 0 ≤ x < 1. */
  readonly random: () => number;
  /** After each successful look. */
  readonly onView?: (nodes: readonly NodeView[]) => void;
  readonly onFailure?: (error: unknown) => void;
}

export class NodeWatch {
  readonly name = 'node-watch';
  readonly #options: NodeWatchOptions;
  #nodes: readonly NodeView[] = [];
  #alive = new Map<NodeId, boolean>();
  #seenAtMs = Number.NEGATIVE_INFINITY;
  #running: Promise<void> | undefined;
  #next: Promise<void> | undefined;
  #timer: NodeJS.Timeout | undefined;
  #stopped: boolean = false;

  constructor(options: NodeWatchOptions) {
    this.#options = options;
  }

  async start(): Promise<void> {
    await this.refresh();
    this.#schedule();
  }

  stop(): void {
    this.#stopped = true;
    clearTimeout(this.#timer);
  }

  get nodes(): readonly NodeView[] {
    return this.#nodes;
  }

  liveness(node: NodeId): 'alive' | 'dead' | 'unknown' {
    const alive = this.#alive.get(node);
    if (alive === false) return 'dead';
    if (alive === undefined || this.#stale()) return 'unknown';
    return 'alive';
  }

  /** Joins a look that has not begun yet, never one under way: that one may have missed what the caller saw before. */
  refresh(): Promise<void> {
    if (this.#next !== undefined) return this.#next;
    if (this.#running === undefined) {
      this.#running = this.#look().finally(() => {
        this.#running = undefined;
      });
      return this.#running;
    }
    this.#next = this.#running
      .catch(() => undefined) // Reported to those who wait for that look.
      .then(() => {
        this.#next = undefined;
        return this.refresh();
      });
    return this.#next;
  }

  #stale(): boolean {
    return this.#options.monotonicMs() - this.#seenAtMs > this.#options.staleMs;
  }

  async #look(): Promise<void> {
    const startedAtMs = this.#options.monotonicMs();
    const nodes = await this.#options.directory.list();
    this.#nodes = nodes;
    this.#alive = new Map(nodes.map(({ node, alive }) => [node, alive]));
    this.#seenAtMs = startedAtMs;
    this.#options.onView?.(nodes);
  }

  #schedule(): void {
    if (this.#stopped) return;
    // Jitter, so that command processes started together do not read together for ever.
    const waitMs = this.#options.intervalMs * (0.9 + 0.2 * this.#options.random());
    this.#timer = setTimeout(() => {
      this.refresh()
        .catch((error: unknown) => this.#options.onFailure?.(error))
        .finally(() => this.#schedule());
    }, waitMs);
  }
}
