/** The event subscription that the broker keeps in each device (protocol §10): L27. */

import { type Broker, waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, DEVICE_INFO, Device, type ReceivedCall, type Respond, SUBSCRIPTION } from './device.ts';
import { type Setting, startSetting, staysTrue } from './setting.ts';

let setting: Setting;
let broker: Broker;

beforeAll(async () => {
  setting = await startSetting({ edges: 3 });
  broker = setting.broker;
});
afterAll(() => setting.stop());

/** Granted for 20 s by the device's own clock, so that half of it is the shortest interval of U2. */
const GRANTED = {
  ID: 249,
  Reference: '10.0.0.9:80/Subscription/Subscribers/249',
  CurrentTime: 1_735_689_600,
  TerminationTime: 1_735_689_620,
  SupportType: 16_417,
};
const granted: Respond = ({ url }) => (url.startsWith(SUBSCRIPTION) ? { Data: GRANTED } : { Data: {} });

/** A device of the profile with the shortest subscription, registered and answering. */
async function subscribing(respond: Respond, profile = 'subscribed', edge = 0): Promise<Device> {
  const device = await Device.online(broker, { settings: { profile }, edge });
  device.answering(respond);
  return device;
}

const afterMs = (device: Device, call: ReceivedCall | undefined): number =>
  (call?.receivedMs ?? Number.NaN) - device.registeredMs;
const kinds = (device: Device): string[] =>
  device.calls.map(({ method, url }) => `${method} ${url.slice(SUBSCRIPTION.length)}`.trim());

async function untilState(device: Device, state: string, deadlineMs = 10_000): Promise<Record<string, unknown>> {
  return await waitFor(
    async () => {
      const { subscription } = (await broker.api(`/v1/devices/${device.code}`)).json();
      const view = subscription as Record<string, unknown> | undefined;
      return view?.state === state ? view : undefined;
    },
    { deadlineMs, what: `subscription ${state}` },
  );
}

