/** Schedules over HTTP: a command or a job at the moments of a timetable. The path is judged when the schedule is made, for the key that makes it,
 *  and again for the key that resumes it; the schedule goes on when that key is revoked (C5, C10, S13). */

import { findMembers, MemberNames, scanJson } from '@lapi-broker/protocol';
import type { z } from 'zod';
import { LIMITS } from '../../limits.ts';
import type { ScheduledWork, ScheduleRecord } from '../../schedule/schedule.ts';
import type { Answer } from '../answer.ts';
import { attemptsOf } from '../command-schema.ts';
import { orderOf } from '../job-body.ts';
import { invalid, json, operation, problem } from '../operation.ts';
import {
  SCHEDULE_BYTES,
  ScheduleList,
  ScheduleListQuery,
  SchedulePath,
  ScheduleRequest,
  ScheduleView,
} from '../schedule-schema.ts';
import { judgePath } from './call.ts';

type Body = z.output<typeof ScheduleRequest>;

const EXAMPLE = {
  id: '0mk5x3v9qx2m4q8w1z5t',
  name: 'night mode',
  cron: '0 20 * * *',
  timeZone: 'Europe/Berlin',
  graceMs: 60_000,
  enabled: true,
  command: { code: '210235TEST0000000001', method: 'PUT', url: '/LAPI/V1.0/Channels/1/Image/DayNightMode' },
  nextAt: '2026-03-02T19:00:00.000Z',
  lastFiredAt: '2026-03-01T19:00:00.000Z',
  lastResult: { status: 'fired', command: '07k3v9x2m4q8w1z5t6r0ya' },
  missed: 0,
  createdAt: '2026-02-28T14:12:09.120Z',
} as const;

const iso = (ms: number): string => new Date(ms).toISOString();

function toView(schedule: ScheduleRecord): z.output<typeof ScheduleView> {
  const { id, name, cron, timeZone, graceMs, work, nextAtMs, last, missed, createdAtMs } = schedule;
  const { atMs, ...result } = last ?? { atMs: undefined };
  const what =
    work.kind === 'command'
      ? { command: { code: work.command.code, method: work.command.method, url: work.command.url } }
      : { job: { name: work.job.name, method: work.job.command.method, url: work.job.command.url } };
  return {
    id,
    name,
    cron,
    timeZone,
    graceMs,
    enabled: nextAtMs !== undefined,
    ...what,
    ...(nextAtMs === undefined ? {} : { nextAt: iso(nextAtMs) }),
    ...(atMs === undefined ? {} : { lastFiredAt: iso(atMs) }),
    ...('status' in result ? { lastResult: result } : {}),
    missed,
    createdAt: iso(createdAtMs),
  };
}

const PARTS = new MemberNames(['command', 'job'], 'exact');
const DATA = new MemberNames(['data'], 'exact');

/** `data` as it was written, because its digits must be kept (protocol E18). */
function workOf({ command, job }: Body, bytes: Buffer, keyId: string): ScheduledWork | Answer {
  const scan = scanJson(bytes, PARTS);
  const [commandAt, jobAt] = scan.status === 'ok' ? scan.members : [];
  if (command !== undefined && commandAt !== undefined) {
    const { code, method, url, timeoutMs, ttlMs, lane, backoffMs, coalesceKey, maxAttempts } = command;
    const attempts = attemptsOf(command);
    if (attempts === 'not_repeatable')
      return problem(
        'not_repeatable',
        `command.maxAttempts is ${maxAttempts}, and ${method} is repeated with retrySafe only`,
      );
    const dataAt = findMembers(bytes, commandAt.start, DATA)[0];
    const data = dataAt === undefined ? '' : bytes.toString('utf8', dataAt.start, dataAt.end);
    return {
      kind: 'command',
      command: {
        code,
        method,
        url,
        data: data === 'null' ? '' : data,
        lane: lane ?? 'normal',
        timeoutMs,
        ttlMs: ttlMs ?? LIMITS.ttlMs.default,
        maxAttempts: attempts,
        backoffMs: backoffMs ?? LIMITS.backoffMs.default,
        ...(coalesceKey === undefined ? {} : { coalesceKey }),
      },
    };
  }
  if (job === undefined || jobAt === undefined) throw new TypeError('checked by the schema before');
  const read = orderOf(job, bytes.subarray(jobAt.start, jobAt.end), { keyId });
  if (read.status === 'bad')
    return read.error === 'invalid_request' ? invalid([read.fault]) : problem(read.error, read.detail);
  const { name, command: each, pace, targets, data } = read.order;
  const ttlMs = job.ttlMs ?? LIMITS.ttlMs.default;
  return { kind: 'job', job: { name, command: each, pace, targets, data: data.toString(), ttlMs } };
}

const noSchedule = (id: string): Answer => problem('not_found', `there is no schedule ${id}`);

