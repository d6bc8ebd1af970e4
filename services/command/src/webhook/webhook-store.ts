/** Keeps webhooks, and says who sees to which of their lanes. All that several processes must agree on is decided here, by the time of Redis: who
 *  holds a lane, whether the breaker is open, and when a webhook is switched off.
 *  Store away: every method rejects with `broker_unavailable`, and may have been done. */

import type { LogLine, OffReason, SigningWebhook, Webhook, WebhookSpec } from './webhook.ts';

export interface LaneName {
  readonly id: string;
  /** From 0. The first one is always seen to; the others while there is much to do. */
  readonly lane: number;
}

export type TakenLane =
  | { readonly status: 'taken'; readonly webhook: SigningWebhook }
  /** The breaker is open. */
  | { readonly status: 'rest'; readonly restMs: number }
  | { readonly status: 'busy' | 'idle' };

export type Verdict = 'delivered' | 'failed' | 'gone';

export interface Report {
  readonly line: LogLine;
  /** Undefined: it is only logged, as a test is. */
  readonly verdict: Verdict | undefined;
  /** Rest that the receiver asked for. */
  readonly askedMs: number;
  /** Where the request went. What is said there counts for nothing once the webhook leads elsewhere. */
  readonly url: string;
}

export type Reported =
  | { readonly status: 'noted' }
  /** Nothing is sent for so long. */
  | { readonly status: 'opened'; readonly restMs: number }
  /** By this attempt. */
  | { readonly status: 'switched off'; readonly reason: 'gone' | 'failing' }
  /** It was off, leads elsewhere, or is no more. */
  | { readonly status: 'stop' };

export interface WebhookStore {
  /** Switched off for the reason `new`. */
  put(id: string, spec: WebhookSpec, createdAtMs: number, secret: string): Promise<'stored' | 'full'>;
  read(id: string): Promise<SigningWebhook | undefined>;
  /** In the order of making, from after the id. */
  list(after: string | undefined, limit: number): Promise<readonly Webhook[]>;
  /** Undefined if there is none. Whoever sees to a lane stops within seconds, and goes on with what is new. */
  change(id: string, change: Partial<Omit<WebhookSpec, 'ordered'>>): Promise<WebhookSpec | undefined>;
  /** Undefined switches on. */
  switch(id: string, off: OffReason | undefined): Promise<'switched' | 'same' | 'gone'>;
  /** Until when the one before signs along, ms; undefined if there is no such webhook. */
  rotate(id: string, secret: string, overlapMs: number): Promise<number | undefined>;
  remove(id: string): Promise<boolean>;
  /** Newest first. */
  log(id: string): Promise<readonly LogLine[]>;

  take(lane: LaneName, token: string): Promise<TakenLane>;
  /** Answers which are held no more. */
  renew(held: readonly (LaneName & { readonly token: string })[]): Promise<readonly LaneName[]>;
  /** `restMs`: when somebody must look again; undefined: when it is asked for. False: it was not held any more. */
  release(lane: LaneName, token: string, restMs: number | undefined): Promise<boolean>;
  /** False: somebody sees to it, or will at its time. */
  wake(lane: LaneName): Promise<boolean>;
  /** Lanes that somebody should have looked at by then. */
  due(atMs: number, limit: number): Promise<readonly (LaneName & { readonly atMs: number })[]>;
  report(id: string, report: Report): Promise<Reported>;
}
