/** What a webhook is: where events are sent, which, how, and how that went so far. The words and shapes; sending is lane-run.ts. */

import type { FilterTerms } from '../event/filter.ts';
import type { PostFailure } from './safe-post.ts';

export const WEBHOOK_LIMITS = {
  concurrency: { min: 1, max: 16, default: 1 },
  batch: { min: 1, max: 100, default: 1 },
  timeoutMs: { min: 1_000, max: 30_000, default: 10_000 },
  maxAttempts: { min: 1, max: 100, default: 20 },
  nameChars: 64,
  descriptionChars: 500,
  /** Attempts of delivery that are kept for looking. */
  log: 100,
  /** Ids of events in one line of it. */
  logIds: 10,
  /** How long the secret before the last rotation signs along. */
  overlapMs: { min: 0, max: 7 * 86_400_000, default: 86_400_000 },
} as const;

export interface WebhookSpec {
  readonly url: string;
  readonly name: string;
  readonly description: string;
  readonly filter: FilterTerms;
  /** As of groups. */
  readonly ordered: boolean;
  /** Requests at a time; each is a lane. */
  readonly concurrency: number;
  /** Events of one request at most. */
  readonly batch: number;
  readonly timeoutMs: number;
  readonly maxAttempts: number;
}

/** new: it is being made, or its making broke off. asked: by the API. gone: the receiver answered 410. failing: nothing but failures for too long. */
export const OFF_REASONS = ['new', 'asked', 'gone', 'failing'] as const;
export type OffReason = (typeof OFF_REASONS)[number];

export const WEBHOOK_STATES = ['active', 'failing', 'open', 'disabled'] as const;
export type WebhookState = (typeof WEBHOOK_STATES)[number];

export interface LastAttempt {
  readonly atMs: number;
  /** What the receiver answered, or why there was no answer. */
  readonly result: number | PostFailure;
  readonly ms: number;
}

/** Times are of Redis, ms since the epoch. */
export interface Webhook extends WebhookSpec {
  readonly id: string;
  readonly createdAtMs: number;
  readonly off: { readonly reason: OffReason; readonly atMs: number } | undefined;
  /** Attempts that failed since the last that did not. */
  readonly failures: number;
  readonly failingSinceMs: number | undefined;
  /** Until then nothing is sent; undefined when the breaker is closed. Past: the next request is the probe. */
  readonly openUntilMs: number | undefined;
  readonly last: LastAttempt | undefined;
  readonly lastSuccessAtMs: number | undefined;
}

/** With what is needed to sign. */
export interface SigningWebhook extends Webhook {
  /** Sealed. */
  readonly secret: string;
  readonly previous: { readonly secret: string; readonly untilMs: number } | undefined;
}

export interface LogLine {
  readonly atMs: number;
  readonly type: 'events' | 'test';
  /** `webhook-id` of the request. */
  readonly message: string;
  /** Of the first events; a gap is not among them. */
  readonly ids: readonly string[];
  /** Events and gaps. */
  readonly count: number;
  readonly attempt: number;
  readonly result: number | PostFailure;
  readonly ms: number;
}

export function stateOf({ off, openUntilMs, failures }: Webhook): WebhookState {
  if (off !== undefined) return 'disabled';
  if (openUntilMs !== undefined) return 'open';
  return failures > 0 ? 'failing' : 'active';
}

export function isDelivered(result: number | PostFailure): boolean {
  return typeof result === 'number' && result >= 200 && result < 300;
}

/** Never the name of a platform's group, because of its colon. */
export function groupOf(id: string): string {
  return `webhook:${id}`;
}

/** 9 digits of time in base 36, so that the order of ids is the order of making, and 11 random ones. */
export function newWebhookId(nowMs: number, random: () => string): string {
  return Math.floor(nowMs).toString(36).padStart(9, '0') + random();
}

export const WEBHOOK_ID = /^[0-9a-z]{20}$/;
