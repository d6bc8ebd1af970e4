/** Where a reader goes on in a store that has lost entries which the reader had dealt with (a failover to a replica that was behind, D9): a
 *  little earlier than both, so that whatever the store took instead is met. Repeats are the price; they are announced. */

import type { EventStream } from '@lapi-broker/bus';
import { beforeTime, earliest, formatPosition, justBefore, type Position, parsePosition } from './position.ts';

/** A place with a number. `seen`: how far the reader had come; `last`: the end of the stream, as it was found. */
export async function rewindPlace(
  stream: EventStream,
  shard: number,
  seen: Position,
  last: Position,
  rewindMs: number,
): Promise<Position> {
  const fromMs = Math.max(0, earliest(seen, last).ms - rewindMs);
  const [next] = await stream.read(shard, formatPosition(beforeTime(fromMs)), 1);
  return next === undefined ? earliest(seen, last) : justBefore(parsePosition(next.id));
}
