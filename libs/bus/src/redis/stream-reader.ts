/** Follows all shards of the event stream with blocking reads.
 *  One connection reads all shards at once, except on a Cluster: there one read must not span slots, not even those of one master
 *  (CROSSSLOT), so each shard has a connection to the master of its slot.
 *
 *  Positions live here, not in a connection, so a lost connection costs nothing but time. Whenever a connection is new, the cursors are told
 *  which run of which server answers and how long its streams are, and go back where needed (see cursor.ts).
 *  Redis away: nothing is called back until it is there again. A server that hangs is left when a read is overdue. */

import { setTimeout as delay } from 'node:timers/promises';
import { fromStreamFields } from '@lapi-broker/protocol';
import {
  type ConnectionEvent,
  hasMoved,
  isCluster,
  type Keyspace,
  masterOf,
  type NodeConnection,
  type RedisConnection,
  refreshTopology,
  withDeadline,
} from '@lapi-broker/redis';
import type { Cursor } from '../cursor.ts';
import { type EntryId, type StreamEntry, ZERO_ID } from '../event-stream.ts';
import { type Attachment, assertMaster, attach } from './attachment.ts';
import { readBounds } from './stream-info.ts';

export interface StreamReaderOptions {
  readonly state: RedisConnection;
  readonly keyspace: Keyspace;
  readonly onEvent: ConnectionEvent | undefined;
  readonly onEntries: (shard: number, entries: readonly StreamEntry[]) => void;
  readonly onRewound: (shard: number, to: EntryId) => void;
}

/** Longest wait of a read on a quiet stream; also how often the role is checked and a moved shard is noticed. */
const BLOCK_MS = 2000;
/** A read that blocked may be this late before the server counts as hung. */
const READ_GRACE_MS = 1500;
const COMMAND_DEADLINE_MS = 2000;
/** Between reads when entries flow: 250 reads per second fetch as many entries as a read per entry would, for much less work. */
const PAUSE_MS = 4;
/** One reply should stay below this: entries per shard and read follow from the sizes seen lately. */
const REPLY_BYTES = 8 * 2 ** 20;
const MIN_COUNT = 2;
const MAX_COUNT = 512;

/** A cursor and the key it reads. */
interface Lane {
  readonly cursor: Cursor;
  readonly key: string;
}

export class StreamReader {
  readonly #options: StreamReaderOptions;
  /** Lanes that one connection reads together. */
  readonly #groups: readonly (readonly Lane[])[];
  #attachments: readonly Attachment[] = [];

  constructor(options: StreamReaderOptions, cursors: readonly Cursor[]) {
    const lanes = cursors.map((cursor) => ({ cursor, key: options.keyspace.events(cursor.shard) }));
    this.#options = options;
    this.#groups = isCluster(options.state) ? lanes.map((lane) => [lane]) : [lanes];
  }

  /** To be called once. */
  start(): void {
    const { state, onEvent } = this.#options;
    this.#attachments = this.#groups.map((lanes) =>
      attach({
        state,
        role: 'reader',
        master: () => masterOfLanes(state, lanes),
        onEvent,
        serve: (node, lost, steady) => this.#follow(node, lanes, lost, steady),
      }),
    );
  }

  /** Idempotent. Nothing is called back once it has begun. */
  async close(): Promise<void> {
    await Promise.all(this.#attachments.map((attachment) => attachment.close()));
  }

  async #follow(node: NodeConnection, lanes: readonly Lane[], lost: AbortSignal, steady: () => void): Promise<void> {
    const { state } = this.#options;
    const master = masterOfLanes(state, lanes);
    const byKey = new Map(lanes.map(({ cursor, key }) => [key, cursor]));
    await this.#resume(node, lanes);
    let checkedMs = performance.now();
    let count = MIN_COUNT;
    while (!lost.aborted) {
      if (masterOfLanes(state, lanes) !== master) throw new Error('the shard has moved to another master');
      if (performance.now() - checkedMs >= BLOCK_MS) {
        checkedMs = performance.now();
        await assertMaster(node, COMMAND_DEADLINE_MS);
      }
      const reply = await this.#read(node, lanes, count);
      steady();
      if (lost.aborted) return;
      let bytes = 0;
      let entries = 0;
      for (const [key, raw] of reply) {
        const cursor = byKey.get(String(key));
        if (cursor === undefined) continue;
        for (const [, fields] of raw) for (const field of fields) bytes += field.length;
        entries += raw.length;
        this.#callBack(cursor, raw);
      }
      if (entries === 0) continue;
      const fitting = Math.floor(REPLY_BYTES / (bytes / entries) / lanes.length);
      // Grows slowly, because the next entries may be larger than the last ones.
      count = Math.max(MIN_COUNT, Math.min(fitting, count * 4, MAX_COUNT));
      await delay(PAUSE_MS, undefined, { signal: lost });
    }
  }

  async #resume(node: NodeConnection, lanes: readonly Lane[]): Promise<void> {
    const generation = await readGeneration(node);
    const ends = await withDeadline(
      Promise.all(lanes.map(async ({ key }) => (await readBounds(node, key)).last)),
      COMMAND_DEADLINE_MS,
    );
    for (const [index, { cursor }] of lanes.entries()) {
      const to = cursor.resume(generation, ends[index] ?? ZERO_ID);
      if (to !== undefined) this.#tell(() => this.#options.onRewound(cursor.shard, to));
    }
  }

  async #read(node: NodeConnection, lanes: readonly Lane[], count: number): Promise<readonly RawStream[]> {
    const keys = lanes.map(({ key }) => key);
    const positions = lanes.map(({ cursor }) => cursor.position);
    try {
      const reply = await withDeadline(
        node.xreadBuffer('COUNT', count, 'BLOCK', BLOCK_MS, 'STREAMS', ...keys, ...positions),
        BLOCK_MS + READ_GRACE_MS,
      );
      return (reply ?? []) as readonly RawStream[];
    } catch (error) {
      if (hasMoved(error)) refreshTopology(this.#options.state);
      throw error;
    }
  }

  #callBack(cursor: Cursor, raw: readonly RawEntry[]): void {
    const { shard } = cursor;
    const { fresh, rewoundTo } = cursor.take(
      raw.map(([id, fields]) => ({ shard, id: String(id), event: fromStreamFields(fields) })),
    );
    if (rewoundTo !== undefined) this.#tell(() => this.#options.onRewound(shard, rewoundTo));
    if (fresh.length > 0) this.#tell(() => this.#options.onEntries(shard, fresh));
  }

  #tell(callBack: () => void): void {
    try {
      callBack();
    } catch (error) {
      this.#options.onEvent?.('bus.listener_failed', { error: String(error) });
    }
  }
}

type RawEntry = readonly [id: Buffer, fields: readonly Buffer[]];
type RawStream = readonly [key: Buffer, entries: readonly RawEntry[]];

function masterOfLanes(state: RedisConnection, lanes: readonly Lane[]): string | undefined {
  return lanes[0] === undefined ? undefined : masterOf(state, lanes[0].key);
}

/** Names one run of one server: another answer means that its data may be from another history. */
async function readGeneration(node: NodeConnection): Promise<string> {
  const text = await withDeadline(node.info('server'), COMMAND_DEADLINE_MS);
  return /^run_id:(\w+)/m.exec(text)?.[1] ?? '';
}
