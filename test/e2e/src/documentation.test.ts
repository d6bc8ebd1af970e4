/** What docs/ shows to platform developers runs as it is printed: the example programs against a real broker and a simulated device. */

import { randomBytes } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { Broker, freePort, type RunningProcess, startProcess, waitFor } from '@lapi-broker/fixture';
import { SimulatedDevice } from '@lapi-broker/fleet';
import { afterAll, beforeAll, expect, test } from 'vitest';

const CODE = '210235SIMN0000000001';

let broker: Broker;
let api: Readonly<Record<string, string>>;
let device: SimulatedDevice;
let receiverPort: string;

beforeAll(async () => {
  broker = await Broker.start({ edges: 1, commands: 0 });
  receiverPort = String(await freePort());
  api = {
    // Chosen here, because one test starts the service again at the same place.
    LAPI_API_PORT: String(await freePort()),
    LAPI_WEBHOOK_ALLOW: '127.0.0.1',
    LAPI_WEBHOOK_ALLOW_HTTP: 'true',
    LAPI_WEBHOOK_PORTS: receiverPort,
  };
  await broker.addCommand(api);
  const secret = await broker.provision(CODE, { type: 'nvr', profile: 'nvr' });
  device = new SimulatedDevice({ code: CODE, secret, profile: 'nvr', urls: [broker.edgeUrl()], rates: { alarm: 120 } });
  device.start();
  await broker.untilOnline(CODE);
});
afterAll(async () => {
  await device.stop();
  await broker.stop();
});

function example(name: string, url: string, ...args: readonly string[]): Promise<RunningProcess<string>> {
  return startProcess({
    name,
    args: [fileURLToPath(new URL(`../../../docs/example/${name}`, import.meta.url)), url, ...args],
    env: { KEY: broker.apiKey },
    ready: (line) => line,
  });
}

function line(program: RunningProcess<string>, what: RegExp): Promise<string> {
  return waitFor(() => program.lines().find((each) => what.test(each)), { deadlineMs: 20_000, what: String(what) });
}

test('platform.mjs calls every device that is online, follows alarms, and goes on after its broker was away', async () => {
  const [command] = broker.commands;
  const program = await example('platform.mjs', command?.url ?? '');
  await line(program, new RegExp(`^${CODE} is a NVR-SIM`));
  await line(program, new RegExp(`^\\S+Z ${CODE} alarm\\.`));
  await command?.stop();
  await line(program, /^events: .*going on in 2 s/);
  const before = program.lines().length;
  await broker.addCommand(api);
  await waitFor(
    () =>
      program
        .lines()
        .slice(before)
        .find((each) => each.includes('alarm.')),
    { deadlineMs: 20_000, what: 'an alarm after the interruption' },
  );
  await program.kill();
});

test('stream.mjs hears a device come online and asks it for its name on the same socket', async () => {
  const url = broker.commands.at(-1)?.url ?? '';
  const program = await example('stream.mjs', url.replace('http', 'ws'));
  const answer = await fetch(`${url}/v1/devices/${CODE}/disconnect`, {
    method: 'POST',
    headers: { authorization: `Bearer ${broker.apiKey}` },
  });
  expect(answer.status).toBe(202);
  await line(program, new RegExp(`${CODE} presence\\.online`));
  await line(program, new RegExp(`^${CODE} 200 NVR`));
  await program.kill();
});

test('direct.mjs calls a device and reads the answer', async () => {
  const program = await example('direct.mjs', broker.commands.at(-1)?.url ?? '', CODE);
  expect(await line(program, /answered/)).toMatch(new RegExp(`^${CODE} answered 0: .*NVR-SIM`));
});

test('queue.mjs brings three commands in order to a device that comes later, and hears how each ends', async () => {
  await device.stop();
  await broker.untilOnline(CODE, false);
  const program = await example('queue.mjs', broker.commands.at(-1)?.url ?? '', CODE);
  await waitFor(() => (program.lines().filter((each) => / queued: /.test(each)).length === 3 ? true : undefined), {
    deadlineMs: 20_000,
    what: 'three commands to be accepted',
  });
  device.start();
  const ends = await waitFor(
    () => {
      const found = program.lines().filter((each) => each.includes('executed: yes'));
      return found.length === 3 ? found : undefined;
    },
    { deadlineMs: 30_000, what: 'three ends' },
  );
  const accepted = program.lines().flatMap((each) => /^(\S+) queued: /.exec(each)?.[1] ?? []);
  expect(ends.map((each) => each.split(' ')[0])).toEqual(accepted);
});

test('direct-then-queue.mjs gets its answer at once from a device that is there', async () => {
  const program = await example('direct-then-queue.mjs', broker.commands.at(-1)?.url ?? '', CODE);
  expect(await line(program, /executed/)).toMatch(/succeeded, executed: yes/);
});

test('job.mjs carries a command to every device of a type and prints the table', async () => {
  const program = await example('job.mjs', broker.commands.at(-1)?.url ?? '', 'nvr');
  await line(program, /^1 devices, 1 of them online/);
  await line(program, new RegExp(`^${CODE},succeeded`));
});

test('consumer.mjs handles alarms, and those that came while it was away', async () => {
  const url = broker.commands.at(-1)?.url ?? '';
  const lag = async (): Promise<number> => {
    const headers = { authorization: `Bearer ${broker.apiKey}` };
    const answer = (await (await fetch(`${url}/v1/subscriptions/example`, { headers })).json()) as { lag: number };
    return answer.lag;
  };
  const alarm = new RegExp(`^\\S+Z ${CODE} alarm\\.`);
  const first = await example('consumer.mjs', url, 'example');
  await line(first, alarm);
  await first.stop();
  await waitFor(async () => (await lag()) > 0, { deadlineMs: 20_000, what: 'an event that it has not seen' });
  const startedAt = new Date().toISOString();
  const second = await example('consumer.mjs', url, 'example');
  const [at = ''] = (await line(second, alarm)).split(' ');
  expect(at < startedAt).toBe(true);
  await second.stop();
});

test('webhook-receiver.mjs takes what is signed, and nothing else', async () => {
  const secret = `whsec_${randomBytes(32).toString('base64')}`;
  const program = await startProcess({
    name: 'webhook-receiver.mjs',
    args: [fileURLToPath(new URL('../../../docs/example/webhook-receiver.mjs', import.meta.url)), receiverPort],
    env: { SECRET: secret },
    ready: (text) => text,
  });
  const target = `http://127.0.0.1:${receiverPort}/`;
  const post = (path: string, body: unknown): Promise<Response> =>
    fetch(`${broker.commands.at(-1)?.url}/v1/webhooks${path}`, {
      method: 'POST',
      headers: { authorization: `Bearer ${broker.apiKey}` },
      body: JSON.stringify(body),
    });
  const { id } = (await (await post('', { url: target, secret })).json()) as { id: string };
  expect(await (await post(`/${id}/test`, undefined)).json()).toMatchObject({ status: 204 });
  await line(program, /^test received/);
  await line(program, new RegExp(`^\\S+Z ${CODE} alarm\\.`));
  // Whoever has another secret, or none.
  await post(`/${id}/rotate-secret`, { overlapSeconds: 0 });
  expect(await (await post(`/${id}/test`, undefined)).json()).toMatchObject({ status: 401 });
  expect((await fetch(target, { method: 'POST', body: '{}' })).status).toBe(401);
  await program.kill();
});
