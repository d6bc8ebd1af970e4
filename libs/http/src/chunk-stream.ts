/** A response of unknown length, written chunk by chunk while the peer reads.
 *  The transport buffers without bound and does not tell how much, so once it reports backpressure further chunks wait here, where they
 *  are counted: at most `maxBufferedBytes`, beyond it the connection is dropped and `onClosed` runs. A stream never blocks another.
 *  A chunk given to `write` must not be changed afterwards. */
import type { StreamHandle } from './types.ts';
import type { NativeResponse } from './uws.ts';

export interface ChunkStreamOwner {
  /** The response was ended by `end()`. */
  ended(): void;
  /** More is waiting than allowed, or the rest cannot come; must abort the stream. */
  drop(): void;
  /** Calls a listener and takes care of what it throws. */
  run(listener: (() => void) | undefined): void;
}

export class ChunkStream implements StreamHandle {
  #raw: NativeResponse | undefined;
  readonly #maxBufferedBytes: number;
  readonly #owner: ChunkStreamOwner;
  #waiting: (string | Uint8Array)[] = [];
  #waitingBytes = 0;
  /** Size of the chunk the transport could not write whole; 0 = it takes more. */
  #stuckBytes = 0;
  #onWritable: (() => boolean) | undefined;
  #drainListener: (() => void) | undefined;
  #closeListener: (() => void) | undefined;

  constructor(raw: NativeResponse | undefined, maxBufferedBytes: number, owner: ChunkStreamOwner) {
    this.#raw = raw;
    this.#maxBufferedBytes = maxBufferedBytes;
    this.#owner = owner;
  }

  get ended(): boolean {
    return this.#raw === undefined;
  }

  write(chunk: string | Uint8Array): boolean {
    const raw = this.#raw;
    const bytes = typeof chunk === 'string' ? Buffer.byteLength(chunk) : chunk.byteLength;
    // An empty chunk would end the response.
    if (raw === undefined || bytes === 0) return this.#stuckBytes === 0;
    if (this.#stuckBytes === 0) {
      raw.cork(() => this.#give(raw, chunk, bytes));
      return this.#stuckBytes === 0;
    }
    if (this.bufferedBytes() + bytes > this.#maxBufferedBytes) {
      this.#owner.drop();
      return false;
    }
    this.#waiting.push(chunk);
    this.#waitingBytes += bytes;
    return false;
  }

  bufferedBytes(): number {
    return this.#waitingBytes + this.#stuckBytes;
  }

  onDrain(callback: () => void): void {
    this.#drainListener = callback;
  }

  onClosed(callback: () => void): void {
    this.#closeListener = callback;
  }

  end(): void {
    const raw = this.#raw;
    if (raw === undefined) return;
    this.#release();
    // What waits goes to the transport's buffer, which is bounded by what was allowed to wait; its idle limit ends a peer that never reads.
    raw.cork(() => {
      for (const chunk of this.#waiting) raw.write(chunk);
      raw.end();
    });
    this.#waiting = [];
    this.#owner.ended();
  }

  abort(): void {
    if (this.#raw !== undefined) this.#owner.drop();
  }

  /** The peer left, or the connection was dropped. */
  aborted(): void {
    if (this.#raw === undefined) return;
    this.#release();
    this.#waiting = [];
    this.#owner.run(this.#closeListener);
  }

  #release(): void {
    this.#raw = undefined;
    this.#waitingBytes = 0;
    this.#stuckBytes = 0;
  }

  #give(raw: NativeResponse, chunk: string | Uint8Array, bytes: number): void {
    if (raw.write(chunk)) return;
    this.#stuckBytes = bytes;
    if (this.#onWritable !== undefined) return;
    this.#onWritable = () => {
      this.#flush(raw);
      return true;
    };
    raw.onWritable(this.#onWritable);
  }

  /** The kernel takes bytes again. */
  #flush(raw: NativeResponse): void {
    if (this.#raw === undefined) return;
    this.#stuckBytes = 0;
    // Corking flushes the transport's own rest too, even when nothing waits here.
    raw.cork(() => {
      let given = 0;
      for (const chunk of this.#waiting) {
        const bytes = typeof chunk === 'string' ? Buffer.byteLength(chunk) : chunk.byteLength;
        given += 1;
        this.#waitingBytes -= bytes;
        this.#give(raw, chunk, bytes);
        if (this.#stuckBytes > 0) break;
      }
      this.#waiting.splice(0, given);
    });
    if (this.#stuckBytes === 0) this.#owner.run(this.#drainListener);
  }
}
