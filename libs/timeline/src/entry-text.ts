/** How entries are kept: short JSON, because there are many. What a newer version wrote in another way reads as undefined. Pure. */

import type { DeviceCode, Epoch, NodeId, SessionId } from '@lapi-broker/protocol';
import { ENTRY_BYTES } from './bounds.ts';
import type { FrameEntry, RefusalEntry, SessionEntry } from './timeline.ts';

/** The scripts know these names too: a refusal is counted on by append.lua, a session of a lost node is written by reap.lua of the registry. */
interface SessionText {
  readonly s: string;
  readonly n: string;
  readonly e: number;
  readonly a: string;
  readonly o: number;
  readonly x?: number;
  readonly r?: string;
  readonly k?: 'current' | 'next';
  readonly p?: string;
  readonly h?: number;
  readonly c?: number;
  readonly f?: readonly FrameText[];
}

interface FrameText {
  readonly t: number;
  readonly d: 'in' | 'out';
  readonly k: FrameEntry['type'];
  readonly b: number;
  readonly m?: string | undefined;
  readonly u?: string | undefined;
  readonly c?: number | undefined;
  readonly x?: string | undefined;
}

interface RefusalText {
  readonly r: string;
  readonly a: string;
  readonly n: string;
  readonly f: number;
  readonly l: number;
  readonly c: number;
}

/** At most ENTRY_BYTES: the oldest frames are left out for that. */
export function encodeSession(entry: SessionEntry): string {
  const head = {
    s: entry.session,
    n: entry.node,
    e: entry.epoch,
    a: entry.address,
    o: Math.round(entry.openedAtMs),
    x: rounded(entry.endedAtMs),
    r: entry.reason,
    k: entry.secret,
    p: entry.previous,
    h: rounded(entry.heardAtMs),
    c: entry.keepalives === 0 ? undefined : entry.keepalives,
  };
  const texts = entry.frames.map((frame) => JSON.stringify(frameText(frame)));
  const text = JSON.stringify(head);
  let left = ENTRY_BYTES - Buffer.byteLength(text) - ',"f":[]'.length;
  let first = texts.length;
  while (first > 0) {
    left -= Buffer.byteLength(texts[first - 1] as string) + 1;
    if (left < 0) break;
    first--;
  }
  return first === texts.length ? text : `${text.slice(0, -1)},"f":[${texts.slice(first).join(',')}]}`;
}

export function decodeSession(code: DeviceCode, text: string): SessionEntry | undefined {
  const kept = parsed<SessionText>(text);
  if (kept === undefined || typeof kept.s !== 'string' || typeof kept.n !== 'string') return undefined;
  if (typeof kept.e !== 'number' || typeof kept.o !== 'number') return undefined;
  return {
    type: 'session',
    code,
    session: kept.s as SessionId,
    node: kept.n as NodeId,
    epoch: kept.e as Epoch,
    address: kept.a ?? '',
    openedAtMs: kept.o,
    endedAtMs: kept.x,
    reason: kept.r,
    secret: kept.k,
    previous: kept.p as NodeId | undefined,
    heardAtMs: kept.h,
    keepalives: kept.c,
    frames: (kept.f ?? []).map((frame) => ({
      atMs: frame.t,
      direction: frame.d,
      type: frame.k,
      bytes: frame.b,
      method: frame.m,
      url: frame.u,
      responseCode: frame.c,
      excerpt: frame.x,
    })),
  };
}

export function encodeRefusal(entry: RefusalEntry): string {
  const { reason, address, node, firstAtMs, lastAtMs, count } = entry;
  const text: RefusalText = {
    r: reason,
    a: address,
    n: node,
    f: Math.round(firstAtMs),
    l: Math.round(lastAtMs),
    c: count,
  };
  return JSON.stringify(text);
}

export function decodeRefusal(code: DeviceCode, text: string): RefusalEntry | undefined {
  const kept = parsed<RefusalText>(text);
  if (kept === undefined || typeof kept.r !== 'string' || typeof kept.l !== 'number') return undefined;
  const { r: reason, a: address, n: node, f: firstAtMs, l: lastAtMs, c: count } = kept;
  return { type: 'refused', code, reason, address, node, firstAtMs, lastAtMs, count };
}

function frameText({ atMs, direction, type, bytes, method, url, responseCode, excerpt }: FrameEntry): FrameText {
  return { t: Math.round(atMs), d: direction, k: type, b: bytes, m: method, u: url, c: responseCode, x: excerpt };
}

function rounded(ms: number | undefined): number | undefined {
  return ms === undefined ? undefined : Math.round(ms);
}

function parsed<Kept>(text: string): Kept | undefined {
  try {
    const value: unknown = JSON.parse(text);
    return typeof value === 'object' && value !== null ? (value as Kept) : undefined;
  } catch {
    return undefined; // Not of this version.
  }
}
