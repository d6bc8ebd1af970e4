/** Takes batches apart and hands their frames on, one by one; the receiving half that all implementations of PubSub share.
 *  What is not a well-formed batch is counted and dropped, because anyone may publish to a channel; nothing that arrives can throw. */

import { countFrames, forEachFrame } from './batch.ts';

export class Receiver {
  readonly counts = { receivedFrames: 0, receivedBatches: 0, droppedBatches: 0, failedFrames: 0 };
  readonly #onFailure: (error: unknown) => void;

  constructor(onFailure: (error: unknown) => void) {
    this.#onFailure = onFailure;
  }

  receive(bytes: Buffer, onFrame: (frame: Buffer) => void): void {
    const frames = countFrames(bytes);
    if (frames === undefined) {
      this.counts.droppedBatches++;
      return;
    }
    this.counts.receivedBatches++;
    this.counts.receivedFrames += frames;
    forEachFrame(bytes, (frame) => {
      try {
        onFrame(frame);
      } catch (error) {
        this.counts.failedFrames++;
        this.#onFailure(error);
      }
    });
  }
}
