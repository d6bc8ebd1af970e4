/** Jobs over a fleet of 300 devices, two command services, one edge: what the devices received against what the API said. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type Broker, waitFor } from '@lapi-broker/fixture';
import { Fleet, type HookReply, planFleet, provisionDevices } from '@lapi-broker/fleet';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { EventReader } from './event-reader.ts';
import { type Setting, startSetting, staysTrue } from './setting.ts';

const FLEET = { devices: 300, prefix: '210235JOB' } as const;
const URL_OF = (run: string): string => `/LAPI/V1.0/System/Time?run=${run}`;

interface Receipt {
  readonly code: string;
  readonly atMs: number;
}

let setting: Setting;
let broker: Broker;
let fleet: Fleet;
const codes = planFleet(FLEET).map(({ code }) => code);
/** By the word in the URL of a run. */
const received = new Map<string, Receipt[]>();
const behaviours = new Map<string, (code: string) => HookReply | Promise<HookReply>>();

const receipts = (run: string): readonly Receipt[] => received.get(run) ?? [];
const codesOf = (run: string): string[] => receipts(run).map(({ code }) => code);

const sorted = (texts: readonly string[]): string[] => texts.toSorted((a, b) => (a < b ? -1 : 1));

beforeAll(async () => {
  setting = await startSetting({ edges: 1, commands: 2 });
  broker = setting.broker;
  const api = broker.commands[0]?.url ?? '';
  const provisioned = await provisionDevices(planFleet(FLEET), {
    api,
    key: broker.apiKey,
    tags: ['all'],
    profile: 'quiet',
  });
  expect(provisioned.status).toBe('done');
  fleet = new Fleet({ ...FLEET, urls: [broker.edgeUrl()], ratePerSecond: 600 });
  for (const device of fleet.devices) {
    device.onRequest = ({ query }) => {
      const run = query.get('run');
      if (run === null) return undefined;
      received.set(run, [...receipts(run), { code: device.code, atMs: performance.now() }]);
      return behaviours.get(run)?.(device.code) ?? { code: 0 };
    };
  }
  fleet.start();
  expect(await fleet.untilOnline(20_000)).toBe(true);
});
afterAll(async () => {
  await fleet.stop();
  await setting.stop();
});

type Json = Record<string, unknown>;
type Job = { readonly id: string; readonly state: string; readonly counts: Record<string, number> } & Json;

async function create(
  run: string,
  targets: Json,
  options: Json = {},
  headers: Record<string, string> = {},
): Promise<Job> {
  const body = { command: { method: 'PUT', url: URL_OF(run), data: { run } }, targets, ...options };
  const answer = await broker.api('/v1/jobs', { method: 'POST', body, headers });
  expect(answer.status, answer.text).toBe(201);
  return answer.json() as Job;
}

async function read(id: string, service = 0): Promise<Job> {
  return (await broker.api(`/v1/jobs/${id}`, { service })).json() as Job;
}

async function tagged(code: string, tags: readonly string[]): Promise<void> {
  expect((await broker.api(`/v1/devices/${code}`, { method: 'PUT', body: { tags } })).status).toBe(200);
}

async function steer(id: string, verb: string, body?: Json): Promise<{ readonly status: number; readonly job: Job }> {
  const answer = await broker.api(`/v1/jobs/${id}/${verb}`, {
    method: 'POST',
    ...(body === undefined ? {} : { body }),
  });
  return { status: answer.status, job: answer.json() as Job };
}

async function until(id: string, state: string, deadlineMs = 20_000, service = 0): Promise<Job> {
  return await waitFor(
    async () => {
      const job = await read(id, service);
      return job.state === state ? job : undefined;
    },
    { deadlineMs, what: `job ${id} to be ${state}` },
  );
}

