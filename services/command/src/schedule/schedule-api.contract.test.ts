/** Schedules over HTTP on a real Redis: what is accepted, what is refused and why, and that a firing ends in a real command or job. */

import { randomBytes } from 'node:crypto';
import { type RedisServer, startRedis, waitFor } from '@lapi-broker/fixture';
import { createKeyspace } from '@lapi-broker/redis';
import { createLog } from '@lapi-broker/telemetry';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { type CommandService, createCommandService } from '../command.ts';
import { readCommandConfig } from '../config.ts';
import { openEvents } from '../testing/sse-client.ts';

const ADMIN = `admin-${randomBytes(24).toString('base64url')}`;
const PREFIX = 'schedule-test';
const CODE = 'CAM-1';
const LIMIT = 12;
const keyspace = createKeyspace(PREFIX);

let redis: RedisServer;
let service: CommandService;
let base: string;
let caller: string;

beforeAll(async () => {
  redis = await startRedis();
  service = createCommandService(
    readCommandConfig({
      REDIS_URL: redis.url,
      LAPI_KEY_PREFIX: PREFIX,
      LAPI_API_HOST: '127.0.0.1',
      LAPI_API_PORT: '0',
      LAPI_PROBE_PORT: '0',
      LAPI_SECRET_KEY: Buffer.alloc(32, 7).toString('base64'),
      LAPI_API_KEY: ADMIN,
      LAPI_SCHEDULES: String(LIMIT),
    }),
    createLog({ service: 'command', level: 'silent' }),
  );
  await service.lifecycle.start();
  base = `http://127.0.0.1:${service.ports().api}`;
  expect((await ask('PUT', `/v1/devices/${CODE}`, { secret: 'k9!Zr7_pQ2wX4vLm' })).status).toBe(201);
  caller = String((await ask('POST', '/v1/keys', { name: 'vms', scopes: ['call'] })).body.key);
});

afterAll(async () => {
  await service.lifecycle.stop();
  await redis.stop();
});

interface Answer {
  readonly status: number;
  readonly location: string | null;
  readonly body: Record<string, unknown>;
}

async function ask(method: string, path: string, body?: unknown, key: string = ADMIN): Promise<Answer> {
  const response = await fetch(`${base}${path}`, {
    method,
    headers: { authorization: `Bearer ${key}` },
    ...(body === undefined ? {} : { body: typeof body === 'string' ? body : JSON.stringify(body) }),
  });
  const text = await response.text();
  return {
    status: response.status,
    location: response.headers.get('location'),
    body: text === '' ? {} : JSON.parse(text),
  };
}

const command = { code: CODE, method: 'PUT', url: '/LAPI/V1.0/Channels/1/Image/DayNightMode', data: { Mode: 2 } };
const job = {
  command: { method: 'GET', url: '/LAPI/V1.0/Channels/System/ChannelDetailInfos' },
  targets: { codes: [CODE] },
};
const nightly = { name: 'nightly', cron: '30 2 * * *', timeZone: 'Europe/Berlin', command };

async function make(body: object): Promise<string> {
  const { status, body: made } = await ask('POST', '/v1/schedules', body);
  expect(status).toBe(201);
  return String(made.id);
}

/** As if its moment were now: the shortest timetable is a minute. */
async function makeDue(id: string): Promise<number> {
  const [seconds] = (await redis.command('TIME')) as string[];
  const atMs = Number(seconds) * 1_000 - 2_000;
  await redis.command('HSET', keyspace.schedule(id), 'next', atMs);
  await redis.command('ZADD', keyspace.dueSchedules(), atMs, id);
  return atMs;
}

async function fired(id: string): Promise<Record<string, unknown>> {
  return await waitFor(
    async () => (await ask('GET', `/v1/schedules/${id}`)).body.lastResult as Record<string, unknown>,
    {
      deadlineMs: 10_000,
      what: 'a firing',
    },
  );
}

