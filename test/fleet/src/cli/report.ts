/** Turns what a fleet has counted into lines for people and a summary for scripts. Pure. */

import type { FleetSnapshot } from '../fleet.ts';

export interface ReportInput {
  readonly now: FleetSnapshot;
  /** The snapshot of the line before. */
  readonly before: FleetSnapshot;
  readonly secondsBetween: number;
  readonly secondsSinceStart: number;
  /** Of the events answered since the line before. */
  readonly recentEventMs: { readonly p50: number | undefined; readonly p99: number | undefined };
}

/** What usually causes a failure, in the words of somebody who can do something about it. */
const CAUSES: readonly (readonly [pattern: RegExp, cause: string])[] = [
  [/ECONNREFUSED/, 'nothing listens at --url'],
  [/ENOTFOUND|EAI_AGAIN/, 'the host of --url is unknown'],
  [/EMFILE|ENFILE/, 'out of file descriptors: raise ulimit -n or use more processes'],
  [/EADDRNOTAVAIL/, 'out of ports or a --source that this machine does not have'],
  [/step 1: http 404/, 'this is not the device listener of a broker'],
  [/step 2: http 401/, 'not provisioned, or another secret'],
  [/http 429/, 'the broker limits this address or this code'],
  [/http 503/, 'the broker is draining, overloaded or without its store'],
  [/no_nonce|bad_answer/, 'this is not a LAPI broker'],
  [/CERT|SELF_SIGNED|ERR_TLS/, 'certificate not trusted: use --insecure'],
];

export function reportLine({ now, before, secondsBetween, secondsSinceStart, recentEventMs }: ReportInput): string {
  const perSecond = (pick: (snapshot: FleetSnapshot) => number) =>
    shortNumber((pick(now) - pick(before)) / Math.max(secondsBetween, 0.001));
  const { states } = now;
  const parts = [
    `${Math.round(secondsSinceStart)}s  online ${states.online}/${now.devices}`,
    `registering ${states.registering}`,
    `failed ${now.failing}${now.failing === 0 ? '' : ` (${reasonsText(now, 3)})`}`,
    `calls ${perSecond((snapshot) => snapshot.counts.callsAnswered)}/s`,
    `events ${perSecond((snapshot) => snapshot.counts.eventsSent)}/s acked ${perSecond((snapshot) => snapshot.counts.eventsAcked)}/s`,
  ];
  if (recentEventMs.p50 !== undefined)
    parts.push(`p50 ${shortMs(recentEventMs.p50)} p99 ${shortMs(recentEventMs.p99)}`);
  return parts.join('  ');
}

/** Why devices are not online, with likely causes. */
export function missingSentence(snapshot: FleetSnapshot, missing: number, waitedS: number): string {
  const [top] = snapshot.reasons;
  const cause = top === undefined ? undefined : CAUSES.find(([pattern]) => pattern.test(top[0]))?.[1];
  const why =
    top === undefined ? 'still registering' : reasonsText(snapshot, 3) + (cause === undefined ? '' : `: ${cause}`);
  return `${missing} of ${snapshot.devices} devices did not come online within ${waitedS} s (${why}).`;
}

export function summary(
  snapshot: FleetSnapshot,
  facts: { readonly missing: number; readonly seconds: number; readonly exitCode: number },
): string {
  const { counts, states } = snapshot;
  return JSON.stringify({
    exitCode: facts.exitCode,
    seconds: Math.round(facts.seconds * 10) / 10,
    devices: snapshot.devices,
    online: states.online,
    missing: facts.missing,
    failing: snapshot.failing,
    reasons: Object.fromEntries(snapshot.reasons),
    counts,
    registrationMs: roundedMs(snapshot.registrationMs),
    eventAnswerMs: roundedMs(snapshot.eventAnswerMs),
  });
}

function reasonsText(snapshot: FleetSnapshot, limit: number): string {
  return snapshot.reasons
    .slice(0, limit)
    .map(([reason, count]) => `${reason} × ${count}`)
    .join(', ');
}

function roundedMs(values: FleetSnapshot['eventAnswerMs']): {
  readonly p50: number | null;
  readonly p99: number | null;
} {
  const rounded = (ms: number | undefined) => (ms === undefined ? null : Math.round(ms * 100) / 100);
  return { p50: rounded(values.p50), p99: rounded(values.p99) };
}

function shortNumber(value: number): string {
  return value >= 100 || Number.isInteger(value) ? String(Math.round(value)) : value.toFixed(1);
}

function shortMs(ms: number | undefined): string {
  return ms === undefined ? '–' : `${ms < 10 ? ms.toFixed(1) : Math.round(ms)} ms`;
}
