/** Bounds what large answers that their readers have not taken yet may hold together, over all connections of a server (reliability I4.5). An answer
 *  that passes the bound makes room by dropping those that have been read for longest: who reads is done soon, who does not goes first.
 *  A single answer larger than the bound is served. Pure. */

export interface UnreadAnswer {
  /** Of the whole answer: it is held until the last byte has left. */
  readonly bytes: number;
  /** Drops its connection; must lead to `remove`. */
  drop(): void;
}

export class UnreadAnswers {
  dropped = 0;
  readonly #limitBytes: number;
  /** The oldest first. */
  readonly #answers = new Set<UnreadAnswer>();
  #bytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get bytes(): number {
    return this.#bytes;
  }

  add(answer: UnreadAnswer): void {
    this.#answers.add(answer);
    this.#bytes += answer.bytes;
    for (const oldest of this.#answers) {
      if (this.#bytes <= this.#limitBytes || oldest === answer) return;
      this.dropped++;
      oldest.drop();
      this.remove(oldest);
    }
  }

  /** Idempotent. */
  remove(answer: UnreadAnswer): void {
    if (this.#answers.delete(answer)) this.#bytes -= answer.bytes;
  }
}
