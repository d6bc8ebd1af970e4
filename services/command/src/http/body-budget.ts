/** Bounds what the bodies of all requests in progress may hold together, so that many large uploads at once end in 429 instead of in the
 *  death of the process (reliability I4.4, I4.5). A request reserves what it declares before a byte of it is read, or as it grows where it
 *  declares nothing, and gives it back with its answer. Pure. */

export class BodyBudget {
  readonly #limitBytes: number;
  #usedBytes = 0;

  constructor(limitBytes: number) {
    this.#limitBytes = limitBytes;
  }

  get usedBytes(): number {
    return this.#usedBytes;
  }

  reserve(bytes: number): boolean {
    if (this.#usedBytes + bytes > this.#limitBytes) return false;
    this.#usedBytes += bytes;
    return true;
  }

  release(bytes: number): void {
    this.#usedBytes -= bytes;
  }
}
