/** Registration when the store is slow, silent or gone, and when the device leaves in the middle of it (protocol H6, H7, H12, F16, 4.4):
 *  L9, L11, L33. One edge reaches the store through a relay with faults, the other one and the command service directly. */

import { setTimeout as sleep } from 'node:timers/promises';
import { type RedisServer, startRedis, startTcpProxy, type TcpProxy, waitFor } from '@lapi-broker/fixture';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { answerTo, DEVICE_INFO, picture } from './device.ts';
import {
  type Applicant,
  ask,
  canaryCount,
  challenge,
  closeWires,
  connect,
  leaks,
  newAddress,
  newSecret,
  provisioned,
  randomDigits,
  registered,
  remember,
  stepTwo,
} from './registration.ts';
import { type Setting, startSetting, timed } from './setting.ts';
import { encodeFrame, type HttpAnswer, REGISTER, Wire } from './wire.ts';

const REJECTED = 'lapi_register_rejected_total';
/** Behind the relay. */
const FAR = 0;
const NEAR = 1;

let redis: RedisServer;
let relay: TcpProxy;
let setting: Setting;
let last: Applicant;
let broker: Setting['broker'];

beforeAll(async () => {
  redis = await startRedis();
  relay = await startTcpProxy({ target: { port: redis.port } });
  setting = await startSetting({
    redis: { url: redis.url },
    edges: 0,
    edgeEnv: { LAPI_LOG_LEVEL: 'debug' },
    commandEnv: { LAPI_LOG_LEVEL: 'debug' },
  });
  broker = setting.broker;
  await broker.addEdge({ REDIS_URL: `redis://127.0.0.1:${relay.port}/0` });
  await broker.addEdge();
  remember(broker.nonceKey, broker.secretKey, broker.apiKey);
  last = await provisioned(broker);
});
afterEach(() => relay.heal());
afterAll(async () => {
  closeWires();
  await setting.stop();
  await relay.stop();
  await redis.stop();
});

function count(name: string, labels: Readonly<Record<string, string>> = {}): Promise<number> {
  const edge = broker.edges[FAR];
  if (edge === undefined) throw new RangeError('not started');
  return broker.metric(edge, name, labels);
}

/** After the next answer of its probes the edge has seen all that reached it before. */
async function edgeHasSeenAll(): Promise<void> {
  await count('lapi_sessions');
}

async function isOnline(code: string): Promise<boolean> {
  return (await broker.api(`/v1/devices/${code}`)).json().online === true;
}

/** What the books hold of these devices: no session, no owner, and an end for every epoch that began. Answers how many began. */
async function nothingLeft(codes: readonly string[]): Promise<number> {
  // One connection carries all commands in order: a registration that begins after the others ends after them.
  const target = stepTwo(last, await challenge(await connect(broker, FAR, newAddress())));
  (await until101(FAR, target)).destroy();
  await broker.untilOnline(last.code, false);
  await waitFor(async () => (await count('lapi_sessions')) === 0, { deadlineMs: 5_000, what: 'no session to be open' });
  await waitFor(async () => ((await redis.command('KEYS', `${broker.keyPrefix}:*:owned:*`)) as string[]).length === 0, {
    deadlineMs: 10_000,
    what: 'no device to be owned',
  });
  let begun = 0;
  for (const code of codes) {
    const row = (await broker.api(`/v1/devices/${code}`)).json();
    expect([code, row.online]).toEqual([code, false]);
  }
  const presence = await presences();
  for (const code of codes) {
    const { online, offline } = presence.get(code) ?? { online: [], offline: [] };
    expect([code, offline.toSorted()]).toEqual([code, online.toSorted()]);
    begun += online.length;
  }
  return begun;
}

/** Epochs of each device in the streams of the store. */
async function presences(): Promise<Map<string, { readonly online: string[]; readonly offline: string[] }>> {
  const found = new Map<string, { readonly online: string[]; readonly offline: string[] }>();
  for (const stream of (await redis.command('KEYS', `${broker.keyPrefix}:*:events`)) as string[]) {
    for (const [, fields] of (await redis.command('XRANGE', stream, '-', '+')) as [string, string[]][]) {
      const value = (name: string): string =>
        fields[fields.findIndex((field, i) => i % 2 === 0 && field === name) + 1] ?? '';
      const epochs = found.get(value('c')) ?? { online: [], offline: [] };
      found.set(value('c'), epochs);
      if (value('k') === 'presence.online') epochs.online.push(value('e'));
      if (value('k') === 'presence.offline') epochs.offline.push(value('e'));
    }
  }
  return found;
}

function expect503({ status, headers, body }: HttpAnswer): void {
  expect(status).toBe(503);
  expect(headers.get('retry-after')).toBe('5');
  expect(body).not.toContain('Nonce');
}

