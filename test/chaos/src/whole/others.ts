/** V13: what devices notice that a fault does not touch. Direct calls to them, made while it lasts, beside those of the time before: how many,
 *  how many without an answer, how long the broker took. An end that is no answer of the device is an error, whatever the status. Pure. Errors are judged; times are told,
 *  not judged: the machine of a run is shared with all else that runs on it. */

import { tracesOf } from '../history/checker.ts';
import type { EntryOf, History } from '../history/history.ts';

/** A touched device is itself again by then. */
const RECOVERY_MS = 20_000;
const ERRORS = 0.001;

export interface Served {
  readonly calls: number;
  readonly errors: number;
  /** Without the time that the device itself took. */
  readonly p50Ms: number;
  readonly p99Ms: number;
}

export function servedIn(history: History): { readonly before: Served; readonly during: Served } {
  const ends = new Map<number, number>();
  const begins: EntryOf<'disturb.begin'>[] = [];
  const lastMs = history.entries.at(-1)?.atMs ?? 0;
  for (const entry of history.entries) {
    if (entry.kind === 'disturb.begin') begins.push(entry);
    else if (entry.kind === 'disturb.end') ends.set(entry.disturbance, entry.atMs);
  }
  const spans = begins.map(({ atMs, disturbance, devices }) => ({
    fromMs: atMs,
    toMs: ends.get(disturbance) ?? lastMs,
    devices: devices === undefined ? undefined : new Set(devices),
  }));
  const firstMs = Math.min(...spans.map(({ fromMs }) => fromMs));
  const here = new Map<string, number>();
  for (const entry of history.entries)
    if (entry.kind === 'socket.open' && !here.has(entry.device)) here.set(entry.device, entry.atMs);
  const calls = tracesOf(history).flatMap(({ command, acceptedFromMs, acceptedByMs, ids, last }) => {
    const { mode, reaction, device, timeoutMs } = command;
    if (mode !== 'direct' || reaction.kind !== 'answer' || reaction.afterMs >= timeoutMs) return [];
    // One that never came, or had not yet.
    if ((here.get(device) ?? Number.POSITIVE_INFINITY) > acceptedFromMs) return [];
    const isAnswered = ids.size > 0 && (last === undefined || last.executed === 'yes');
    const ms = isAnswered ? acceptedByMs - acceptedFromMs - reaction.afterMs : undefined;
    const byMs = Math.min(acceptedByMs, acceptedFromMs + timeoutMs);
    return [{ device, fromMs: acceptedFromMs, byMs, ms }];
  });
  const before = calls.filter(({ byMs }) => byMs < firstMs);
  const during = calls.filter(({ device, fromMs }) => {
    const around = spans.filter((span) => span.fromMs <= fromMs && fromMs <= span.toMs);
    // One that came since then may have come to where the fault is.
    if (around.length === 0 || around.some((span) => span.fromMs < (here.get(device) ?? 0))) return false;
    // One that comes back from an earlier fault is not unaffected.
    const near = spans.filter((span) => span.fromMs <= fromMs && fromMs <= span.toMs + RECOVERY_MS);
    return near.every(({ devices }) => devices !== undefined && !devices.has(device));
  });
  return { before: sum(before), during: sum(during) };
}

export function checkServed(history: History): { readonly check: 'V13'; readonly what: string }[] {
  const { calls, errors } = servedIn(history).during;
  if (errors <= ERRORS * calls) return [];
  return [{ check: 'V13', what: `${errors} of ${calls} direct calls to devices that the fault does not touch failed` }];
}

function sum(calls: readonly { readonly ms: number | undefined }[]): Served {
  const answered = calls.flatMap(({ ms }) => ms ?? []).sort((a, b) => a - b);
  const at = (share: number): number => Math.max(0, Math.round(answered[Math.ceil(answered.length * share) - 1] ?? 0));
  return { calls: calls.length, errors: calls.length - answered.length, p50Ms: at(0.5), p99Ms: at(0.99) };
}
