/** Does what a schedule asks for at one of its moments. The idempotency key names schedule and moment, so doing it again, here or in another
 *  process, is the same command or job; keys are remembered far longer than a moment may be late. */

import { BrokerError } from '@lapi-broker/protocol';
import type { Jobs } from '../job/jobs.ts';
import type { CommandQueue } from '../lane/queued-commands.ts';
import type { Firing, ScheduleRecord } from './schedule.ts';

export interface CarryOutParts {
  readonly commands: Pick<CommandQueue, 'submit'>;
  readonly jobs: Pick<Jobs, 'create'>;
}

/** `again`: whether it was done is not known, or it could not be done now; it may be tried as often as one likes. */
export async function carryOut(
  { commands, jobs }: CarryOutParts,
  { id, work, keyId }: Pick<ScheduleRecord, 'id' | 'work' | 'keyId'>,
  atMs: number,
): Promise<Firing | 'again'> {
  const key = `schedule:${id}:${atMs}`;
  try {
    if (work.kind === 'command') {
      const { data, ttlMs, ...command } = work.command;
      const submitted = await commands.submit({
        ...command,
        body: Buffer.from(data),
        expires: { afterMs: ttlMs },
        idempotencyKey: key,
        keyId,
        awaited: false,
      });
      if (submitted.status !== 'refused') return { status: 'fired', atMs, command: submitted.id };
      return failed(atMs, submitted);
    }
    const { data, ttlMs, ...order } = work.job;
    const created = await jobs.create({
      ...order,
      data: Buffer.from(data),
      expires: { afterMs: ttlMs },
      keyId,
      schedule: id,
      idempotency: { key, request: id },
    });
    return created.status === 'refused' ? failed(atMs, created) : { status: 'fired', atMs, job: created.job.id };
  } catch (error) {
    if (error instanceof BrokerError && error.code === 'broker_unavailable') return 'again';
    throw error;
  }
}

type Failed = Extract<Firing, { status: 'failed' }>;

function failed(atMs: number, { error, detail }: Pick<Failed, 'error' | 'detail'>): Failed | 'again' {
  return error === 'broker_unavailable' ? 'again' : { status: 'failed', atMs, error, detail };
}