test('a schedule is made, read, listed, paused, resumed and deleted', async () => {
  const { status, location, body } = await ask('POST', '/v1/schedules', nightly, caller);
  expect(status).toBe(201);
  expect(location).toBe(`/v1/schedules/${body.id}`);
  expect(body).toMatchObject({
    name: 'nightly',
    cron: '30 2 * * *',
    timeZone: 'Europe/Berlin',
    graceMs: 60_000,
    enabled: true,
    command: { code: CODE, method: 'PUT', url: command.url },
    missed: 0,
  });
  const inBerlin = new Intl.DateTimeFormat('de-DE', { timeZone: 'Europe/Berlin', hour: '2-digit', minute: '2-digit' });
  expect(inBerlin.format(new Date(String(body.nextAt)))).toBe('02:30');
  const path = String(location);
  expect((await ask('GET', path)).body).toEqual(body);
  expect((await ask('GET', '/v1/schedules?limit=1')).body).toMatchObject({ items: [body] });
  const paused = await ask('POST', `${path}/pause`, undefined, caller);
  expect(paused).toMatchObject({ status: 200, body: { enabled: false } });
  expect(paused.body).not.toHaveProperty('nextAt');
  expect((await ask('POST', `${path}/resume`)).body).toEqual(body);
  expect((await ask('DELETE', path)).status).toBe(204);
  for (const [method, each] of [
    ['GET', path],
    ['DELETE', path],
    ['POST', `${path}/pause`],
    ['POST', `${path}/resume`],
  ] as const)
    expect((await ask(method, each)).body).toMatchObject({ code: 'not_found' });
});

describe('what is not a schedule is refused with what is expected', () => {
  test.each<[string, object, string, string]>([
    ['four fields', { ...nightly, cron: '30 2 * *' }, 'body.cron', 'five fields'],
    ['an hour that is none', { ...nightly, cron: '30 24 * * *' }, 'body.cron', 'five fields'],
    ['a day that never comes', { ...nightly, cron: '0 0 31 2 *' }, 'body.cron', 'five fields'],
    ['a zone that is none', { ...nightly, timeZone: 'Europe/Nowhere' }, 'body.timeZone', 'Europe/Berlin'],
    ['an offset for a zone', { ...nightly, timeZone: '+02:00' }, 'body.timeZone', 'IANA'],
    ['nothing to do', { cron: '0 0 * * *' }, 'body.command', 'either'],
    ['two things to do', { ...nightly, job }, 'body.command', 'either'],
    ['a window in the job', { cron: '0 0 * * *', job: { ...job, window: {} } }, 'body.job.window', 'ttlMs'],
    ['a dry run', { cron: '0 0 * * *', job: { ...job, dryRun: true } }, 'body.job.dryRun', 'dry run'],
    ['a member that is none', { ...nightly, every: 5 }, 'body', 'every'],
    ['a grace time above an hour', { ...nightly, graceMs: 3_600_001 }, 'body.graceMs', '3600000'],
    [
      'a time of day in the command',
      { ...nightly, command: { ...command, notBefore: '2027-01-01T00:00:00Z' } },
      'body.command',
      'notBefore',
    ],
  ])('%s', async (_, body, path, problem) => {
    const answer = await ask('POST', '/v1/schedules', body);
    expect(answer).toMatchObject({ status: 400, body: { code: 'invalid_request' } });
    expect(answer.body.errors).toContainEqual({ path, problem: expect.stringContaining(problem) });
  });

  test('more attempts than may be', async () => {
    const body = { ...nightly, command: { ...command, maxAttempts: 2 } };
    expect(await ask('POST', '/v1/schedules', body)).toMatchObject({ status: 422, body: { code: 'not_repeatable' } });
  });

  test('a body above 64 KiB', async () => {
    const body = { ...nightly, command: { ...command, data: { text: 'x'.repeat(65_536) } } };
    expect(await ask('POST', '/v1/schedules', body)).toMatchObject({
      status: 413,
      body: { code: 'request_too_large' },
    });
  });

  test('a guarded path, unless an admin asks; and one that the broker keeps', async () => {
    const guarded = { ...nightly, command: { ...command, url: '/LAPI/V1.0/System/Reboot' } };
    expect(await ask('POST', '/v1/schedules', guarded, caller)).toMatchObject({
      status: 403,
      body: { code: 'forbidden_by_policy' },
    });
    const inJob = { cron: '0 0 * * *', job: { ...job, command: { ...job.command, url: '/LAPI/V1.0/System/Reboot' } } };
    expect((await ask('POST', '/v1/schedules', inJob, caller)).status).toBe(403);
    for (const each of [guarded, inJob]) {
      const path = `/v1/schedules/${await make({ ...each, enabled: false })}`;
      expect((await ask('POST', `${path}/resume`, undefined, caller)).status).toBe(403);
      expect((await ask('GET', path)).body).toMatchObject({ enabled: false });
      expect((await ask('POST', `${path}/resume`)).body).toMatchObject({ enabled: true });
      expect((await ask('DELETE', path)).status).toBe(204);
    }
    const kept = { ...nightly, command: { ...command, url: '/LAPI/V1.0/System/Event/Subscription' } };
    expect((await ask('POST', '/v1/schedules', kept)).body).toMatchObject({ code: 'forbidden_by_policy' });
  });
});