describe.concurrent('jobs', () => {
  test('every device of a job gets the command once, with its bytes, and its result is told', async () => {
    const job = await create('all', { codes: codes.slice(0, 60) }, { concurrency: 20 });
    expect(job).toMatchObject({ total: 60, state: 'running' });
    const ended = await until(job.id, 'succeeded');
    expect(ended.counts).toMatchObject({ succeeded: 60, todo: 0, active: 0 });
    expect(sorted(codesOf('all'))).toEqual(codes.slice(0, 60));
    const page = (await broker.api(`/v1/jobs/${job.id}/targets?limit=50`)).json();
    expect(page.items).toHaveLength(50);
    const rest = (await broker.api(`/v1/jobs/${job.id}/targets?limit=50&cursor=${page.cursor}`)).json();
    expect(rest.items).toHaveLength(10);
    expect(rest.cursor).toBeUndefined();
    const [first] = page.items as Json[];
    expect(first).toMatchObject({ code: codes[0], state: 'succeeded', executed: 'yes', tries: 1 });
    const command = (await broker.api(`/v1/commands/${first?.commandId}`)).json();
    expect(command).toMatchObject({ code: codes[0], job: job.id, state: 'succeeded', url: URL_OF('all') });
    const listed = (await broker.api('/v1/jobs?limit=1000')).json();
    expect((listed.items as Job[]).map(({ id }) => id)).toContain(job.id);
  });

  test('a job for a filter reaches whom the dry run named, and a dry run reaches nobody', async () => {
    const some = codes.slice(60, 66);
    await Promise.all(some.map((code, i) => tagged(code, ['all', 'row', `site-${i % 2}`])));
    const wish = { filter: { tag: 'row', online: true } };
    const perTag = { prefix: 'site-', limit: 1 };
    const body = { command: { method: 'PUT', url: URL_OF('row') }, targets: wish, perTag, dryRun: true };
    const dry = await broker.api('/v1/jobs', { method: 'POST', body });
    expect(dry.status).toBe(200);
    expect(dry.json()).toEqual({
      total: 6,
      unknown: 0,
      online: 6,
      groups: [
        { tag: 'site-0', devices: 3 },
        { tag: 'site-1', devices: 3 },
      ],
      sample: some,
    });
    expect(receipts('row')).toEqual([]);

    const busy = new Map<string, number>();
    let most = 0;
    behaviours.set('row', async (code) => {
      const site = `site-${some.indexOf(code) % 2}`;
      busy.set(site, (busy.get(site) ?? 0) + 1);
      most = Math.max(most, ...busy.values());
      await sleep(50);
      busy.set(site, (busy.get(site) ?? 0) - 1);
      return { code: 0 };
    });
    await until((await create('row', wish, { perTag })).id, 'succeeded');
    expect(sorted(codesOf('row'))).toEqual(some);
    expect(most).toBe(1);
  });

  test('never more devices at a time than the concurrency allows', async () => {
    const some = codes.slice(66, 96);
    let out = 0;
    let most = 0;
    behaviours.set('narrow', async () => {
      out += 1;
      most = Math.max(most, out);
      await sleep(30);
      out -= 1;
      return { code: 0 };
    });
    await until((await create('narrow', { codes: some }, { concurrency: 5 })).id, 'succeeded');
    expect(sorted(codesOf('narrow'))).toEqual(some);
    expect(most).toBe(5);
  });

  test('a second wave that fails ends the job, and the rest is never sent', async () => {
    const some = codes.slice(96, 136);
    behaviours.set('waves', () => ({ code: receipts('waves').length > 4 ? 1 : 0 }));
    const job = await create(
      'waves',
      { codes: some },
      { waves: { first: 4, growth: 2 }, abort: { failurePercent: 10, afterEnded: 100 } },
    );
    const ended = await until(job.id, 'aborted');
    expect(ended.counts).toMatchObject({ succeeded: 4, failed: 8, skipped: 28 });
    expect(ended.reason).toBe('8 of 12 devices failed, allowed are 10 %');
    expect(sorted(codesOf('waves'))).toEqual(some.slice(0, 12));
    const skipped = (await broker.api(`/v1/jobs/${job.id}/targets?state=skipped`)).json();
    expect((skipped.items as Json[])[0]).toMatchObject({ executed: 'no', tries: 0 });
  });

  test('a pause holds within a second, and a resumed job goes on where it was', async () => {
    const some = codes.slice(136, 176);
    behaviours.set('pause', async () => {
      await sleep(100);
      return { code: 0 };
    });
    const job = await create('pause', { codes: some }, { concurrency: 4 });
    await waitFor(() => receipts('pause').length >= 8, { deadlineMs: 10_000, what: 'eight devices' });
    const askedMs = performance.now();
    expect((await steer(job.id, 'pause')).job).toMatchObject({ state: 'paused' });
    await waitFor(async () => (await read(job.id)).counts.active === 0, { deadlineMs: 5_000, what: 'nothing out' });
    const sent = receipts('pause').length;
    await staysTrue(() => receipts('pause').length === sent, 700, 'paused');
    expect(Math.max(...receipts('pause').map(({ atMs }) => atMs)) - askedMs).toBeLessThan(1_000);
    expect(sent).toBeLessThan(40);
    expect((await steer(job.id, 'pause')).status).toBe(409);
    expect((await steer(job.id, 'resume')).status).toBe(200);
    await until(job.id, 'succeeded');
    expect(sorted(codesOf('pause'))).toEqual(some);
  });

  test('a cancelled job says of each device whether it was reached, and truly', async () => {
    const some = codes.slice(176, 206);
    behaviours.set('cancel', async () => {
      await sleep(150);
      return { code: 0 };
    });
    const job = await create('cancel', { codes: some }, { concurrency: 3 });
    await waitFor(() => receipts('cancel').length >= 5, { deadlineMs: 10_000, what: 'five devices' });
    expect((await steer(job.id, 'cancel')).status).toBe(200);
    await until(job.id, 'cancelled');
    const { items } = (await broker.api(`/v1/jobs/${job.id}/targets`)).json() as { items: Json[] };
    const reached = items.filter(({ state }) => state === 'succeeded').map(({ code }) => code as string);
    const spared = items.filter(({ state, executed }) => state === 'cancelled' && executed === 'no');
    expect(reached.length + spared.length).toBe(30);
    expect(sorted(codesOf('cancel'))).toEqual(sorted(reached));
    expect(spared.length).toBeGreaterThan(20);
  });

  test('a retry goes to those that failed and to nobody else', async () => {
    const some = codes.slice(206, 226);
    const bad = new Set(some.slice(10));
    behaviours.set('retry', (code) => ({ code: bad.has(code) ? 1 : 0 }));
    const job = await create('retry', { codes: some });
    const ended = await until(job.id, 'finished_with_failures');
    expect(ended.counts).toMatchObject({ succeeded: 10, failed: 10 });
    expect((await steer(job.id, 'retry-failed', { states: ['expired'] })).status).toBe(409);
    bad.clear();
    expect((await steer(job.id, 'retry-failed')).status).toBe(200);
    expect((await until(job.id, 'succeeded')).counts).toMatchObject({ succeeded: 20, failed: 0 });
    const times = codesOf('retry');
    expect(some.map((code) => times.filter((each) => each === code).length)).toEqual([
      ...Array.from({ length: 10 }, () => 1),
      ...Array.from({ length: 10 }, () => 2),
    ]);
    expect((await steer(job.id, 'retry-failed')).status).toBe(409);
  });

  test('devices without a session hold up nobody: they get it when they come, fail, or expire, as asked', async () => {
    const some = fleet.devices.slice(226, 236);
    const away = some.slice(0, 3);
    const list = some.map(({ code }) => code);
    await Promise.all(away.map((device) => device.stop()));
    await Promise.all(away.map(({ code }) => broker.untilOnline(code, false)));
    const stranger = '210235JOBUNKNOWN';
    const strict = await create('strict', { codes: [...list, stranger] }, { offline: 'fail', concurrency: 2 });
    expect((await until(strict.id, 'finished_with_failures')).counts).toMatchObject({ succeeded: 7, failed: 4 });
    const { items } = (await broker.api(`/v1/jobs/${strict.id}/targets?state=failed`)).json() as { items: Json[] };
    expect(items.map(({ code, reason, executed }) => ({ code, reason, executed }))).toEqual([
      ...away.map(({ code }) => ({ code, reason: 'device_offline', executed: 'no' })),
      { code: stranger, reason: 'device_unknown', executed: 'no' },
    ]);

    const brief = await create('brief', { codes: list }, { ttlMs: 1_500 });
    const expired = await until(brief.id, 'finished_with_failures');
    expect(expired.counts).toMatchObject({ succeeded: 7, expired: 3 });

    const patient = await create('patient', { codes: list }, { concurrency: 1 });
    await waitFor(() => receipts('patient').length === 7, { deadlineMs: 10_000, what: 'those that are there' });
    for (const device of away) device.start();
    await until(patient.id, 'succeeded');
    expect(sorted(codesOf('patient'))).toEqual(list);
  });

  test('a request that is repeated with its key is the same job; another one under that key is refused', async () => {
    const body = { command: { method: 'PUT', url: URL_OF('key') }, targets: { codes: codes.slice(236, 238) } };
    const headers = { 'idempotency-key': 'once' };
    const answers = await Promise.all(
      [0, 1, 0, 1].map((service) => broker.api('/v1/jobs', { method: 'POST', body, headers, service })),
    );
    expect(sorted(answers.map(({ status }) => String(status)))).toEqual(['200', '200', '200', '201']);
    const ids = new Set(answers.map((answer) => answer.json().id as string));
    expect(ids.size).toBe(1);
    await until([...ids][0] ?? '', 'succeeded');
    expect(receipts('key')).toHaveLength(2);
    const other = await broker.api('/v1/jobs', { method: 'POST', body: { ...body, name: 'other' }, headers });
    expect(other.status).toBe(409);
    expect(other.json()).toMatchObject({ error: 'key_conflict' });
  });

  test('what cannot be a job is refused, with the part that is wrong', async () => {
    const command = { method: 'PUT', url: URL_OF('refused') };
    const [one = '', two = ''] = codes;
    const refused = async (body: Json): Promise<Json> => {
      const answer = await broker.api('/v1/jobs', { method: 'POST', body });
      return { status: answer.status, error: answer.json().error, detail: answer.json().detail };
    };
    expect(await refused({ command, targets: { codes: [one, two, one] } })).toMatchObject({
      status: 400,
      detail: `body.targets.codes.2: ${one} is listed twice`,
    });
    expect(await refused({ command, targets: { filter: {} } })).toMatchObject({ status: 400 });
    expect(await refused({ command, targets: { filter: { tag: 'nobody' } } })).toMatchObject({ status: 400 });
    expect(await refused({ command: { ...command, maxAttempts: 2 }, targets: { codes: [one] } })).toMatchObject({
      status: 422,
      error: 'not_repeatable',
    });
    const reserved = { method: 'POST', url: '/LAPI/V1.0/System/Event/Subscription' };
    expect(await refused({ command: reserved, targets: { codes: [one] } })).toMatchObject({
      error: 'forbidden_by_policy',
    });
    expect(receipts('refused')).toEqual([]);
    expect((await broker.api('/v1/jobs/00000000000000000000')).status).toBe(404);
  });

  test('a guarded command goes on for an admin only, with a resume as with a retry', async () => {
    const made = await broker.api('/v1/keys', { method: 'POST', body: { name: 'caller', scopes: ['call'] } });
    const headers = { authorization: `Bearer ${made.json().key}` };
    const body = {
      command: { method: 'PUT', url: '/LAPI/V1.0/System/Reboot' },
      targets: { codes: codes.slice(0, 1) },
      window: { notBefore: new Date(Date.now() + 3_600_000).toISOString() },
    };
    const { id } = (await broker.api('/v1/jobs', { method: 'POST', body })).json() as Job;
    const asCaller = async (verb: string): Promise<number> =>
      (await broker.api(`/v1/jobs/${id}/${verb}`, { method: 'POST', headers })).status;
    expect(await asCaller('pause')).toBe(200);
    expect(await asCaller('resume')).toBe(403);
    expect((await steer(id, 'resume')).status).toBe(200);
    expect(await asCaller('cancel')).toBe(200);
    await until(id, 'cancelled');
    expect(await asCaller('retry-failed')).toBe(403);
  });

  test('results come as a table, one line per device', async () => {
    const some = codes.slice(238, 240);
    const job = await create('csv', { codes: some });
    await until(job.id, 'succeeded');
    const answer = await broker.api(`/v1/jobs/${job.id}/targets.csv`);
    expect(answer.headers.get('content-type')).toContain('text/csv');
    const lines = answer.text.split('\r\n');
    expect(lines).toHaveLength(4);
    expect(lines[0]).toBe('code,state,executed,reason,responseCode,tries,commandId,startedAt,endedAt');
    expect(lines[1]?.startsWith(`${some[0]},succeeded,yes,,0,1,`)).toBe(true);
  });

  test('10,000 codes are one request and one table', async () => {
    const many = Array.from({ length: 10_000 }, (_, i) => `${'X'.repeat(50)}${String(i).padStart(14, '0')}`);
    const job = await create('many', { codes: many });
    const ended = await until(job.id, 'finished_with_failures');
    expect(ended.counts).toMatchObject({ failed: 10_000 });
    const { text } = await broker.api(`/v1/jobs/${job.id}/targets.csv`);
    expect(text.split('\r\n')).toHaveLength(10_002);
    expect(text).toContain(`${many[9_999]},failed,no,device_unknown,,0,,,`);
    const tooMany = await broker.api('/v1/jobs', { method: 'POST', body: { filler: 'x'.repeat(1_048_576) } });
    expect(tooMany.status).toBe(413);
  });

  test('what happens to a job is told to those who follow the events, with an empty code', async () => {
    const reader = await EventReader.open(broker, 'kind=job.*');
    const job = await create('told', { codes: codes.slice(60, 62) });
    await until(job.id, 'succeeded');
    const mine = (): string[] => reader.events.filter(({ data }) => data.id === job.id).map(({ kind }) => kind);
    await waitFor(() => mine().includes('job.finished'), { deadlineMs: 5_000, what: 'the end as an event' });
    expect(mine()).toEqual(expect.arrayContaining(['job.created', 'job.started', 'job.finished']));
    const last = reader.events.find(({ kind, data }) => kind === 'job.finished' && data.id === job.id);
    expect(last).toMatchObject({ code: '', data: { state: 'succeeded', total: 2, counts: { succeeded: 2 } } });
    reader.close();
  });
});

// Alone, and last, because it ends a process.
test('a runner that is killed loses nothing and sends nothing twice', async () => {
  const some = codes.slice(240);
  behaviours.set('kill', async () => {
    await sleep(100);
    return { code: 0 };
  });
  const job = await create('kill', { codes: some }, { concurrency: 6 });
  await waitFor(() => receipts('kill').length >= 12, { deadlineMs: 10_000, what: 'a part of the job' });
  const running = await Promise.all(broker.commands.map((each) => broker.metric(each, 'lapi_jobs_running')));
  const runner = running.findIndex((count) => count > 0);
  await broker.commands[runner]?.kill();
  const sent = receipts('kill').length;
  expect(sent).toBeLessThan(some.length);
  const ended = await until(job.id, 'succeeded', 30_000, 1 - runner);
  expect(ended.counts).toMatchObject({ succeeded: 60 });
  expect(sorted(codesOf('kill'))).toEqual(some);
}, 60_000);
