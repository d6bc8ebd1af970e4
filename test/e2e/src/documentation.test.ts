/** What docs/ shows to platform developers runs as it is printed: the example programs against a real broker and a simulated device. */

import { fileURLToPath } from 'node:url';
import { Broker, freePort, type RunningProcess, startProcess, waitFor } from '@lapi-broker/fixture';
import { SimulatedDevice } from '@lapi-broker/fleet';
import { afterAll, beforeAll, expect, test } from 'vitest';

const CODE = '210235SIMN0000000001';

let broker: Broker;
let api: Readonly<Record<string, string>>;
let device: SimulatedDevice;

beforeAll(async () => {
  broker = await Broker.start({ edges: 1, commands: 0 });
  // Chosen here, because one test starts the service again at the same place.
  api = { LAPI_API_PORT: String(await freePort()) };
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

function example(name: string, url: string): Promise<RunningProcess<string>> {
  return startProcess({
    name,
    args: [fileURLToPath(new URL(`../../../docs/example/${name}`, import.meta.url)), url],
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
