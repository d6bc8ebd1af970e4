/** Answers "has a replica taken what this connection wrote?" with WAIT, where there are replicas (reliability: claims, points of no return).
 *  One WAIT per server is out at a time; who asks meanwhile shares the next one, so a burst of claims costs few round trips.
 *  WAIT holds up everything behind it on its connection: give the barrier a connection that carries only what must be confirmed.
 *  No replica configured: confirmed at once, nothing is asked. Store away: not confirmed. */

import { isCluster, masterOf, nodeFor, type RedisConnection, slotOf } from './connection.ts';

const WAIT_MS = 200;

export class ReplicaBarrier {
  readonly #connection: RedisConnection;
  readonly #replicated: boolean;
  /** By server: the round that may still be joined. */
  readonly #joinable = new Map<string, Promise<boolean>>();
  readonly #running = new Map<string, Promise<unknown>>();

  /** `replicated`: is this a deployment with replicas? A Cluster is asked per slot. */
  constructor(connection: RedisConnection, replicated: boolean) {
    this.#connection = connection;
    this.#replicated = replicated;
  }

  /** True when at least one replica has every write that this connection made to the server of `key` before the call. Never rejects. */
  async confirm(key: string): Promise<boolean> {
    if (!this.#hasReplica(key)) return true;
    const server = masterOf(this.#connection, key);
    if (server === undefined) return false;
    let round = this.#joinable.get(server);
    if (round === undefined) {
      round = this.#open(server, key);
      this.#joinable.set(server, round);
    }
    return await round;
  }

  #open(server: string, key: string): Promise<boolean> {
    const previous = this.#running.get(server) ?? Promise.resolve();
    const result = previous.then(async () => {
      // From here on further writes are not covered, so nobody may join any more.
      this.#joinable.delete(server);
      const node = nodeFor(this.#connection, key);
      if (node === undefined) return false;
      try {
        return (await node.wait(1, WAIT_MS)) >= 1;
      } catch {
        return false; // Connection lost or timed out: the write may or may not survive a failover.
      }
    });
    this.#running.set(server, result);
    return result;
  }

  #hasReplica(key: string): boolean {
    if (!this.#replicated || !isCluster(this.#connection)) return this.#replicated;
    return (this.#connection.slots[slotOf(key)]?.length ?? 1) > 1;
  }
}
