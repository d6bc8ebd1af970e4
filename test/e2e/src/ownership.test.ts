/** Who holds a device: take-over, hold-down and drain over several edges (protocol §8, D3–D10): L28, L30, L31. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type Broker, type EdgeProcess, redisCommand, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { answerTo, DEVICE_INFO, Device, type ReceivedCall } from './device.ts';
import { EventReader, epochsOf } from './event-reader.ts';
import { type Setting, startSetting, staysTrue } from './setting.ts';
import { nonceOf, REGISTER, registerQuery, Wire } from './wire.ts';

let setting: Setting;
let broker: Broker;
/** Stopped with SIGSTOP for a moment. */
const FROZEN = 2;
/** Drained. */
const LEAVING = 3;

beforeAll(async () => {
  setting = await startSetting({ edges: 4, commands: 2, edgeEnv: { LAPI_DRAIN_SECONDS: '6' } });
  broker = setting.broker;
});
afterAll(() => setting.stop());

function edge(index: number): EdgeProcess {
  return broker.edges[index] as EdgeProcess;
}

async function rows(code: string): Promise<Record<string, unknown>[]> {
  return await Promise.all(
    [0, 1].map(async (service) => (await broker.api(`/v1/devices/${code}`, { service })).json()),
  );
}

async function untilNode(code: string, name: string, deadlineMs = 10_000): Promise<Record<string, unknown>> {
  return await waitFor(
    async () => {
      const views = await rows(code);
      const there = views.every(({ online, node }) => online === true && String(node).startsWith(`${name}.`));
      return there && views[0]?.epoch === views[1]?.epoch ? views[0] : undefined;
    },
    { deadlineMs, what: `${code} on ${name}, as both command services see it` },
  );
}