/** Tries one target on new connections until it becomes a WebSocket. */
async function until101(edge: number, target: string): Promise<Wire> {
  const address = newAddress();
  return await waitFor(
    async () => {
      const wire = await connect(broker, edge, address);
      const { status } = await ask(wire, target);
      if (status === 101) return wire;
      if (status !== 503) throw new Error(`answered ${status}`);
      return undefined;
    },
    { deadlineMs: 10_000, what: 'the nonce to be taken', intervalMs: 100 },
  );
}

describe('the device leaves', () => {
  test('L9: at any point between step 2 and the 101 it leaves no socket and no ownership', async () => {
    const tries = 60;
    const applicants = await Promise.all(Array.from({ length: tries }, () => provisioned(broker)));
    await edgeHasSeenAll();
    const filesBefore = await count('process_open_fds');
    const registrations = await count('lapi_registrations_total');
    // Two round trips, the secret and the claim: the 101 comes after some 200 ms.
    relay.latency(50);
    const address = newAddress();
    await Promise.all(
      applicants.map(async (applicant, i) => {
        const wire = await Wire.connect(broker.edgeUrl(FAR), address);
        const target = stepTwo(applicant, await challenge(wire));
        void wire.get(target).catch(() => undefined);
        await sleep(i * 5);
        // Half of them with a FIN, half at once, which is a reset where bytes were unread.
        if (i % 2 === 0) wire.end();
        wire.destroy();
      }),
    );
    relay.heal();
    const claimed = await nothingLeft(applicants.map(({ code }) => code));
    // Some left before their claim, some after it, some after the 101.
    expect(claimed).toBeGreaterThan(0);
    expect(claimed).toBeLessThan(tries);
    const welcomed = (await count('lapi_registrations_total')) - registrations;
    expect(welcomed).toBeGreaterThan(0);
    expect(welcomed).toBeLessThan(claimed);
    await waitFor(async () => (await count('process_open_fds')) <= filesBefore, {
      deadlineMs: 10_000,
      what: `the edge to have no more than ${filesBefore} files open`,
    });
    for (const applicant of applicants.slice(0, 5)) (await registered(broker, applicant, FAR, address)).destroy();
    await nothingLeft(applicants.slice(0, 5).map(({ code }) => code));
  });

  /** Registered before, so that the edge needs the store for the claim alone; offline again. */
  async function known(): Promise<Applicant> {
    const applicant = await provisioned(broker);
    (await registered(broker, applicant, FAR, newAddress())).destroy();
    await broker.untilOnline(applicant.code, false);
    return applicant;
  }

  test('L9: while the answer to its claim is on the way: the ownership is released, no session opens (H7)', async () => {
    const applicant = await known();
    const wire = await connect(broker, FAR, newAddress());
    const target = stepTwo(applicant, await challenge(wire));
    relay.pause('down');
    void ask(wire, target).catch(() => undefined);
    await broker.untilOnline(applicant.code);
    wire.destroy();
    await edgeHasSeenAll();
    relay.heal();
    expect(await nothingLeft([applicant.code])).toBe(2);
    const opened = broker.edges[FAR]?.lines().filter((line) => line.includes('session.opened'));
    expect(opened?.filter((line) => line.includes(applicant.code))).toHaveLength(1);
  });

  test('L9: a claim whose answer was lost is released once the store answers again, and its nonce is spent', async () => {
    const applicant = await known();
    const wire = await connect(broker, FAR, newAddress());
    const target = stepTwo(applicant, await challenge(wire));
    relay.pause('down');
    const { result, tookMs } = await timed(ask(wire, target));
    expect503(result);
    expect(tookMs).toBeLessThan(5_500);
    expect(await isOnline(applicant.code)).toBe(true);
    relay.cut();
    relay.heal();
    expect(await nothingLeft([applicant.code])).toBe(2);
    expect((await ask(await connect(broker, NEAR, newAddress()), target)).status).toBe(401);
  });

  test('L9: bytes sent before the 101 end the connection and leave no ownership (H13, F17)', async () => {
    const applicant = await known();
    const wire = await connect(broker, FAR, newAddress());
    const target = stepTwo(applicant, await challenge(wire));
    relay.pause('down');
    void ask(wire, target).catch(() => undefined);
    await broker.untilOnline(applicant.code);
    wire.write(encodeFrame('{"RequestURL":"/LAPI/V1.0/System/UpServer/Keepalive","Method":"PUT","Cseq":1}'));
    await wire.untilClosed();
    relay.heal();
    expect(await nothingLeft([applicant.code])).toBe(2);
  });
});

