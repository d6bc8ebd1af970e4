/** Tells event subscribers what happens to jobs: kinds `job.created started progress paused resumed retried stopping finished aborted
 *  cancelled`, with an empty `code`, because a job belongs to no device. Written after the change: a hint (announcer.ts). */

import type { Announcer } from '../event/announcer.ts';
import type { JobRecord } from './job.ts';

export type JobEvent =
  | 'created'
  | 'started'
  | 'progress'
  | 'paused'
  | 'resumed'
  | 'retried'
  | 'stopping'
  | 'finished'
  | 'aborted'
  | 'cancelled';

export class JobEvents {
  readonly #announce: Announcer;

  constructor(announce: Announcer) {
    this.#announce = announce;
  }

  tell(event: JobEvent, { id, name, total, counts, progress, rate, schedule }: JobRecord): void {
    const { state, stopTo, reason, wave } = progress;
    const data = { id, name, state, stopTo, reason: reason || undefined, total, counts, schedule };
    const pace = { wave: wave > 0 ? wave : undefined, ratePerSecond: rate?.perSecond };
    this.#announce(`job.${event}`, { ...data, ...pace });
  }
}
