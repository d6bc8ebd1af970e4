/** Jobs over HTTP: one command for many devices, carried out at a pace, steered while it runs. The path is judged when the job is made, and
 *  again for whoever makes it go on: with a resume, or a retry (C5, C10, S13). */

import { BrokerError } from '@lapi-broker/protocol';
import type { Caller } from '../../access/access.ts';
import { JOB_LIMITS } from '../../job/job-limits.ts';
import type { Created, JobSteered } from '../../job/jobs.ts';
import { isListCursor } from '../../job/redis-job-store.ts';
import type { Answer } from '../answer.ts';
import type { Broker } from '../broker.ts';
import { decodeJobBody, orderOf } from '../job-body.ts';
import {
  JobHeaders,
  JobList,
  JobListQuery,
  JobPath,
  JobPlan,
  JobRequest,
  JobView,
  RetryRequest,
  TargetList,
  TargetListQuery,
} from '../job-schema.ts';
import { jobView, planView, targetsCsv, targetView } from '../job-view.ts';
import { faultsOf, invalid, json, operation, problem } from '../operation.ts';
import { judgePath } from './call.ts';

const EXAMPLE_COUNTS = {
  todo: 3_920,
  starting: 0,
  active: 50,
  succeeded: 1_022,
  failed: 3,
  timed_out: 4,
  unknown: 1,
  expired: 0,
  cancelled: 0,
  skipped: 0,
};

const EXAMPLE_JOB = {
  id: 'k3v9x2m4q8w1z5t6r0ya',
  name: 'time servers, north',
  state: 'running',
  total: 5_000,
  counts: EXAMPLE_COUNTS,
  wave: { number: 3, size: 1_000, started: 580 },
  ratePerSecond: 41.5,
  estimatedEndAt: '2026-03-01T01:03:35.000Z',
  command: { method: 'PUT', url: '/LAPI/V1.0/System/Time' },
  concurrency: 50,
  notBefore: '2026-03-01T01:00:00.000Z',
  expiresAt: '2026-03-01T05:00:00.000Z',
  createdAt: '2026-02-28T14:12:09.120Z',
  startedAt: '2026-03-01T01:00:00.240Z',
};

export const createJob = operation({
  id: 'createJob',
  tag: 'Jobs',
  summary: 'Send one command to many devices',
  description: `For at most ${JOB_LIMITS.targets} devices, by list or by filter. Each device gets the command through its lane, once: processes that die and are replaced send nothing twice. Devices without a session wait for it and hold nobody up. \`dryRun\` answers 200 with whom it would reach. With an Idempotency-Key the request may be repeated without risk: the answer is then 200 and the same job.`,
  scope: 'call',
  headers: JobHeaders,
  body: JobRequest,
  bodyLimit: 'job',
  bodyExample: {
    name: 'time servers, north',
    command: { method: 'PUT', url: '/LAPI/V1.0/System/Time', data: { TimeZone: 'GMT+01:00' }, retrySafe: true },
    targets: { filter: { tag: 'north' } },
    concurrency: 50,
    perTag: { prefix: 'site-', limit: 2 },
    waves: { first: 10, growth: 10 },
    abort: { failurePercent: 5 },
    window: { notBefore: '2026-03-01T01:00:00Z', notAfter: '2026-03-01T05:00:00Z' },
  },
  responses: {
    200: { description: 'Whom it would reach (`dryRun`), or the job that the same key made before.', schema: JobPlan },
    201: { description: 'The job exists; `Location` is where to read it.', schema: JobView, example: EXAMPLE_JOB },
  },
  errors: ['forbidden_by_policy', 'key_conflict', 'not_repeatable', 'store_full'],
  decode: decodeJobBody,
  async handle({ caller, body, bytes, exchange }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    const key = keyOf(exchange.request.header('idempotency-key'));
    if (key.status === 'refused') return key.answer;
    const judged = judgePath(body.command.url, caller, broker);
    if (judged !== undefined) return judged;
    const idempotencyKey = key.key === undefined ? undefined : `api:${key.key}`;
    const read = orderOf(body, bytes, { keyId: caller.keyId, idempotencyKey });
    if (read.status === 'bad')
      return read.error === 'invalid_request' ? invalid([read.fault]) : problem(read.error, read.detail);
    if (body.dryRun) {
      const surveyed = await broker.jobs.survey(read.order);
      return surveyed.status === 'chosen' ? json(200, planView(surveyed.targets)) : refusal(surveyed);
    }
    const created = await broker.jobs.create(read.order);
    if (created.status === 'refused') return refusal(created);
    const location = ['Location', `/v1/jobs/${created.job.id}`] as const;
    const view = jobView(created.job, broker.nowMs());
    return created.status === 'created'
      ? json(201, view, [location])
      : json(200, view, [location, ['Idempotent-Replay', 'true']]);
  },
});