describe('the store is away', () => {
  test('L11: cut off: step 1 is answered, step 2 gets 503 with Retry-After; the nonce is taken after recovery', async () => {
    const applicant = await provisioned(broker);
    const unavailable = await count(REJECTED, { reason: 'store_unavailable' });
    relay.refuse();
    relay.cut();
    const wire = await connect(broker, FAR, newAddress());
    const target = stepTwo(applicant, await challenge(wire));
    for (const each of [wire, await connect(broker, FAR, newAddress())]) {
      expect503(await ask(each, target));
      await each.untilClosed();
    }
    expect(await count(REJECTED, { reason: 'store_unavailable' })).toBe(unavailable + 2);
    relay.heal();
    const taken = await until101(FAR, target);
    expect((await ask(await connect(broker, FAR, newAddress()), target)).status).toBe(401);
    taken.destroy();
    expect(await nothingLeft([applicant.code])).toBe(1);
  });

  test('L11: silent: 503 within the deadline of H12, then at once; the nonce is taken after recovery', async () => {
    const applicant = await provisioned(broker);
    const target = stepTwo(applicant, await challenge(await connect(broker, FAR, newAddress())));
    relay.pause();
    const first = await timed(ask(await connect(broker, FAR, newAddress()), target));
    expect503(first.result);
    expect(first.tookMs).toBeLessThan(5_500);
    await waitFor(
      async () => {
        const { result, tookMs } = await timed(ask(await connect(broker, FAR, newAddress()), target));
        expect503(result);
        return tookMs < 200;
      },
      { deadlineMs: 12_000, what: 'an answer that does not wait for the store' },
    );
    // Another edge has its own way to the store.
    const elsewhere = await provisioned(broker);
    (await registered(broker, elsewhere, NEAR, newAddress())).destroy();
    relay.heal();
    (await until101(FAR, target)).destroy();
    expect(await nothingLeft([applicant.code, elsewhere.code])).toBe(2);
  });

  test('L11: killed: all edges refuse, and the same nonce is taken when it runs again', async () => {
    const applicant = await provisioned(broker);
    const target = stepTwo(applicant, await challenge(await connect(broker, NEAR, newAddress())));
    await redis.kill('SIGKILL');
    for (const edge of [FAR, NEAR]) {
      const wire = await connect(broker, edge, newAddress());
      expect503(await ask(wire, target));
      await wire.untilClosed();
    }
    // Secrets on their way to a store that is away must not end in a log either.
    const put = await broker.api(`/v1/devices/${applicant.code}`, { method: 'PUT', body: { secret: newSecret() } });
    expect(put.status).toBe(503);
    await redis.restart();
    (await until101(FAR, target)).destroy();
    // The other edge finds the store again in its own time; until then it refuses, and never takes the used nonce.
    await waitFor(
      async () => {
        const { status } = await ask(await connect(broker, NEAR, newAddress()), target);
        expect([401, 503]).toContain(status);
        return status === 401;
      },
      { deadlineMs: 10_000, what: 'the nonce to be refused' },
    );
    await nothingLeft([applicant.code]);
  });

  test('L33: no line of any process holds a secret, a Sign, a nonce, a key, a PIN or image base64', async () => {
    const applicant = await provisioned(broker);
    const wire = await registered(broker, applicant, FAR, newAddress());
    await broker.untilOnline(applicant.code);
    const image = picture(200_000);
    const secrets = Array.from({ length: 6 }, () => `${randomDigits(20)}`);
    remember(...[0, 500, 50_000, 199_000].map((at) => image.slice(at, at + 48)), ...secrets);
    const [pin, user, inUrl, inAnswer, inText, inQuery] = secrets;
    // A call with secrets in its query, its body and its answer.
    const call = broker.api(`/v1/devices/${applicant.code}${DEVICE_INFO}?PIN=${inQuery}`, {
      method: 'PUT',
      body: { LoginName: user, PIN: pin, URL: `rtsp://admin:${inUrl}@192.0.2.1/` },
    });
    const { Cseq } = await wire.call(/DeviceInfo/);
    wire.json(
      answerTo(
        { url: DEVICE_INFO, method: 'PUT', cseq: Number(Cseq), data: {}, text: '', receivedMs: 0 },
        { ResponseCode: 1, Data: { PIN: inAnswer } },
      ),
    );
    await call;
    relay.refuse();
    relay.cut();
    // What the store does not take, what is malformed, and what nobody asked for.
    wire.json({
      RequestURL: '/LAPI/V1.0/System/Event/Notification/Structure',
      Method: 'POST',
      Cseq: 1,
      Data: { ImageInfoList: [{ Data: image }], PIN: pin },
    });
    wire.frame(`{"PIN":"${inText}","Data":"${image}"`);
    wire.json({ ResponseURL: DEVICE_INFO, ResponseCode: 0, Cseq: 999, Data: { PIN: pin, Image: image } });
    await wire.response(1);
    const refused = stepTwo(applicant, await challenge(await connect(broker, FAR, newAddress())));
    expect503(await ask(await connect(broker, FAR, newAddress()), refused));
    await ask(await connect(broker, NEAR, newAddress()), refused.replace(REGISTER, '/ws'));
    relay.heal();
    (await until101(FAR, refused)).destroy();
    expect(canaryCount()).toBeGreaterThan(100);
    const processes = [...broker.edges, ...broker.commands];
    for (const process of processes) {
      expect(process.lines().length).toBeGreaterThan(10);
      expect(process.lines().length).toBeLessThan(5_000);
    }
    // The run had failures to tell of.
    expect(processes.some((process) => process.lines().some((line) => line.includes('register.failed')))).toBe(true);
    expect(leaks(processes)).toEqual([]);
  });
});
