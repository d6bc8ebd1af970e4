/** Carries frames from one process to the subscribers of a channel, at most once: a hint, never the truth (I3, design "inbox is a hint").
 *  Frames given within one tick to one channel leave as one PUBLISH and arrive one by one, in order.
 *  Each frame: 16 MiB + 4 KiB at most. */

export type PublishResult =
  /** Counted by the store. With 0 receivers nothing was delivered, as long as subscribers sit on masters. */
  | { readonly status: 'published'; readonly receivers: number }
  /** Error or time-out: the frame may or may not arrive. */
  | { readonly status: 'unknown'; readonly cause: unknown }
  /** Never left this process: not connected, or the bound on waiting bytes is reached. */
  | { readonly status: 'not_sent' };

export interface Subscription {
  close(): Promise<void>;
}

export interface PubSub {
  publish(channel: string, frame: Uint8Array): Promise<PublishResult>;
  /** Resolves when the store has confirmed the subscription. `onFrame` gets a Buffer that it may keep.
   *  `onGap` is called after every re-subscription: frames may have been lost since. */
  subscribe(channel: string, onFrame: (frame: Buffer) => void, onGap: () => void): Promise<Subscription>;
  /** False while a subscriber connection is down, overdue with its ping, or found on a replica: direct frames must then be dropped. */
  trustworthy(): boolean;
}
