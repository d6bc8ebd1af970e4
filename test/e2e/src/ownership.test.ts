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

describe.concurrent('take-over', () => {
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
    expect(await rows(device.code)).toEqual([current, current]);
    expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status).toBe(200);
    // Only take-overs count: once the current session has gone, the device may come back.
    device.wire.destroy();
    await broker.untilOnline(device.code, false);
    await device.register(0);
    expect((await untilNode(device.code, 'edge-1')).epoch).toBeGreaterThan(current.epoch as number);
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
});

test('L31: a drain refuses registrations with 503, finishes calls, closes the sessions in batches with 1001, and loses nobody', async () => {
  const fleet = await Promise.all(
    Array.from({ length: 100 }, () => Device.online(broker, { settings: { profile: 'quiet' }, edge: LEAVING })),
  );
  const reader = await EventReader.open(broker, 'kind=presence.*&from=start');
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
  expect(keys.filter((key) => key.includes(leaving.nodeName))).toEqual([]);
  await waitFor(
    async () => {
      const nodes = (await broker.api('/v1/nodes')).json().items as { name: string }[];
      return nodes.every(({ name }) => name !== leaving.nodeName);
    },
    { deadlineMs: 15_000, what: 'the directory to forget the node' },
  );
});