describe.concurrent('take-over, and a drain that is asked for', () => {
  test.each([
    ['another edge node', 1],
    ['the same edge node', 0],
  ])(
    'L28: a second registration on %s wins: the old session is closed, the epoch rises, calls go to the new one',
    async (_where, to) => {
      const device = await Device.online(broker, { settings: { profile: 'quiet' } });
      const reader = await EventReader.open(broker, `device=${device.code}&from=start`);
      const before = await untilNode(device.code, 'edge-1');
      const old = device.wire;
      await device.register(to);
      device.answering();
      await old.untilClosed(2_000);
      expect(old.closeCode).toBe(1000);
      const after = await untilNode(device.code, `edge-${to + 1}`);
      expect(after.epoch).toBeGreaterThan(before.epoch as number);
      expect(after.session).not.toBe(before.session);
      for (const service of [0, 1]) {
        expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`, { service })).status).toBe(200);
      }
      expect(device.calls).toHaveLength(2);
      expect(old.texts().filter((text) => text.includes('RequestURL'))).toEqual([]);
      expect((await reader.presence(device.code, 'offline')).data).toMatchObject({ reason: 'superseded' });
      await reader.presence(device.code, 'online', { times: 2 });
      // The end of the second session is the last word: everything that the first could still have said came before it.
      device.wire.destroy();
      await reader.presence(device.code, 'offline', { times: 2 });
      const epochs = [before.epoch, after.epoch];
      expect(epochsOf(reader.events, device.code)).toEqual({ online: epochs, offline: epochs });
    },
  );

  test('L28: the close event of the old session comes late, from an edge that was away: it changes nothing', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' }, edge: FROZEN });
    const reader = await EventReader.open(broker, `device=${device.code}&from=start`);
    const before = await untilNode(device.code, `edge-${FROZEN + 1}`);
    edge(FROZEN).signal('SIGSTOP');
    const old = device.wire;
    let after: Record<string, unknown>;
    try {
      // Power went and came back: the stopped edge learns of the end of its socket, and of the take-over, only when it wakes.
      old.destroy();
      await device.register(0);
      device.answering();
      after = await untilNode(device.code, 'edge-1');
    } finally {
      edge(FROZEN).signal('SIGCONT');
    }
    await waitFor(async () => (await broker.metric(edge(FROZEN), 'lapi_session_closed_total')) >= 1, {
      deadlineMs: 10_000,
      what: 'the end of the old session',
    });
    await staysTrue(() => !device.wire.closed, 1_000, 'the new session');
    expect(await rows(device.code)).toEqual([after, after]);
    expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status).toBe(200);
    device.wire.destroy();
    await reader.presence(device.code, 'offline', { times: 2 });
    const epochs = [before.epoch, after.epoch];
    expect(epochsOf(reader.events, device.code)).toEqual({ online: epochs, offline: epochs });
  });

  test('L28: old connections that end while the new ones register, at any moment of it, take nobody offline', async () => {
    const reader = await EventReader.open(broker, 'kind=presence.*');
    await Promise.all(
      Array.from({ length: 60 }, async (_, i) => {
        const device = await Device.online(broker, { settings: { profile: 'quiet' } });
        const old = device.wire;
        // The end of the old connection meets the new registration before, in and after its claim.
        const registering = device.register(i % 2);
        await sleep(i / 5);
        old.destroy();
        await registering;
        // The end of the old epoch is known, whoever told it; then the new one must stand.
        await reader.presence(device.code, 'offline');
        await reader.presence(device.code, 'online', { times: 2 });
        expect(await device.keepalive()).toContain('"ResponseCode":0');
        const { online, offline } = epochsOf(reader.events, device.code);
        expect(offline).toEqual([online[0]]);
        const view = await untilNode(device.code, `edge-${(i % 2) + 1}`);
        expect(view.epoch).toBe(online[1]);
      }),
    );
  });

  test('L28: two registrations at the same moment on two edges leave one session, and everybody agrees on it', async () => {
    const device = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
    const reader = await EventReader.open(broker, `device=${device.code}`);
    const wires = await Promise.all([0, 1].map((index) => Wire.register(broker.edgeUrl(index), device.identity)));
    try {
      const loser = await waitFor(() => wires.find((wire) => wire.closed), { deadlineMs: 5_000, what: 'one loser' });
      const winner = wires.find((wire) => wire !== loser) as Wire;
      expect(loser.closeCode).toBe(1000);
      const [view, same] = await waitFor(
        async () => {
          const views = await rows(device.code);
          return views.every(({ online }) => online === true) ? views : undefined;
        },
        { deadlineMs: 5_000, what: 'both views online' },
      );
      expect(same).toEqual(view);
      expect(String(view?.node)).toMatch(new RegExp(`^edge-${wires.indexOf(winner) + 1}\\.`));
      await staysTrue(() => !winner.closed, 500, 'the winner');
      await reader.presence(device.code, 'offline');
      const { online, offline } = epochsOf(reader.events, device.code);
      expect(online).toHaveLength(2);
      expect(offline).toEqual([Math.min(...online)]);
      expect(view?.epoch).toBe(Math.max(...online));
    } finally {
      for (const wire of wires) wire.destroy();
    }
  });

  test('L30: the sixth take-over within a minute is held down with 429, and the current session is kept', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    for (let i = 1; i <= 5; i++) await device.register(i % 2);
    device.answering();
    const current = await untilNode(device.code, 'edge-2');
    const reader = await EventReader.open(broker, `device=${device.code}&kind=device.*`);
    const held = (index: number): Promise<number> =>
      broker.metric(edge(index), 'lapi_register_rejected_total', { reason: 'hold_down' });
    const before = await held(0);
    // Not only the sixth, and not only on one edge.
    for (const index of [0, 1, 0]) {
      const wire = await Wire.connect(broker.edgeUrl(index));
      const nonce = nonceOf(await wire.get(REGISTER));
      const answer = await wire.get(`${REGISTER}?${registerQuery(device.identity, nonce)}`);
      expect(answer.status).toBe(429);
      expect(answer.headers.get('retry-after')).toBe('30');
      expect(answer.body).not.toContain('Nonce');
      await wire.untilClosed();
    }
    expect(await held(0)).toBe(before + 2);
    expect(await device.keepalive()).toContain('"ResponseCode":0');
    const alarm = await reader.until(({ kind }) => kind === 'device.flapping');
    const { heldUntil: until, ...facts } = alarm.data;
    const here = '127.0.0.1';
    expect(facts).toEqual({
      takeOvers: 6,
      windowSeconds: 60,
      address: here,
      incumbentAddress: here,
      addresses: [here],
    });
    expect(alarm.epoch).toBe(current.epoch);
    const view = { ...current, held: { reason: 'flapping', until, addresses: [here] } };
    expect(await rows(device.code)).toEqual([view, view]);
    expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status).toBe(200);
    // One alarm for the hold-down, none for the refusals in it.
    expect(reader.events).toHaveLength(1);
    // Only take-overs count: once the current session has gone, the device may come back.
    device.wire.destroy();
    await broker.untilOnline(device.code, false);
    await device.register(0);
    expect((await untilNode(device.code, 'edge-1')).epoch).toBeGreaterThan(current.epoch as number);
  });

  test('L30: two devices with one code that take turns are a conflict, and the alarm names the addresses of both', async () => {
    const { identity, code } = await Device.provisioned(broker, { settings: { profile: 'quiet' } });
    const reader = await EventReader.open(broker, `device=${code}&kind=device.*`);
    const [here, there] = ['127.0.0.1', '127.0.0.2'];
    const wires: Wire[] = [];
    try {
      for (let i = 0; i < 6; i++)
        wires.push(await Wire.register(broker.edgeUrl(i % 2), identity, i % 2 ? there : here));
      await expect(Wire.register(broker.edgeUrl(1), identity, here)).rejects.toThrow('429');
      const { data } = await reader.until(({ kind }) => kind === 'device.conflict');
      expect(data).toMatchObject({ address: here, incumbentAddress: there, addresses: [there, here] });
      expect((await rows(code))[0]).toMatchObject({ held: { reason: 'conflict', addresses: [there, here] } });
      await Promise.all(wires.slice(0, 5).map((wire) => wire.untilClosed()));
      expect(wires[5]?.closed).toBe(false);
    } finally {
      for (const wire of wires) wire.destroy();
    }
  });

  test('H7: a device that leaves right after its 101 is offline again, with one event each way', async () => {
    const device = await Device.online(broker, { settings: { profile: 'quiet' } });
    const reader = await EventReader.open(broker, `device=${device.code}&from=start`);
    device.wire.destroy();
    await reader.presence(device.code, 'offline');
    expect((await broker.untilOnline(device.code, false)).lastOffline).toMatchObject({ reason: 'closed' });
    const { online, offline } = epochsOf(reader.events, device.code);
    expect(offline).toEqual(online);
    expect(online).toHaveLength(1);
  });

  test('a node that is asked to drain sends its devices elsewhere, finishes what is out, says how far it is, and serves again when it is told to', async () => {
    const node = edge(LEAVING);
    const path = `/v1/nodes/${node.nodeName}`;
    const shown = async (): Promise<Record<string, unknown>> => (await broker.api(path)).json();
    const ready = async (): Promise<number> => (await fetch(`http://127.0.0.1:${node.ready.probePort}/readyz`)).status;
    const fleet = await Promise.all(
      Array.from({ length: 10 }, () => Device.online(broker, { settings: { profile: 'quiet' }, edge: LEAVING })),
    );
    const [direct, queued, ...idle] = fleet as [Device, Device, ...Device[]];
    for (const device of [direct, queued]) device.answering(() => undefined);
    const calling = broker.api(`/v1/devices/${direct.code}${DEVICE_INFO}`);
    const command = (
      await broker.api(`/v1/devices/${queued.code}/commands`, {
        method: 'POST',
        body: { method: 'PUT', url: '/LAPI/V1.0/System/Time', mode: 'queue' },
      })
    ).json();
    const [asked, begun] = await Promise.all([
      direct.untilCalled(DEVICE_INFO),
      queued.untilCalled('/LAPI/V1.0/System/Time'),
    ]);

    expect((await broker.api(`${path}/drain`, { method: 'POST', body: { seconds: 60 } })).status).toBe(202);
    for (const device of idle) {
      await device.wire.untilClosed(15_000);
      expect(device.wire.closeCode).toBe(1001);
      await device.register(0);
    }
    expect(await ready()).toBe(503);
    const refused = await Wire.connect(broker.edgeUrl(LEAVING));
    expect((await refused.get(REGISTER)).status).toBe(503);
    direct.wire.json(answerTo(asked, { Data: { of: 'before' } }));
    queued.wire.json(answerTo(begun, { Data: {} }));
    expect((await calling).json()).toMatchObject({ Data: { of: 'before' } });
    await Promise.all([direct.wire.untilClosed(15_000), queued.wire.untilClosed(15_000)]);
    const view = await waitFor(
      async () => {
        const now = await shown();
        return (now.drain as { left?: number } | undefined)?.left === 0 ? now : undefined;
      },
      { deadlineMs: 10_000, what: 'no device left', intervalMs: 50 },
    );
    expect(view).toMatchObject({ phase: 'draining', sessions: 0, drain: { devices: 10 } });
    expect((await broker.api(`/v1/commands/${command.id}`)).json()).toMatchObject({ state: 'succeeded', attempts: 1 });
    // It stays, and holds nothing.
    expect(await broker.metric(node, 'lapi_sessions')).toBe(0);
    const { port } = new URL(broker.redisUrl);
    const owned = (await redisCommand(
      Number(port),
      'KEYS',
      `${broker.keyPrefix}:*owned:${node.nodeName}.*`,
    )) as string[];
    expect(owned).toEqual([]);

    expect((await broker.api(`${path}/resume`, { method: 'POST' })).status).toBe(202);
    await waitFor(async () => (await ready()) === 200, { deadlineMs: 10_000, what: 'ready', intervalMs: 50 });
    const served = await shown();
    expect(served).toMatchObject({ node: view.node, phase: 'serving' });
    expect(served).not.toHaveProperty('drain');
    await direct.register(LEAVING);
    await untilNode(direct.code, node.nodeName);
  });
});

test('L31: a drain refuses registrations with 503, finishes calls, closes the sessions in batches with 1001, and loses nobody', async () => {
  const fleet = await Promise.all(
    Array.from({ length: 100 }, () => Device.online(broker, { settings: { profile: 'quiet' }, edge: LEAVING })),
  );
  const reader = await EventReader.open(broker, 'kind=presence.*,node.*&from=start');
  const closedAtMs: number[] = [];
  const returned = fleet.map(async (device) => {
    device.answering(({ url }) => (url === DEVICE_INFO ? undefined : { Data: {} }));
    await device.wire.untilClosed(15_000);
    closedAtMs.push(performance.now());
    expect(device.wire.closeCode).toBe(1001);
    await device.register(closedAtMs.length % 2);
    device.answering();
  });
  // A call is out when the drain begins; its device answers a little later.
  const busy = fleet[0] as Device;
  const calling = broker.api(`/v1/devices/${busy.code}${DEVICE_INFO}`);
  const asked: ReceivedCall = await busy.untilCalled(DEVICE_INFO);
  const [early, late] = await Promise.all([
    Wire.connect(broker.edgeUrl(LEAVING)),
    Wire.connect(broker.edgeUrl(LEAVING)),
  ]);
  const nonce = nonceOf(await late.get(REGISTER));

  const leaving = edge(LEAVING);
  const probe = (path: string): Promise<Response> => fetch(`http://127.0.0.1:${leaving.ready.probePort}${path}`);
  expect((await probe('/readyz')).status).toBe(200);
  const stopping = leaving.stop();
  await waitFor(async () => (await probe('/readyz')).status === 503, { deadlineMs: 2_000, what: 'not ready' });
  expect(await (await probe('/readyz')).text()).toContain('draining');
  expect((await probe('/livez')).status).toBe(200);

  for (const [wire, target] of [
    [early, REGISTER],
    [late, `${REGISTER}?${registerQuery(busy.identity, nonce)}`],
  ] as const) {
    const answer = await wire.get(target);
    expect(answer.status).toBe(503);
    expect(answer.headers.get('retry-after')).toBe('5');
    await wire.untilClosed();
  }
  await waitFor(() => closedAtMs.length > 0, { deadlineMs: 5_000, what: 'the first close' });
  expect(closedAtMs.length).toBeLessThan(fleet.length / 2);
  await waitFor(() => closedAtMs.length === fleet.length - 1, { deadlineMs: 5_000, what: 'all closes but one' });
  expect(busy.wire.closed).toBe(false);
  // A call that comes now waits for the device at its next node.
  const next = broker.api(`/v1/devices/${busy.code}/LAPI/V1.0/System/Time`, {
    headers: { 'x-lapi-connect-timeout': '10000' },
    service: 1,
  });
  busy.wire.json(answerTo(asked, { Data: { of: 'before' } }));
  expect((await calling).json()).toMatchObject({ Data: { of: 'before' } });

  await Promise.all(returned);
  await stopping;
  const answered = await next;
  expect(answered.status, answered.text).toBe(200);
  expect(Math.max(...closedAtMs) - Math.min(...closedAtMs)).toBeGreaterThan(500);
  for (const device of fleet) {
    await reader.presence(device.code, 'online', { times: 2 });
    const { online, offline } = epochsOf(reader.events, device.code);
    expect(online[1]).toBeGreaterThan(online[0] as number);
    expect(offline).toEqual([online[0]]);
    expect((await reader.presence(device.code, 'offline')).data).toMatchObject({ reason: 'draining' });
    const view = await broker.untilOnline(device.code);
    expect(view.epoch).toBe(online[1]);
    expect(String(view.node)).toMatch(/^edge-[12]\./);
  }
  // Nothing of the node remains (I8): no lease, no index of owned devices, no entry in the directory.
  const { port } = new URL(broker.redisUrl);
  const keys = (await redisCommand(Number(port), 'KEYS', `${broker.keyPrefix}:*`)) as string[];
  // But for the mark that its end was told.
  expect(keys.filter((key) => key.includes(leaving.nodeName) && !key.includes(':ended:'))).toEqual([]);
  await waitFor(
    async () => {
      const nodes = (await broker.api('/v1/nodes')).json().items as { name: string }[];
      return nodes.every(({ name }) => name !== leaving.nodeName);
    },
    { deadlineMs: 15_000, what: 'the directory to forget the node' },
  );
  // It was not lost, as everybody has seen by now.
  const ends = reader.events.filter(({ data }) => data.name === leaving.nodeName);
  expect(ends).toMatchObject([{ kind: 'node.left', code: '', epoch: 0, data: { name: leaving.nodeName } }]);
});
