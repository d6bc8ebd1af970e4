/** Names one hand-out in one text: which group, which event, which attempt, which permit it uses. Opaque to consumers, not a secret: who may
 *  settle is decided by the API key. Pure. */

import type { Taken } from './group-store.ts';

export interface HandOut extends Taken {
  readonly shard: number;
  readonly permit: string;
}

const TEXT = /^([0-9a-z]{8})\.(\d{1,5})\.(g?[0-9x_-]{3,80})\.(\d{1,9})\.([0-9a-z]{1,24})$/;

/** Ends the key of a group: 8 of 0–9 a–z. */
export function incarnationOf(key: string): string {
  return key.slice(-8);
}

export function toAckId(key: string, { shard, member, attempt, permit }: HandOut): string {
  return `${incarnationOf(key)}.${shard}.${member}.${attempt}.${permit}`;
}

/** Undefined for what is no ack id of this group. */
export function readAckId(text: string, key: string, shards: number): HandOut | undefined {
  const found = TEXT.exec(text);
  if (found === null || found[1] !== incarnationOf(key)) return undefined;
  const shard = Number(found[2]);
  if (shard >= shards) return undefined;
  return { shard, member: found[3] as string, attempt: Number(found[4]), permit: found[5] as string };
}