describe.concurrent('L27', () => {
  test('L27: created 2 s after every 101 with the body of the profile, on whichever edge', async () => {
    const device = await subscribing(granted, 'default');
    const first = await device.untilCalled(SUBSCRIPTION);
    expect(first).toMatchObject({ method: 'POST', data: { Duration: 600, Type: 0 } });
    expect(afterMs(device, first)).toBeGreaterThan(1_950);
    expect(afterMs(device, first)).toBeLessThan(3_500);
    await device.register(1);
    device.answering(granted);
    const second = await device.untilCalled(SUBSCRIPTION, 2);
    expect(second).toMatchObject({ method: 'POST', data: { Duration: 600, Type: 0 } });
    expect(afterMs(device, second)).toBeGreaterThan(1_950);
    // Ids of earlier sessions are left alone (U4).
    expect(kinds(device)).toEqual(['POST', 'POST']);
  });

  test('L27: cameras are asked for everything in their own words, and subscription off asks for nothing', async () => {
    const [camera, quiet] = await Promise.all([subscribing(granted, 'ipc'), subscribing(granted, 'quiet')]);
    expect(await camera.untilCalled(SUBSCRIPTION)).toMatchObject({ data: { Duration: 600, Type: 65_535 } });
    expect((await broker.api(`/v1/devices/${quiet.code}${DEVICE_INFO}`)).status).toBe(200);
    await staysTrue(() => quiet.callsTo(SUBSCRIPTION).length === 0, 1_500, 'no subscription');
    expect(await quiet.notify('Alarm', alarm(1))).toMatchObject({ ResponseCode: 0 });
  });

  test('L27: renewed after half of what the device granted, under its id, and shown with the device (U6)', async () => {
    const device = await subscribing(granted);
    const created = await device.untilCalled(SUBSCRIPTION);
    expect(created.data).toEqual({ Duration: 30, Type: 0 });
    expect(await untilState(device, 'active')).toEqual({
      state: 'active',
      supportType: 16_417,
      terminationTime: GRANTED.TerminationTime,
    });
    const renewed = await device.untilCalled(`${SUBSCRIPTION}/249`, 1, 15_000);
    expect(renewed).toMatchObject({ method: 'PUT', data: { Duration: 30 } });
    expect(renewed.receivedMs - created.receivedMs).toBeGreaterThan(9_900);
    expect(renewed.receivedMs - created.receivedMs).toBeLessThan(11_000);
    expect(kinds(device)).toEqual(['POST', 'PUT /249']);
  });

  test('L27: without times in the answer half of the Duration asked for counts, and ids 0 and "a-1" are ids', async () => {
    const device = await subscribing(() => ({ Data: { ID: 0 } }));
    const other = await subscribing(() => ({ Data: '{"ID":"a-1"}' }));
    const created = await device.untilCalled(SUBSCRIPTION);
    const renewed = await device.untilCalled(`${SUBSCRIPTION}/0`, 1, 20_000);
    expect(renewed.receivedMs - created.receivedMs).toBeGreaterThan(14_900);
    expect(renewed.receivedMs - created.receivedMs).toBeLessThan(16_000);
    expect(await other.untilCalled(`${SUBSCRIPTION}/a-1`, 1, 10_000)).toMatchObject({ method: 'PUT' });
  });

  test.each([
    ['refused', { ResponseCode: 1, Data: {} }],
    ['unknown to the device', { ResponseCode: 2001, Data: {} }],
  ])('L27: a renewal that is %s leads to a new subscription at once', async (_how, refusal) => {
    const device = await subscribing(({ method }) => (method === 'PUT' ? refusal : { Data: GRANTED }));
    const failed = await device.untilCalled(`${SUBSCRIPTION}/249`, 1, 15_000);
    const again = await device.untilCalled(SUBSCRIPTION, 2);
    expect(again.method).toBe('POST');
    expect(again.receivedMs - failed.receivedMs).toBeLessThan(1_000);
    await untilState(device, 'active');
  });

  test('L27: code 4 stops it until the next session', async () => {
    const device = await subscribing(() => ({ ResponseCode: 4, ResponseString: 'Not Supported' }));
    await device.untilCalled(SUBSCRIPTION);
    expect(await untilState(device, 'unsupported')).toEqual({ state: 'unsupported' });
    await staysTrue(() => device.calls.length === 1, 7_000, 'silence after code 4');
    expect(await device.notify('Alarm', alarm(1))).toMatchObject({ ResponseCode: 0 });
    await device.register(1);
    device.answering(granted);
    await device.untilCalled(SUBSCRIPTION, 2);
    await untilState(device, 'active');
  });

  test('L27: code 2 is tried once more without Type', async () => {
    const device = await subscribing(({ data }) =>
      'Type' in (data as object) ? { ResponseCode: 2, ResponseString: 'Invalid Arguments' } : { Data: GRANTED },
    );
    const first = await device.untilCalled(SUBSCRIPTION);
    const second = await device.untilCalled(SUBSCRIPTION, 2);
    expect(second.data).toEqual({ Duration: 30 });
    expect(second.receivedMs - first.receivedMs).toBeLessThan(1_000);
    await untilState(device, 'active');
  });

  test('U3: a create that fails is tried again after 5 s and then 10 s, with 20 % of jitter', async () => {
    const device = await subscribing(() => ({ ResponseCode: 1, ResponseString: 'Common Error' }));
    const first = await device.untilCalled(SUBSCRIPTION);
    await untilState(device, 'retrying');
    const second = await device.untilCalled(SUBSCRIPTION, 2);
    expect(second.receivedMs - first.receivedMs).toBeGreaterThan(3_900);
    expect(second.receivedMs - first.receivedMs).toBeLessThan(6_600);
    const third = await device.untilCalled(SUBSCRIPTION, 3, 15_000);
    expect(third.receivedMs - second.receivedMs).toBeGreaterThan(7_900);
    expect(third.receivedMs - second.receivedMs).toBeLessThan(12_600);
  });

  test('C3: a silent create costs a place of the budget but no call of the platform, and is given up after 10 s', async () => {
    const device = await subscribing(({ url }) => (url === SUBSCRIPTION ? undefined : { Data: {} }));
    await device.untilCalled(SUBSCRIPTION);
    expect((await broker.api(`/v1/devices/${device.code}${DEVICE_INFO}`)).status).toBe(200);
    await untilState(device, 'retrying', 12_000);
    expect(device.wire.closed).toBe(false);
  });

  test('L27: a drain deletes the subscriptions, waits at most 1 s for a mute device, and closes with 1001', async () => {
    const leaving = 2;
    const [polite, mute] = await Promise.all([
      subscribing(granted, 'subscribed', leaving),
      subscribing(
        ({ method }) => (method === 'DELETE' ? undefined : { Data: { ...GRANTED, ID: '77' } }),
        'subscribed',
        leaving,
      ),
    ]);
    await Promise.all([untilState(polite, 'active'), untilState(mute, 'active')]);
    await broker.edges[leaving]?.stop();
    for (const [device, id] of [
      [polite, '249'],
      [mute, '77'],
    ] as const) {
      await device.wire.untilClosed();
      expect(kinds(device).at(-1)).toBe(`DELETE /${id}`);
      expect(device.wire.closeCode).toBe(1001);
      expect((await broker.untilOnline(device.code, false)).lastOffline).toMatchObject({ reason: 'draining' });
    }
  });
});
