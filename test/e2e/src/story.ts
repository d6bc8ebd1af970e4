/** Stories about sessions and their nodes, written once and told on every topology of the store: what must hold while everything works, when
 *  a node dies, when a node was away, and when the store restarts. */

import { setTimeout as sleep } from 'node:timers/promises';
import {
  type Broker,
  type EdgeProcess,
  redisCommand,
  startRedis,
  startRedisCluster,
  startRedisSentinel,
  waitFor,
} from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { alarm, DEVICE_INFO, Device } from './device.ts';
import { EventReader, epochsOf } from './event-reader.ts';
import { PlatformSocket } from './platform-socket.ts';
import { type Setting, startSetting, timed } from './setting.ts';

export interface Store {
  readonly url: string;
  /** All servers end and start again with what they had, or the master ends and another takes over; resolves when they serve. */
  restart(): Promise<void>;
  stop(): Promise<void>;
}

export interface Topology {
  readonly name: string;
  /** A failover may take longer than a lease lives; a restart does not. */
  readonly leasesSurvive: boolean;
  start(): Promise<Store>;
}

export const STANDALONE: Topology = { name: 'standalone Redis', leasesSurvive: true, start: () => startRedis() };

export const CLUSTER: Topology = {
  name: 'Redis Cluster of three',
  leasesSurvive: true,
  async start() {
    const cluster = await startRedisCluster();
    return {
      url: cluster.url,
      async restart() {
        await Promise.all(cluster.masters.map((master) => master.restart()));
        await cluster.settled();
      },
      stop: () => cluster.stop(),
    };
  },
};

export const SENTINEL: Topology = {
  name: 'a master with replicas and sentinels',
  leasesSurvive: false,
  async start() {
    const redis = await startRedisSentinel();
    return {
      url: redis.url,
      async restart() {
        await redis.master.kill('SIGKILL');
        await waitFor(
          async () => {
            const port = await redis.masterPort();
            if (port === redis.master.port) return false;
            const facts = String(await redisCommand(port, 'INFO', 'replication'));
            return facts.includes('role:master') && facts.includes('state=online');
          },
          { deadlineMs: 60_000, what: 'a new master with a replica', intervalMs: 100 },
        );
      },
      stop: () => redis.stop(),
    };
  },
};

/** Killed with SIGKILL. */
const MORTAL = 2;
/** Stopped with SIGSTOP for longer than its lease lives. */
const SLEEPER = 3;
const LEASE_MS = 10_000;
const AWAY_MS = 12_000;

