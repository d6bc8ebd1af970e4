/** What devices sent, what they were told, and what each reader of the events got, on one clock: that of the process which writes it.
 *  Devices number their events from 1; the number travels in the data and identifies an event independently of any id of the broker.
 *  Bounded by the plan of the round: a dozen entries per number. Judging is not done here. */

/** ordered, unordered: a durable subscription with several consumers. live: one stream that resumes with its cursor. */
export type ReaderKind = 'ordered' | 'unordered' | 'live';

type At = { readonly atMs: number };
type OfNumber = At & { readonly device: string; readonly number: number };
type OfReader = At & { readonly reader: string };

export type EventEntry =
  /** `hash`: of the bytes of Data. */
  | (OfNumber & { readonly kind: 'send'; readonly hash: string })
  /** 0 = the event is stored. */
  | (OfNumber & { readonly kind: 'answer'; readonly code: number })
  /** The session ended before the answer. */
  | (OfNumber & { readonly kind: 'unanswered' })
  | (At & { readonly kind: 'offline'; readonly device: string; readonly code: number; readonly reason: string })
  | (OfReader & {
      readonly kind: 'receive';
      /** Which of its consumers. */
      readonly by: string;
      readonly id: string;
      readonly device: string;
      /** Undefined for events that no device sent, such as presence. */
      readonly number: number | undefined;
      readonly hash: string;
      readonly epoch: number;
      readonly seq: number;
      /** Its kind, such as `presence.online`. */
      readonly topic: string;
      /** 1 for the first; always 1 for live. */
      readonly attempt: number;
    })
  | (OfReader & {
      readonly kind: 'gap';
      readonly by: string;
      readonly from: string;
      readonly to: string;
      readonly count: number | null;
      readonly reason: 'trimmed' | 'rewound';
    })
  /** A consumer asks to have it acknowledged. `id`: of the event. */
  | (OfReader & { readonly kind: 'settle'; readonly id: string })
  | (OfReader & { readonly kind: 'settled'; readonly id: string; readonly result: string })
  /** What the broker says at the end that a durable subscription still has to do. */
  | (OfReader & {
      readonly kind: 'rest';
      readonly lag: number;
      readonly waiting: number;
      readonly inFlight: number;
      readonly deadLetters: number;
    })
  | (At & { readonly kind: 'disturb.begin'; readonly what: string })
  | (At & { readonly kind: 'disturb.end'; readonly what: string });

export type EventEntryOf<K extends EventEntry['kind']> = Extract<EventEntry, { readonly kind: K }>;
export type EventFact = EventEntry extends infer E ? (E extends EventEntry ? Omit<E, 'atMs'> : never) : never;

export interface EventHistory {
  readonly readers: ReadonlyMap<string, ReaderKind>;
  /** May the store have forgotten its last, unconfirmed writes? Then ids may be used again. */
  readonly rewinds: boolean;
  readonly entries: readonly EventEntry[];
}

export class EventRecorder implements EventHistory {
  readonly readers: ReadonlyMap<string, ReaderKind>;
  readonly rewinds: boolean;
  readonly entries: EventEntry[] = [];

  constructor(readers: ReadonlyMap<string, ReaderKind>, rewinds: boolean) {
    this.readers = readers;
    this.rewinds = rewinds;
  }

  log(fact: EventFact): void {
    this.entries.push({ ...fact, atMs: performance.now() } as EventEntry);
  }
}

export interface Place {
  readonly shard: number;
  /** Of the entry in its shard, counted from 1. */
  readonly number: number;
}

/** Of an event id, `<shard>-<ms>-<number>`. */
export function placeOf(id: string): Place {
  const [shard, , number] = id.split('-').map(Number);
  return { shard: shard ?? Number.NaN, number: number ?? Number.NaN };
}
