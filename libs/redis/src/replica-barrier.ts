/** Answers "has a replica taken what this connection wrote?" with WAIT, where there are replicas (reliability: claims, points of no return).
 *  One WAIT per server is out at a time; who asks meanwhile shares the next one, so a burst of claims costs few round trips.
 *  WAIT holds up everything behind it on its connection: give the barrier a connection that carries only what must be confirmed.
 *  A WAIT speaks for the TCP connection that it is sent on. So a round belongs to one: when that is lost before its WAIT, nothing is confirmed;
 *  on a new one, perhaps to a promoted replica, WAIT would answer at once, for writes that it never saw.
 *  No replica configured: confirmed at once, nothing is asked. Store away: not confirmed. */

import { isCluster, masterOf, type NodeConnection, nodeFor, type RedisConnection, slotOf } from './connection.ts';

const WAIT_MS = 200;

interface Round {
  /** The TCP connection over which its writes went. */
  readonly stream: NodeConnection['stream'];
  readonly result: Promise<boolean>;
}

export class ReplicaBarrier {
  readonly #connection: RedisConnection;
  readonly #replicated: boolean;
  /** By server: the round that may still be joined. */
  readonly #joinable = new Map<string, Round>();
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
    const node = nodeFor(this.#connection, key);
    if (server === undefined || node === undefined) return false;
    const { stream } = node;
    let round = this.#joinable.get(server);
    if (round?.stream !== stream) {
      round = { stream, result: this.#open(server, node, stream) };
      this.#joinable.set(server, round);
    }
    return await round.result;
  }

  #open(server: string, node: NodeConnection, stream: Round['stream']): Promise<boolean> {
    const previous = this.#running.get(server) ?? Promise.resolve();
    const result = previous.then(async () => {
      // From here on further writes are not covered, so nobody may join any more.
      if (this.#joinable.get(server)?.stream === stream) this.#joinable.delete(server);
      if (node.status !== 'ready' || node.stream !== stream) return false;
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
