/** What can be done to a running broker. A fault says when it begins and ends, whom it touches, and whether a queued command may end uncertain
 *  because of it; the checker takes its word for that and for nothing else. */

import type { Chance } from '../random.ts';
import type { Rig, StoreKind } from '../rig.ts';
import type { Mix } from '../traffic/plan.ts';
import type { Witness } from '../traffic/witness.ts';

export interface Reach {
  /** May a queued command end `unknown` or `timed_out` because of it? */
  readonly blurs: boolean;
  /** Default: all. */
  readonly devices?: readonly Witness[];
}

export interface Stage {
  readonly rig: Rig;
  readonly devices: readonly Witness[];
  readonly chance: Chance;
  /** Devices whose newest session is at this edge. */
  at(edge: number): readonly Witness[];
  /** Logs the begin and the end of `work`. */
  disturb(what: string, reach: Reach, work: () => Promise<void> | void): Promise<void>;
  /** Ends early when the run is stopped. */
  pause(ms: number): Promise<void>;
}

export interface Fault {
  readonly name: string;
  readonly about: string;
  readonly store?: StoreKind;
  /** How long `run` takes, about: the load goes on for a while beyond it. */
  readonly lengthMs: number;
  readonly mix?: Partial<Mix>;
  /** Devices that answer nothing. */
  readonly mutes?: number;
  run(stage: Stage): Promise<void>;
}
