/** Carries frames from one process to the subscribers of a channel, at most once: a hint, never the truth (I3, design "inbox is a hint").
 *  Frames given within one tick to one channel leave as one PUBLISH and arrive one by one, in order; but a frame above 256 KiB may be overtaken by
 *  later ones, so that nobody waits for it, and reaches only one of several subscribers.
 *  Each frame: 16 MiB + 4 KiB at most. */

import type { Frame } from './batch.ts';

export type PublishResult =
  /** Counted by the store. With 0 receivers nothing was delivered, as long as subscribers sit on masters. */
  | { readonly status: 'published'; readonly receivers: number }
  /** Error or time-out: the frame may or may not arrive. */
  | { readonly status: 'unknown'; readonly cause: unknown }
  /** Never reached a subscriber: not connected, refused by the store, or the bound on waiting bytes is reached. */
  | { readonly status: 'not_sent' };

export interface Subscription {
  /** Nothing that was counted as received is dropped by it: `onFrame` is called for all of that before this resolves, and nobody is counted
   *  afterwards. Only a connection that is lost meanwhile takes frames along. Idempotent. */
  close(): Promise<void>;
}

export interface PubSub {
  /** Never rejects. Frames that leave together share one promise, so a frame costs no promise of its own.
   *  The frame is copied before this returns. */
  publish(channel: string, frame: Frame): Promise<PublishResult>;
  /** Resolves when the store has confirmed the subscription; rejects with `broker_unavailable` when it does not within its time limit.
   *  `onFrame` gets a Buffer that it may keep (which keeps the whole batch). It must not throw; if it does, that is counted and the next
   *  frame follows. `onGap` is called after every re-subscription: frames may have been lost since. */
  subscribe(channel: string, onFrame: (frame: Buffer) => void, onGap: () => void): Promise<Subscription>;
  /** False while any subscription is not confirmed, overdue with its ping, or found on a replica: direct frames must then be dropped.
   *  False without subscriptions. Decided by the clock when asked, so it holds also in the first moment after a pause of the process. */
  trustworthy(): boolean;
}

/** Totals since the start, and what waits now. */
export interface PubSubCounts {
  readonly publishedFrames: number;
  readonly publishedBatches: number;
  readonly notSentFrames: number;
  readonly unknownFrames: number;
  readonly receivedFrames: number;
  readonly receivedBatches: number;
  /** Foreign, cut, or too large for the channel and not there any more when it was fetched. */
  readonly droppedBatches: number;
  /** Frames whose `onFrame` threw. */
  readonly failedFrames: number;
  readonly waitingBytes: number;
}
