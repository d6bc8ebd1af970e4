/** What somebody asks for when a job is to be made: validated and complete, before anybody has looked at a device. The one form for the HTTP
 *  route and for schedules. */

import type { JobCommand, JobPace, TargetChoice } from './job.ts';

export interface JobOrder {
  readonly name: string;
  readonly command: JobCommand;
  /** JSON text of `Data`, at most JOB_LIMITS.bodyBytes; empty = `{}`. */
  readonly data: Uint8Array;
  readonly pace: JobPace;
  readonly targets: TargetChoice;
  /** Times of day, ms since the epoch. */
  readonly notBeforeMs?: number;
  readonly notAfterMs?: number;
  readonly expires: { readonly afterMs: number } | { readonly atMs: number };
  /** Id of the API key that asks, or on whose behalf. */
  readonly keyId: string;
  readonly schedule?: string;
  /** Within 24 h the same key is the same job; `request` is a hash of what was asked, and must be the same too. The key begins with who chose
   *  it: `api:`, `schedule:`. */
  readonly idempotency?: { readonly key: string; readonly request: string };
}
