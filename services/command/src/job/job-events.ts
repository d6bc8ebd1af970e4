/** Tells event subscribers what happens to jobs: kinds `job.created started progress paused resumed retried stopping finished aborted
 *  cancelled`, with an empty `code`, because a job belongs to no device. Written after the change, to the stream of one fixed shard: a hint, at
 *  least once is not promised; the job itself is the truth. Never rejects. */

import type { EventStream } from '@lapi-broker/bus';
import type { DeviceCode, Epoch } from '@lapi-broker/protocol';
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

export interface JobEventsParts {
  readonly stream: Pick<EventStream, 'append'>;
  readonly nowMs: () => number;
  readonly onFailure: (error: unknown) => void;
}

const NO_DEVICE = '' as DeviceCode;

export class JobEvents {
  readonly #parts: JobEventsParts;

  constructor(parts: JobEventsParts) {
    this.#parts = parts;
  }

  tell(event: JobEvent, { id, name, total, counts, progress, rate, schedule }: JobRecord): void {
    const { stream, nowMs, onFailure } = this.#parts;
    const { state, stopTo, reason, wave } = progress;
    const data = { id, name, state, stopTo, reason: reason || undefined, total, counts, schedule };
    const pace = { wave: wave > 0 ? wave : undefined, ratePerSecond: rate?.perSecond };
    stream
      .append({
        code: NO_DEVICE,
        kind: `job.${event}`,
        url: '',
        at: Math.floor(nowMs()),
        epoch: 0 as Epoch,
        session: '',
        seq: 0,
        tags: [],
        dedupKey: '',
        data: Buffer.from(JSON.stringify({ ...data, ...pace })),
      })
      .catch(onFailure);
  }
}
