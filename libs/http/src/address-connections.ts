/** Answers "how many connections that are not WebSockets are open from this address?" (protocol S10).
 *  Exact for connections with a request in progress and for those that never got an answer. A connection that waits after an answer is
 *  counted by a lease, because the transport does not say whose connection closed then: the lease ends when a close without an owner
 *  takes the youngest one, or after LEASE_MS, by which time the transport has closed an idle connection itself. So an error neither
 *  builds up nor lasts, and no count is ever stuck.
 *  The clock is a parameter. Memory: one small object per open connection and per idle one of the last LEASE_MS. */

/** The transport closes a connection 10 to 14 s after its last complete request or answer (protocol H13). */
export const LEASE_MS = 14_000;

interface AddressCount {
  readonly address: string;
  inProgress: number;
  /** Youngest last. */
  readonly leases: Lease[];
}

interface Lease {
  readonly owner: AddressCount;
  readonly expiresMs: number;
  live: boolean;
}

export class AddressConnections {
  readonly #nowMs: () => number;
  readonly #addresses = new Map<string, AddressCount>();
  /** All leases, in order of expiry; ended ones stay until an end of the list or a compaction reaches them. */
  #order: Lease[] = [];
  #ended = 0;
  /** Closes whose connection is not known, not yet charged to a lease. */
  #ownerless = 0;

  constructor(nowMs: () => number) {
    this.#nowMs = nowMs;
  }

  from(address: string): number {
    this.#settle();
    const count = this.#addresses.get(address);
    return count === undefined ? 0 : count.inProgress + count.leases.length;
  }

  opened(address: string): void {
    this.#lease(this.#countOf(address));
  }

  /** A connection ended; by itself this says nothing about whose. */
  closed(): void {
    this.#ownerless += 1;
  }

  /** Follows `closed` when the connection had not been answered yet. */
  closedUnanswered(address: string): void {
    this.#ownerless -= 1;
    const count = this.#countOf(address);
    this.#endYoungestOf(count);
    this.#forgetIfEmpty(count);
  }

  requestStarted(address: string): void {
    const count = this.#countOf(address);
    this.#endYoungestOf(count);
    count.inProgress += 1;
  }

  /** Answered; the connection is idle, or about to close. */
  requestAnswered(address: string): void {
    const count = this.#countOf(address);
    count.inProgress -= 1;
    this.#lease(count);
  }

  /** Follows `closed` when the peer left before the answer. */
  requestAborted(address: string): void {
    this.#ownerless -= 1;
    this.upgraded(address);
  }

  /** The connection is a WebSocket from here on. */
  upgraded(address: string): void {
    const count = this.#countOf(address);
    count.inProgress -= 1;
    this.#forgetIfEmpty(count);
  }

  #countOf(address: string): AddressCount {
    const known = this.#addresses.get(address);
    if (known !== undefined) return known;
    const count: AddressCount = { address, inProgress: 0, leases: [] };
    this.#addresses.set(address, count);
    return count;
  }

  #forgetIfEmpty(count: AddressCount): void {
    if (count.inProgress === 0 && count.leases.length === 0) this.#addresses.delete(count.address);
  }

  #lease(owner: AddressCount): void {
    this.#settle();
    const lease = { owner, expiresMs: this.#nowMs() + LEASE_MS, live: true };
    owner.leases.push(lease);
    this.#order.push(lease);
    // A settle above may have emptied and forgotten the owner.
    this.#addresses.set(owner.address, owner);
  }

  #endYoungestOf(count: AddressCount): void {
    const lease = count.leases.pop();
    if (lease === undefined) return;
    lease.live = false;
    this.#ended += 1;
  }

  #settle(): void {
    for (; this.#ownerless > 0; this.#ownerless -= 1) {
      this.#dropEndedTail();
      const youngest = this.#order.at(-1);
      if (youngest === undefined) continue;
      this.#endYoungestOf(youngest.owner);
      this.#forgetIfEmpty(youngest.owner);
    }
    this.#dropEndedTail();
    this.#expire();
    if (this.#ended > 1024 && this.#ended * 2 > this.#order.length) {
      this.#order = this.#order.filter((lease) => lease.live);
      this.#ended = 0;
    }
  }

  #dropEndedTail(): void {
    while (this.#order.at(-1)?.live === false) {
      this.#order.pop();
      this.#ended -= 1;
    }
  }

  #expire(): void {
    const nowMs = this.#nowMs();
    for (const lease of this.#order) {
      if (lease.expiresMs > nowMs) return;
      if (!lease.live) continue;
      lease.live = false;
      this.#ended += 1;
      // Leases of one owner stand in the same order, so the oldest is the first.
      lease.owner.leases.shift();
      this.#forgetIfEmpty(lease.owner);
    }
  }
}
