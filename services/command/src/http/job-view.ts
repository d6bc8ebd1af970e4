/** Jobs and their targets as the API shows them. Pure. */

import type { Keyspace } from '@lapi-broker/redis';
import type { z } from 'zod';
import type { ChosenTarget } from '../job/choose-targets.ts';
import { commandIdOf, isJobEnded, isTargetEnded, type JobRecord } from '../job/job.ts';
import { JOB_LIMITS } from '../job/job-limits.ts';
import type { StoredTarget } from '../job/job-store.ts';
import { waveSize } from '../job/plan.ts';
import type { JobPlan, JobView, TargetView } from './job-schema.ts';

/** A measurement older than this says nothing about now. */
const RATE_FRESH_MS = 10_000;

const iso = (ms: number): string => new Date(ms).toISOString();

export function jobView(job: JobRecord, nowMs: number): z.output<typeof JobView> {
  const { id, name, total, counts, progress, pace, command, schedule, rate } = job;
  const { state, reason, wave, waveStarted } = progress;
  const isScheduled = state === 'running' && job.startedAtMs === undefined && nowMs < job.notBeforeMs;
  const perSecond = state === 'running' && rate !== undefined && nowMs - rate.atMs < RATE_FRESH_MS ? rate.perSecond : 0;
  const left = counts.todo + counts.starting + counts.active;
  const inWave = pace.waves !== undefined && wave > 0 && !isJobEnded(state);
  return {
    id,
    name,
    state: isScheduled ? 'scheduled' : state,
    ...(reason === '' ? {} : { reason }),
    total,
    counts,
    ...(inWave && pace.waves !== undefined
      ? { wave: { number: wave, size: Math.min(total, waveSize(pace.waves, wave)), started: waveStarted } }
      : {}),
    ...(perSecond > 0 ? { ratePerSecond: perSecond, estimatedEndAt: iso(nowMs + (left / perSecond) * 1_000) } : {}),
    command: { method: command.method, url: command.url },
    concurrency: pace.concurrency,
    ...(job.notBeforeMs > 0 ? { notBefore: iso(job.notBeforeMs) } : {}),
    expiresAt: iso(job.deadlineMs),
    ...(schedule === undefined ? {} : { schedule }),
    createdAt: iso(job.createdAtMs),
    ...(job.startedAtMs === undefined ? {} : { startedAt: iso(job.startedAtMs) }),
    ...(job.endedAtMs === undefined ? {} : { endedAt: iso(job.endedAtMs) }),
  };
}

export function targetView(
  jobId: string,
  target: StoredTarget,
  keyspace: Pick<Keyspace, 'shardOf'>,
): z.output<typeof TargetView> {
  const { code, state, tries, executed, reason, responseCode, startedAtMs, endedAtMs } = target;
  const isEnded = isTargetEnded(state);
  return {
    code,
    state,
    tries,
    ...(tries > 0 ? { commandId: commandIdOf(jobId, code, tries, keyspace.shardOf(code)) } : {}),
    ...(isEnded && executed !== undefined ? { executed } : {}),
    ...(isEnded && reason !== '' ? { reason } : {}),
    ...(isEnded && responseCode !== undefined ? { responseCode } : {}),
    ...(startedAtMs === undefined ? {} : { startedAt: iso(startedAtMs) }),
    ...(isEnded && endedAtMs !== undefined ? { endedAt: iso(endedAtMs) } : {}),
  };
}

export function planView(targets: readonly ChosenTarget[]): z.output<typeof JobPlan> {
  const groups = new Map<string, number>();
  for (const target of targets) for (const tag of target.groups) groups.set(tag, (groups.get(tag) ?? 0) + 1);
  const largest = [...groups].sort(([a, m], [b, n]) => n - m || (a < b ? -1 : 1)).slice(0, JOB_LIMITS.groups);
  return {
    total: targets.length,
    unknown: targets.filter(({ known }) => !known).length,
    online: targets.filter(({ online }) => online).length,
    groups: largest.map(([tag, devices]) => ({ tag, devices })),
    sample: targets.slice(0, JOB_LIMITS.sample).map(({ code }) => code),
  };
}

const COLUMNS = [
  'code',
  'state',
  'executed',
  'reason',
  'responseCode',
  'tries',
  'commandId',
  'startedAt',
  'endedAt',
] as const;

/** The targets as CSV (RFC 4180), with a line of names. */
export function targetsCsv(
  jobId: string,
  targets: readonly StoredTarget[],
  keyspace: Pick<Keyspace, 'shardOf'>,
): string {
  const lines = targets.map((target) => {
    const view = targetView(jobId, target, keyspace);
    return COLUMNS.map((column) => csvField(String(view[column] ?? ''))).join();
  });
  return `${[COLUMNS.join(), ...lines].join('\r\n')}\r\n`;
}

/** Quoted where RFC 4180 needs it. A field that a spreadsheet would run as a formula gets an apostrophe in front. */
export function csvField(text: string): string {
  const inert = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text;
  return /[",\r\n]/.test(inert) ? `"${inert.replaceAll('"', '""')}"` : inert;
}