function keyOf(
  header: string,
):
  | { readonly status: 'found'; readonly key: string | undefined }
  | { readonly status: 'refused'; readonly answer: Answer } {
  if (header === '') return { status: 'found', key: undefined };
  const parsed = JobHeaders.safeParse({ 'Idempotency-Key': header });
  return parsed.success
    ? { status: 'found', key: header }
    : { status: 'refused', answer: invalid(faultsOf(parsed.error, 'header')) };
}

function refusal({ error, detail, part = 'targets' }: Extract<Created, { readonly status: 'refused' }>): Answer {
  return error === 'invalid_request' ? invalid([{ path: `body.${part}`, problem: detail }]) : problem(error, detail);
}

const noJob = (id: string): Answer => problem('not_found', `there is no job ${id}`);

export const listJobs = operation({
  id: 'listJobs',
  tag: 'Jobs',
  summary: 'List jobs',
  description: 'Newest first. Jobs are kept for 7 days after their end, as long as there are not too many.',
  scope: 'read',
  orScope: 'call',
  query: JobListQuery,
  responses: { 200: { description: 'A page.', schema: JobList, example: { items: [EXAMPLE_JOB] } } },
  async handle({ query: { limit, cursor } }, broker) {
    if (cursor !== undefined && !isListCursor(cursor)) return badCursor();
    const page = await broker.jobs.list(cursor, limit);
    const nowMs = broker.nowMs();
    const items = page.items.map((job) => jobView(job, nowMs));
    return json(200, { items, ...(page.cursor === undefined ? {} : { cursor: page.cursor }) });
  },
});

function badCursor(): Answer {
  return invalid([{ path: 'query.cursor', problem: 'not a cursor of this listing' }]);
}

export const readJob = operation({
  id: 'readJob',
  tag: 'Jobs',
  summary: 'Read a job',
  description:
    'How far it is. Each change is an event too (`job.*`, with an empty `code`), progress at most once per second.',
  scope: 'read',
  orScope: 'call',
  params: JobPath,
  responses: { 200: { description: 'The job.', schema: JobView, example: EXAMPLE_JOB } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    const job = await broker.jobs.read(id);
    return job === undefined ? noJob(id) : json(200, jobView(job, broker.nowMs()));
  },
});

const STEERED = { 200: { description: 'The job.', schema: JobView, example: EXAMPLE_JOB } } as const;

function steeredAnswer(id: string, steered: JobSteered, broker: Broker, wish: string): Answer {
  switch (steered.status) {
    case 'steered':
      return json(200, jobView(steered.job, broker.nowMs()));
    case 'conflict':
      return problem('conflict', `the job is ${steered.state} and cannot be ${wish}`);
    case 'not_found':
      return noJob(id);
  }
}

export const pauseJob = operation({
  id: 'pauseJob',
  tag: 'Jobs',
  summary: 'Pause a job',
  description:
    'Nothing is sent from now on, commands that wait in lanes included; what has been sent ends. The time limit goes on.',
  scope: 'call',
  params: JobPath,
  responses: STEERED,
  errors: ['not_found', 'conflict'],
  async handle({ params: { id } }, broker) {
    return steeredAnswer(id, await broker.jobs.pause(id), broker, 'paused');
  },
});

export const resumeJob = operation({
  id: 'resumeJob',
  tag: 'Jobs',
  summary: 'Resume a paused job',
  scope: 'call',
  params: JobPath,
  responses: STEERED,
  errors: ['forbidden_by_policy', 'not_found', 'conflict'],
  async handle({ caller, params: { id } }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    const refused = await judgeJob(id, caller, broker);
    if (refused !== undefined) return refused;
    return steeredAnswer(id, await broker.jobs.resume(id), broker, 'resumed');
  },
});

