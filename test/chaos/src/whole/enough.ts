/** Was there anything to judge? Checkers find what is wrong with what was seen; of a run that saw nothing they find nothing. So a run must have
 *  seen commands that succeeded, events that were stored and reached every reader, all that senders had to tell, and the fault at work.
 *  Pure. */

import type { EventHistory } from '../event/history.ts';
import type { Fault } from '../fault/fault.ts';
import { tracesOf } from '../history/checker.ts';
import type { History } from '../history/history.ts';

/** Of the commands that were asked for: many end otherwise in a long outage, and absent devices are asked too. */
const LEAST_ACCEPTED = 0.25;
const LEAST_SUCCEEDED = 0.15;

export interface Shortage {
  readonly check: 'enough';
  readonly what: string;
}

export interface Seen {
  readonly commands: History;
  readonly events: EventHistory;
  /** Senders that have numbers left which were not stored. */
  readonly unfinished: readonly string[];
  readonly fault: Pick<Fault, 'target'>;
}

export function checkEnough({ commands, events, unfinished, fault }: Seen): Shortage[] {
  const shortages: Shortage[] = [];
  const found = (what: string): void => void shortages.push({ check: 'enough', what });
  const traces = tracesOf(commands);
  const accepted = traces.filter(({ ids }) => ids.size > 0).length;
  const succeeded = traces.filter(({ last }) => last?.state === 'succeeded').length;
  if (accepted === 0 || accepted < LEAST_ACCEPTED * traces.length)
    found(`only ${accepted} of ${traces.length} commands were accepted`);
  if (succeeded === 0 || succeeded < LEAST_SUCCEEDED * traces.length)
    found(`only ${succeeded} of ${traces.length} commands succeeded`);
  const stored = events.entries.filter((entry) => entry.kind === 'answer' && entry.code === 0).length;
  if (stored === 0) found('no event was stored');
  for (const reader of events.readers.keys()) {
    const got = events.entries.some(
      (entry) => entry.kind === 'receive' && entry.reader === reader && entry.number !== undefined,
    );
    if (!got) found(`${reader} received no event`);
  }
  for (const code of unfinished) found(`${code} could not have all its events stored`);
  // Readers are slow or away by themselves; what has no target is no fault, or is one from the start on.
  if (fault.target === undefined || fault.target === 'reader') return shortages;
  const touched = commands.entries.some(
    (entry) => entry.kind === 'disturb.begin' && (entry.devices === undefined || entry.devices.length > 0),
  );
  if (!touched) found('the fault touched nobody');
  return shortages;
}
