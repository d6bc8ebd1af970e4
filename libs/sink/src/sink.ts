/** What the broker asks of a message broker to which it hands its events: confirm each one, or say why not.
 *
 *  A connection lives until it is lost or closed and is never opened again; another one is made. So nothing that was given to an old connection
 *  is sent later behind the back of who gave it up. At least once: a message that was not confirmed may have arrived all the same.
 *  Not done here: order, repetition and pauses (the caller's), and what a message says. */

export interface SinkMessage {
  /** The same for every repeat of a message; at most 100 characters of A–Z a–z 0–9 - _ : . */
  readonly id: string;
  readonly type: 'event' | 'gap' | 'omitted';
  /** DeviceCode; empty for a gap. */
  readonly code: string;
  readonly kind: string;
  /** JSON text; not to be changed. */
  readonly json: Uint8Array;
}

export type SinkResult =
  | { readonly status: 'confirmed' }
  /** Will never be taken: larger than this broker takes. Nothing of it arrived. */
  | { readonly status: 'too_large'; readonly reason: string }
  /** This message is not taken, for a reason of its own. Nothing of it arrived. */
  | { readonly status: 'refused'; readonly reason: string }
  /** Messages like this one are not taken at present: no stream for them, no permission, no room. Nothing of it arrived. */
  | { readonly status: 'unavailable'; readonly reason: string }
  /** Nobody knows; the connection is of no use any more. */
  | { readonly status: 'unconfirmed'; readonly reason: string };

export interface SinkConnection {
  /** Resolves with the reason when the connection has ended, however. */
  readonly lost: Promise<string>;
  /** One result per message, in their order, within some seconds; never rejects. The messages are sent at once and may arrive in any order.
   *  The caller bounds how many are under way. */
  publish(messages: readonly SinkMessage[]): Promise<readonly SinkResult[]>;
  /** What is under way ends as `unconfirmed`. Idempotent; never rejects. */
  close(): Promise<void>;
}

export interface Sink {
  /** Rejects within some seconds when the broker is away or refuses us; the message of the error says which, without credentials. */
  connect(): Promise<SinkConnection>;
}

export interface SinkDeadlines {
  readonly connectMs: number;
  readonly publishMs: number;
}

export const SINK_DEADLINES: SinkDeadlines = { connectMs: 4_000, publishMs: 10_000 };
