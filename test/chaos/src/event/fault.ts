/** What can be done to a broker while devices send events and consumers take them. A fault says what it needs; the checker takes its word for
 *  whether the store may go back, and for nothing else. */

import type { Chance } from '../random.ts';
import type { Rig, StoreKind } from '../rig.ts';
import type { Sender } from './sender.ts';

export interface EventStage {
  readonly rig: Rig;
  /** Who has just sent an event, for the first time. */
  readonly sending: Sender;
  readonly chance: Chance;
  /** A number of events that the devices have sent together, at random between the shares of all. */
  between(from: number, to: number): number;
  /** Until so many numbers have been sent; ends early when the run is stopped. */
  untilSent(events: number): Promise<void>;
  /** The devices go no further than this share of their numbers until they may. */
  allow(share: number): void;
  /** The consumers of the third subscription leave, and come back. */
  leave(): Promise<void>;
  comeBack(): void;
  /** Logs the begin and the end of `work`. */
  disturb(what: string, work: () => Promise<void>): Promise<void>;
  pause(ms: number): Promise<void>;
}

export interface EventFault {
  readonly name: string;
  readonly about: string;
  readonly store?: StoreKind;
  readonly env?: Readonly<Record<string, string>>;
  /** With a line to Redis that can be made slow. */
  readonly slowable?: boolean;
  /** May the store forget what no replica has confirmed? */
  readonly rewinds?: boolean;
  /** With a third subscription, which can be left alone. */
  readonly leaves?: boolean;
  /** Of padding in each of so many events. */
  readonly dataBytes?: (events: number) => number;
  run(stage: EventStage): Promise<void>;
}
