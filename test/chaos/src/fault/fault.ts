/** What can be done to a running broker. A fault says on which stores it makes sense, what it needs of the rig, when it begins and ends and whom
 *  it touches, whether a queued command may end uncertain because of it, and whether the store may go back. The checkers take its word for that
 *  and for nothing else. It leaves behind what it found: everything runs again, nothing is stopped, everybody may send. */

import type { Sender } from '../event/sender.ts';
import type { Chance } from '../random.ts';
import type { Rig, RigNeeds, StoreKind } from '../rig.ts';
import type { Mix } from '../traffic/plan.ts';
import type { Witness } from '../traffic/witness.ts';

export interface Reach {
  /** May a queued command end `unknown` or `timed_out` because of it? */
  readonly blurs: boolean;
  /** Default: all. */
  readonly devices?: readonly { readonly code: string }[];
}

export interface Stage {
  readonly rig: Rig;
  /** Those that take commands. */
  readonly devices: readonly Witness[];
  /** Those that send numbered events. */
  readonly senders: readonly Sender[];
  readonly chance: Chance;
  /** Devices of both kinds whose newest session is at this edge. */
  at(edge: number): readonly (Witness | Sender)[];
  /** Right after a device handed an event to its socket; answers which. Ends early, with any sender, when none is sent for a while. */
  nextEvent(): Promise<Sender>;
  /** The consumers of the third subscription leave, and come back. Only where the fault says `leaves`. */
  leave(): Promise<void>;
  comeBack(): void;
  /** The live stream is not read until it is resumed. */
  holdLive(hold: boolean): void;
  /** Logs the begin and the end of `work`. */
  disturb(what: string, reach: Reach, work: () => Promise<void> | void): Promise<void>;
  /** Ends early when the run is stopped. */
  pause(ms: number): Promise<void>;
}

/** Whom a fault acts on; two faults of a pair touch different ones. */
export type Target = 'edge' | 'command' | 'store' | 'device' | 'reader' | 'network';

export interface Fault {
  readonly name: string;
  readonly about: string;
  /** Where it makes sense; a single run takes the first. */
  readonly stores: readonly [StoreKind, ...StoreKind[]];
  readonly target: Target | undefined;
  /** How long `run` takes, about: the load goes on for a while beyond it. */
  readonly lengthMs: number;
  readonly needs?: RigNeeds;
  readonly mix?: Partial<Mix>;
  /** Devices that answer nothing. */
  readonly mutes?: number;
  /** May the store forget what no replica has confirmed? On stores with replicas, one takes over then, once. */
  readonly rewinds?: boolean;
  /** With a third subscription, which can be left alone. */
  readonly leaves?: boolean;
  /** Of padding in each of so many events. */
  readonly dataBytes?: (events: number) => number;
  /** Breaks more than the promises cover: what the checkers find is told, and does not count. */
  readonly beyond?: boolean;
  /** Why it cannot be run on this machine. */
  readonly skip?: () => Promise<string | undefined>;
  run(stage: Stage): Promise<void>;
}