export function sessionStories(topology: Topology): void {
  describe(`sessions on ${topology.name}`, () => {
    let store: Store;
    let setting: Setting;
    let broker: Broker;

    beforeAll(async () => {
      store = await topology.start();
      setting = await startSetting({ redis: { url: store.url }, edges: 4, commands: 2 });
      broker = setting.broker;
    });
    afterAll(async () => {
      await setting.stop();
      await store.stop();
    });

    const edge = (index: number): EdgeProcess => broker.edges[index] as EdgeProcess;
    const online = (index: number): Promise<Device> =>
      Device.online(broker, { settings: { profile: 'quiet' }, edge: index });
    const call = (device: Device, service = 0, timeoutMs = 5_000, url = DEVICE_INFO) =>
      broker.api(`/v1/devices/${device.code}${url}`, { service, headers: { 'x-lapi-timeout': String(timeoutMs) } });
    const row = async (device: Device): Promise<Record<string, unknown>> =>
      (await broker.api(`/v1/devices/${device.code}`)).json();

    describe.concurrent('while everything works or one node fails', () => {
      test('a device on any node is called through any command service', async () => {
        const devices = await Promise.all([0, 1, 0, 1].map(online));
        for (const device of devices) device.answering(({ url }) => ({ Data: { of: device.code, url } }));
        for (const device of devices) {
          for (const service of [0, 1]) {
            const answer = await call(device, service);
            expect(answer.status).toBe(200);
            expect(answer.json().Data).toEqual({ of: device.code, url: DEVICE_INFO });
          }
        }
      });

      test('the newest registration wins across nodes: one owner, rising epochs, one event each way (L28)', async () => {
        const device = await online(0);
        const reader = await EventReader.open(broker, `device=${device.code}&from=start`);
        const wires = [device.wire];
        for (const index of [1, 0, 1]) wires.push(await device.register(index));
        device.answering();
        await Promise.all(wires.slice(0, -1).map((wire) => wire.untilClosed()));
        expect(wires.slice(0, -1).map(({ closeCode }) => closeCode)).toEqual([1000, 1000, 1000]);
        for (const service of [0, 1]) expect((await call(device, service)).status).toBe(200);
        await reader.presence(device.code, 'offline', { times: 3 });
        await reader.presence(device.code, 'online', { times: 4 });
        const { online: began, offline } = epochsOf(reader.events, device.code);
        expect(began).toEqual([...new Set(began)].sort((a, b) => a - b));
        expect(offline).toEqual(began.slice(0, -1));
        expect(await row(device)).toMatchObject({
          online: true,
          epoch: began.at(-1),
          node: expect.stringMatching(/^edge-2\./),
        });
      });

      test('an event of any device reaches every subscriber on every command service, once and in order', async () => {
        const devices = await Promise.all([0, 1, 0, 1, 0, 1].map(online));
        const codes = devices.map(({ code }) => code);
        const readers = await Promise.all(
          [0, 1].map((service) => EventReader.open(broker, `device=${codes.join(',')}&kind=alarm.*`, { service })),
        );
        const socket = await PlatformSocket.open(broker, 1);
        await socket.subscribe('s', { devices: codes, kinds: ['alarm.*'] });
        await Promise.all(
          devices.map(async (device) => {
            for (let seq = 1; seq <= 5; seq++)
              expect(await device.notify('Alarm', alarm(seq))).toMatchObject({ ResponseCode: 0 });
          }),
        );
        await waitFor(
          () => [...readers.map(({ events }) => events), socket.events('s')].every(({ length }) => length === 30),
          {
            deadlineMs: 10_000,
            what: '30 events everywhere',
          },
        );
        const seqOf = ({ data }: { data: Record<string, unknown> }): unknown =>
          (data.AlarmInfo as { AlarmSeq: number }).AlarmSeq;
        for (const code of codes) {
          for (const reader of readers) expect(reader.of(code).map(seqOf)).toEqual([1, 2, 3, 4, 5]);
          const told = socket.events('s').flatMap(({ event }) => (event?.code === code ? [seqOf(event)] : []));
          expect(told).toEqual([1, 2, 3, 4, 5]);
        }
      });

      test('a node dies: its devices are node_lost within 12 s, calls never hang, and they are served at their next node', async () => {
        const reader = await EventReader.open(broker, 'kind=presence.*,node.*');
        const devices = await Promise.all(Array.from({ length: 12 }, () => online(MORTAL)));
        const [busy, quick, ...patient] = devices as [Device, Device, ...Device[]];
        for (const device of devices) {
          await reader.presence(device.code, 'online');
          device.answering(() => undefined);
        }
        const written = call(busy, 0, 4_000);
        await busy.untilCalled(DEVICE_INFO);
        const killedMs = performance.now();
        await edge(MORTAL).kill();

        // One comes back before anybody has noticed the death, as most devices do.
        await quick.register(0);
        quick.answering();
        expect((await call(quick, 1)).status).toBe(200);
        // A call meanwhile: told at once that nothing was written.
        const { result: refused, tookMs } = await timed(call(patient[0] as Device, 1));
        expect(refused.status).toBe(503);
        expect(refused.json()).toMatchObject({ source: 'broker', written: false, retryable: true });
        expect(tookMs).toBeLessThan(2_000);
        expect((await written).json()).toMatchObject({ error: 'timeout', written: true });

        const lost = await reader.until(({ data }) => data.name === 'edge-3', {
          deadlineMs: 12_000,
          what: 'node.lost',
        });
        expect(lost).toMatchObject({ kind: 'node.lost', code: '', data: { devices: 11 } });
        for (const device of [busy, ...patient]) {
          const left = await reader.presence(device.code, 'offline', {
            deadlineMs: Math.max(1, killedMs + 12_000 - performance.now()),
          });
          expect(left.data).toEqual({ reason: 'node_lost', node: lost.data.node });
          expect(left.receivedAt >= lost.receivedAt).toBe(true);
          expect(await row(device)).toMatchObject({ online: false, lastOffline: { reason: 'node_lost' } });
        }
        expect((await call(busy)).json()).toMatchObject({ error: 'device_offline', written: false });
        await Promise.all(
          [busy, ...patient].map(async (device, i) => {
            await device.register(i % 2);
            device.answering();
            expect((await call(device, i % 2)).status).toBe(200);
          }),
        );
        // What was written to the dead node is not sent again (I7).
        expect(busy.calls).toHaveLength(2);
        for (const device of devices) {
          await reader.presence(device.code, 'online', { times: 2 });
          const { online: began, offline } = epochsOf(reader.events, device.code);
          expect(began[1]).toBeGreaterThan(began[0] as number);
          expect(offline).toEqual([began[0]]);
        }
        const superseded = await reader.presence(quick.code, 'offline');
        expect(superseded.data).toMatchObject({ reason: 'superseded' });
        expect(reader.events.filter(({ data }) => data.name === 'edge-3')).toHaveLength(1);
      });

      test('a node was away for 12 s: it comes back as another incarnation, claims again what is still its own, and writes nothing stale', async () => {
        const reader = await EventReader.open(broker, 'kind=presence.*');
        const [loyal, mover, ...others] = (await Promise.all(Array.from({ length: 6 }, () => online(SLEEPER)))) as [
          Device,
          Device,
          ...Device[],
        ];
        const stayed = [loyal, ...others];
        for (const device of [mover, ...stayed]) {
          device.answering();
          await reader.presence(device.code, 'online');
          expect((await call(device)).status).toBe(200);
        }
        const before = await row(loyal);
        const sleeper = edge(SLEEPER);
        sleeper.signal('SIGSTOP');
        const stoppedMs = performance.now();
        let calls: Promise<Awaited<ReturnType<typeof call>>>[] = [];
        const moverWire = mover.wire;
        const staleWrites: string[] = [];
        moverWire.onFrame = ({ opcode, payload }) => {
          if (opcode === 1) staleWrites.push(payload.toString());
          return true;
        };
        try {
          // They lie in the stopped node's inbox: one is out of time when it wakes, one is not.
          const stale = '/LAPI/V1.0/Stale';
          calls = [2_000, 40_000].flatMap((timeoutMs) =>
            [mover, loyal].map((device) => call(device, 0, timeoutMs, stale)),
          );
          await mover.register(0);
          mover.answering();
          expect((await call(mover, 1)).status).toBe(200);
          for (const device of stayed) {
            await reader.presence(device.code, 'offline', { deadlineMs: LEASE_MS + 4_000 });
          }
          await sleep(Math.max(0, stoppedMs + AWAY_MS - performance.now()));
        } finally {
          sleeper.signal('SIGCONT');
        }
        for (const device of stayed) {
          const back = await reader.presence(device.code, 'online', { times: 2 });
          const { online: began, offline } = epochsOf(reader.events, device.code);
          expect(back.epoch).toBeGreaterThan(began[0] as number);
          expect(offline).toEqual([began[0]]);
          expect(device.wire.closed).toBe(false);
          expect(await device.keepalive()).toContain('"ResponseCode":0');
          expect((await call(device, 1)).status).toBe(200);
        }
        const after = await row(loyal);
        expect(after).toMatchObject({ online: true, session: before.session });
        expect(String(after.node)).toMatch(/^edge-4\./);
        expect(after.node).not.toBe(before.node);
        expect(await broker.metric(sleeper, 'lapi_fence_total')).toBeGreaterThanOrEqual(1);

        // The device that moved stays where it is; its old connection is closed and was not written to.
        await moverWire.untilClosed();
        expect(staleWrites).toEqual([]);
        expect(await row(mover)).toMatchObject({ online: true, node: expect.stringMatching(/^edge-1\./) });
        expect(mover.wire.closed).toBe(false);
        const { online: began, offline } = epochsOf(reader.events, mover.code);
        expect(began).toHaveLength(2);
        expect(offline).toEqual([began[0]]);

        // Whatever the waiting calls were told agrees with what the devices got: nothing that was refused as unwritten arrived.
        const answers = await Promise.all(calls);
        const served = answers.filter(({ status }) => status === 200).length;
        const arrived = [loyal, mover].flatMap((device) => device.callsTo('/LAPI/V1.0/Stale')).length;
        expect(arrived).toBe(served);
        for (const answer of answers) {
          if (answer.status === 200) continue;
          expect([503, 504]).toContain(answer.status);
        }
        // The two that ran out of time while the node was away never reach a device.
        expect(answers.slice(0, 2).map(({ status }) => status)).toEqual([504, 504]);
      });
    });

    test('the store restarts: no device reconnects, and calls and events work within 5 s', async () => {
      const devices = await Promise.all(Array.from({ length: 20 }, (_, i) => online(i % 2)));
      for (const device of devices) device.answering();
      const reader = await EventReader.open(broker, `device=${devices.map(({ code }) => code).join(',')}&from=start`);
      for (const device of devices) await reader.presence(device.code, 'online');
      const before = await Promise.all(devices.map(row));
      await devices[0]?.notify('Alarm', alarm(1));

      await store.restart();
      const servesMs = performance.now();
      await Promise.all(
        devices.map((device, i) =>
          waitFor(async () => (await call(device, i % 2, 1_000)).status === 200, {
            deadlineMs: 5_000,
            what: `a call to device ${i} after the restart`,
            intervalMs: 100,
          }),
        ),
      );
      expect(performance.now() - servesMs).toBeLessThan(5_000);
      const stored = await waitFor(
        async () => ((await devices[0]?.notify('Alarm', alarm(2)))?.ResponseCode === 0 ? true : undefined),
        { deadlineMs: 5_000, what: 'an event to be stored' },
      );
      expect(stored).toBe(true);
      await reader.until(({ data }) => (data.AlarmInfo as { AlarmSeq?: number } | undefined)?.AlarmSeq === 2);
      expect(reader.ended).toBe(false);
      for (const [i, device] of devices.entries()) {
        expect(device.wire.closed).toBe(false);
        const after = await broker.untilOnline(device.code);
        expect(after.session).toBe(before[i]?.session);
        if (topology.leasesSurvive) expect(after).toMatchObject({ node: before[i]?.node, epoch: before[i]?.epoch });
      }
      if (topology.leasesSurvive)
        expect(epochsOf(reader.events, devices[1]?.code ?? '')).toEqual({ online: [before[1]?.epoch], offline: [] });
      const late = await online(1);
      late.answering();
      // A node that has found the new store last may be fenced for a moment, which is a 503.
      await waitFor(async () => (await call(late)).status === 200, {
        deadlineMs: 5_000,
        what: 'a call to a device that came after the restart',
        intervalMs: 100,
      });
    });
  });
}