export const cancelJob = operation({
  id: 'cancelJob',
  tag: 'Jobs',
  summary: 'Cancel a job',
  description:
    'What has not been sent ends `cancelled`, executed `no`; what has been sent ends by itself, and then the job does. Until then it is `stopping`.',
  scope: 'call',
  params: JobPath,
  responses: STEERED,
  errors: ['not_found', 'conflict'],
  async handle({ params: { id } }, broker) {
    return steeredAnswer(id, await broker.jobs.cancel(id), broker, 'cancelled');
  },
});

export const retryJob = operation({
  id: 'retryJob',
  tag: 'Jobs',
  summary: 'Send it again where it failed',
  description:
    'The same job goes on, with its pace from the first wave on, for the devices in `states`; its new time limit takes the place of `expiresAt` and `window.notAfter`. A device whose answer came late after all is left alone.',
  scope: 'call',
  params: JobPath,
  body: RetryRequest.optional(),
  bodyOptional: true,
  bodyExample: { states: ['failed', 'expired'] },
  responses: STEERED,
  errors: ['forbidden_by_policy', 'not_found', 'conflict'],
  async handle({ caller, params: { id }, body }, broker) {
    if (caller === undefined) throw new TypeError('this route has a scope');
    const refused = await judgeJob(id, caller, broker);
    if (refused !== undefined) return refused;
    const { states, ttlMs = JOB_LIMITS.ttlMs.default } = body ?? {};
    const retried = await broker.jobs.retry(id, { ttlMs, ...(states === undefined ? {} : { states }) });
    return retried.status === 'refused'
      ? problem(retried.error, retried.detail)
      : steeredAnswer(id, retried, broker, 'retried');
  },
});

async function judgeJob(id: string, caller: Caller, broker: Broker): Promise<Answer | undefined> {
  const job = await broker.jobs.read(id);
  return job === undefined ? noJob(id) : judgePath(job.command.url, caller, broker);
}

export const listTargets = operation({
  id: 'listJobTargets',
  tag: 'Jobs',
  summary: 'List what became of each device',
  description: 'In the order of the job.',
  scope: 'read',
  orScope: 'call',
  params: JobPath,
  query: TargetListQuery,
  responses: {
    200: {
      description: 'A page.',
      schema: TargetList,
      example: {
        items: [
          {
            code: '210235TEST0000000001',
            state: 'succeeded',
            tries: 1,
            commandId: '07k3v9x2m4q8w1z5t6r0ya',
            executed: 'yes',
            responseCode: 0,
            startedAt: '2026-03-01T01:00:00.240Z',
            endedAt: '2026-03-01T01:00:00.310Z',
          },
        ],
      },
    },
  },
  errors: ['not_found'],
  async handle({ params: { id }, query: { limit, cursor, state } }, broker) {
    const from = cursor === undefined ? 0 : CURSOR.test(cursor) ? Number(cursor) : undefined;
    if (from === undefined) return badCursor();
    if ((await broker.jobs.read(id)) === undefined) return noJob(id);
    const { items, next } = await broker.jobs.targets(id, from, limit, state);
    return json(200, {
      items: items.map((target) => targetView(id, target, broker.keyspace)),
      ...(next === undefined ? {} : { cursor: String(next) }),
    });
  },
});

/** The index with which a page begins. */
const CURSOR = /^\d{1,5}$/;

export const exportTargets = operation({
  id: 'exportJobTargets',
  tag: 'Jobs',
  summary: 'Export what became of each device',
  description: 'All devices of the job, one per line, as CSV (RFC 4180) in UTF-8 with a line of names.',
  scope: 'read',
  orScope: 'call',
  params: JobPath,
  responses: { 200: { description: 'The table.', contentType: 'text/csv' } },
  errors: ['not_found'],
  async handle({ params: { id } }, broker) {
    if ((await broker.jobs.read(id)) === undefined) return noJob(id);
    const { items } = await broker.jobs.targets(id, 0, JOB_LIMITS.targets);
    if (items.length === 0) throw new BrokerError('broker_unavailable', 'the store has lost the devices of this job');
    return {
      kind: 'bytes',
      status: 200,
      contentType: 'text/csv; charset=utf-8; header=present',
      bytes: targetsCsv(id, items, broker.keyspace),
      headers: [['Content-Disposition', `attachment; filename="job-${id}.csv"`]],
    };
  },
});