function scheduleAnswer(id: string, schedule: ScheduleRecord | undefined): Answer {
  return schedule === undefined ? noSchedule(id) : json(200, toView(schedule));
}

export const createSchedule = operation({
  id: 'createSchedule',
  tag: 'Schedules',
  summary: 'Send a command or start a job by a timetable',
  description: `Each moment makes one command or one job, also when processes die at that very moment. Guarded paths need the scope "admin" now; the schedule goes on when the key is revoked. The body holds at most ${SCHEDULE_BYTES / 1024} KiB. What happens is told as events \`schedule.fired\` and \`schedule.failed\`, with an empty \`code\`.`,
  scope: 'call',
  body: ScheduleRequest,
  bodyExample: {
    name: 'night mode',
    cron: '0 20 * * *',
    timeZone: 'Europe/Berlin',
    command: {
      code: '210235TEST0000000001',
      method: 'PUT',
      url: '/LAPI/V1.0/Channels/1/Image/DayNightMode',
      data: { Mode: 2 },
      retrySafe: true,
      ttlMs: 3_600_000,
    },
  },
  responses: {
    201: { description: 'The schedule; `Location` is where to read it.', schema: ScheduleView, example: EXAMPLE },
  },
  errors: ['forbidden_by_policy', 'not_repeatable'],
  async handle({ caller, body, bytes }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    if (bytes.length > SCHEDULE_BYTES)
      return problem('request_too_large', `the body of a schedule exceeds ${SCHEDULE_BYTES} bytes`);
    const judged = judgePath(body.command?.url ?? body.job?.command.url ?? '', caller, broker);
    if (judged !== undefined) return judged;
    const work = workOf(body, bytes, caller.keyId);
    if (work.kind !== 'command' && work.kind !== 'job') return work;
    const { name, cron, timeZone, graceMs, enabled } = body;
    const spec = { name, cron, timeZone, graceMs, work, keyId: caller.keyId };
    const created = await broker.schedules.create(spec, enabled);
    if (created === 'full')
      return problem('rate_limited', 'the number of schedules (LAPI_SCHEDULES); delete one first');
    return json(201, toView(created), [['Location', `/v1/schedules/${created.id}`]]);
  },
});

export const listSchedules = operation({
  id: 'listSchedules',
  tag: 'Schedules',
  summary: 'List schedules',
  description: 'Oldest first.',
  scope: 'read',
  orScope: 'call',
  query: ScheduleListQuery,
  responses: { 200: { description: 'A page.', schema: ScheduleList, example: { items: [EXAMPLE] } } },
  async handle({ query: { limit, cursor } }, broker) {
    const found = await broker.schedules.list(cursor, limit);
    const last = found.length === limit ? found.at(-1) : undefined;
    return json(200, { items: found.map(toView), ...(last === undefined ? {} : { cursor: last.id }) });
  },
});

export const readSchedule = operation({
  id: 'readSchedule',
  tag: 'Schedules',
  summary: 'Read a schedule',
  scope: 'read',
  orScope: 'call',
  params: SchedulePath,
  responses: { 200: { description: 'The schedule.', schema: ScheduleView, example: EXAMPLE } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    return scheduleAnswer(id, await broker.schedules.read(id));
  },
});

export const pauseSchedule = operation({
  id: 'pauseSchedule',
  tag: 'Schedules',
  summary: 'Pause a schedule',
  description: 'Nothing fires from now on; what has fired goes on. Pausing a paused one changes nothing.',
  scope: 'call',
  params: SchedulePath,
  responses: { 200: { description: 'The schedule.', schema: ScheduleView, example: EXAMPLE } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    return scheduleAnswer(id, await broker.schedules.pause(id));
  },
});

export const resumeSchedule = operation({
  id: 'resumeSchedule',
  tag: 'Schedules',
  summary: 'Resume a paused schedule',
  description:
    'Goes on with the next moment from now; what passed meanwhile does not fire and is not counted as missed.',
  scope: 'call',
  params: SchedulePath,
  responses: { 200: { description: 'The schedule.', schema: ScheduleView, example: EXAMPLE } },
  errors: ['forbidden_by_policy', 'not_found'],
  async handle({ caller, params: { id } }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    const work = (await broker.schedules.read(id))?.work;
    const { url } = work?.kind === 'job' ? work.job.command : (work?.command ?? {});
    const refused = url === undefined ? undefined : judgePath(url, caller, broker);
    if (refused !== undefined) return refused;
    return scheduleAnswer(id, await broker.schedules.resume(id));
  },
});

export const deleteSchedule = operation({
  id: 'deleteSchedule',
  tag: 'Schedules',
  summary: 'Delete a schedule',
  description: 'Commands and jobs that it made go on.',
  scope: 'call',
  params: SchedulePath,
  responses: { 204: { description: 'Deleted.' } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    if (!(await broker.schedules.remove(id))) return noSchedule(id);
    return { kind: 'empty', status: 204 };
  },
});