describe.concurrent('a firing', () => {
  test('makes a command in the lane of the device, with `data` as it was written', async () => {
    const text = JSON.stringify(nightly).replace('{"Mode":2}', '{ "Mode": 2.0, "Id": 12345678901234567890 }');
    const id = String((await ask('POST', '/v1/schedules', text)).body.id);
    const atMs = await makeDue(id);
    const result = await fired(id);
    expect(result).toEqual({ status: 'fired', command: expect.stringMatching(/^[0-9a-z]{22}$/) });
    expect((await ask('GET', `/v1/commands/${result.command}`)).body).toMatchObject({
      code: CODE,
      method: 'PUT',
      url: command.url,
      state: 'queued',
      maxAttempts: 1,
    });
    expect(await redis.command('HGETALL', keyspace.command(result.command as never))).toContain(
      '{ "Mode": 2.0, "Id": 12345678901234567890 }',
    );
    expect((await ask('GET', `/v1/schedules/${id}`)).body.lastFiredAt).toBe(new Date(atMs).toISOString());
  });

  test('makes a job that names its schedule', async () => {
    const id = await make({ cron: '0 3 * * *', job: { ...job, name: 'details' } });
    await makeDue(id);
    const result = await fired(id);
    expect(result).toEqual({ status: 'fired', job: expect.stringMatching(/^[0-9a-z]{20}$/) });
    expect((await ask('GET', `/v1/jobs/${result.job}`)).body).toMatchObject({
      schedule: id,
      name: 'details',
      total: 1,
    });
  });

  test('that is refused says why, and event readers hear of it', async ({ onTestFinished }) => {
    const reader = await openEvents(service.ports().api, '/v1/events?kind=schedule.*', {
      authorization: `Bearer ${ADMIN}`,
    });
    onTestFinished(() => reader.close());
    const id = await make({ ...nightly, command: { ...command, code: 'CAM-NOBODY' } });
    const atMs = await makeDue(id);
    expect(await fired(id)).toMatchObject({ status: 'failed', error: 'device_unknown' });
    const event = await waitFor(() => reader.events().find(({ kind }) => kind === 'schedule.failed'), {
      deadlineMs: 5_000,
      what: 'the event',
    });
    expect(event).toMatchObject({
      code: '',
      data: { id, name: 'nightly', at: new Date(atMs).toISOString(), status: 'failed', error: 'device_unknown' },
    });
  });
});

test('above the limit there is no further schedule, and the limit is named', async () => {
  let answer = await ask('POST', '/v1/schedules', { ...nightly, enabled: false });
  for (let i = 0; i < LIMIT && answer.status === 201; i++)
    answer = await ask('POST', '/v1/schedules', { ...nightly, enabled: false });
  expect(answer).toMatchObject({
    status: 429,
    body: { code: 'rate_limited', detail: expect.stringContaining('LAPI_SCHEDULES') },
  });
});
