/** Large frames beside the channel: how a publication says where one lies, and how they are left and fetched. One at a time each way, because on
 *  the same connection everything else waits behind what is on its way.
 *  Bounded: what waits to be left by the bytes that a publisher may hold, what waits to be fetched by number; a further one is given up, as one is
 *  that lies there no more. Redis away: given up after the time-out of a command. */

import { keep, type NodeConnection, type RedisConnection } from '@lapi-broker/redis';

/** Where a batch has the length of its first frame: no frame is so long. */
const MARK = 0xffff_ffff;
const MARK_BYTES = 4;
/** Of a foreign slip nothing longer is made a key. */
const MAX_SLIP_BYTES = 64;
const MAX_WAITING = 1_024;
/** How long it lies there; what it belongs to has a deadline anyway. */
const KEPT_SECONDS = 30;

/** Names a place beside the channel only: whoever may publish must not have any other key fetched. */
export function parcelSlip(id: string): Buffer {
  const slip = Buffer.alloc(MARK_BYTES + Buffer.byteLength(id));
  slip.writeUInt32BE(MARK, 0);
  slip.write(id, MARK_BYTES);
  return slip;
}

/** The id in a slip; undefined for a publication that holds frames itself. */
export function parcelIn(bytes: Buffer): string | undefined {
  if (bytes.length <= MARK_BYTES || bytes.length > MAX_SLIP_BYTES || bytes.readUInt32BE(0) !== MARK) return undefined;
  return bytes.toString('utf8', MARK_BYTES);
}

export class ParcelDesk {
  readonly #state: RedisConnection;
  #lastLeft: Promise<unknown> = Promise.resolve();
  #lastFetched: Promise<unknown> = Promise.resolve();
  #waiting = 0;

  constructor(state: RedisConnection) {
    this.#state = state;
  }

  /** Rejects when it may not lie there; then nobody is to be told of it. The bytes must not change before that, nor after an error. */
  leave(place: NodeConnection, key: string, bytes: Buffer): Promise<unknown> {
    const left = this.#lastLeft.then(() => keep(place, key, KEPT_SECONDS, bytes));
    this.#lastLeft = left.catch(() => undefined);
    return left;
  }

  /** The batch under the key, which is gone afterwards; undefined when it is not to be had. Never rejects. */
  fetch(key: string): Promise<Buffer | undefined> {
    if (this.#waiting >= MAX_WAITING) return Promise.resolve(undefined);
    this.#waiting++;
    const fetched = this.#lastFetched.then(async () => {
      try {
        // Follows a slot that has moved: the server that says so has done nothing.
        return (await this.#state.getdelBuffer(key)) ?? undefined;
      } catch {
        return undefined; // Its sender hears nothing, as with every frame that is lost on its way.
      } finally {
        this.#waiting--;
      }
    });
    this.#lastFetched = fetched;
    return fetched;
  }
}
