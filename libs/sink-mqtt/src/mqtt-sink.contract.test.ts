import { missingSinkServer, type SinkServer, startSinkServer, startTcpProxy, waitFor } from '@lapi-broker/fixture';
import type { SinkConnection, SinkMessage } from '@lapi-broker/sink';
import mqtt, { type IPublishPacket } from 'mqtt';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type MqttSinkOptions, openMqttSink } from './mqtt-sink.ts';

const why = missingSinkServer('mosquitto');
const opened: { close(): Promise<void> }[] = [];

afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()));
});

async function open(options: MqttSinkOptions): Promise<SinkConnection> {
  const connection = await openMqttSink(options).connect();
  opened.push(connection);
  return connection;
}

/** What a subscriber gets from now on. */
async function listen(url: string, topic: string): Promise<IPublishPacket[]> {
  const client = await mqtt.connectAsync(url, { protocolVersion: 5, reconnectPeriod: 0 });
  opened.push({ close: () => client.endAsync(true) });
  await client.subscribeAsync(topic, { qos: 1 });
  const packets: IPublishPacket[] = [];
  client.on('message', (_topic, _payload, packet) => {
    packets.push(packet);
  });
  return packets;
}

const event = (n: number, code = 'cam-1', kind = 'alarm.MotionAlarmOn'): SinkMessage => ({
  id: `03-1700000000000-${n}`,
  type: 'event',
  code,
  kind,
  json: Buffer.from(`{"n":${n},"big":9007199254740993123}`),
});

describe.skipIf(why !== undefined)(`an MQTT broker as a sink${why === undefined ? '' : ` (${why})`}`, () => {
  let server: SinkServer;
  beforeAll(async () => {
    server = await startSinkServer('mosquitto', { config: ['max_packet_size 10000'] });
  });
  afterAll(() => server.stop());

  test('what is confirmed reaches subscribers byte for byte with QoS 1, under the topic of its device and kind', async () => {
    const packets = await listen(server.url, 'one/#');
    const connection = await open({ url: server.url, topic: 'one/{code}/{kind}' });
    expect(await connection.publish([event(1), { ...event(2, '', 'gap'), type: 'gap' }])).toEqual([
      { status: 'confirmed' },
      { status: 'confirmed' },
    ]);
    await waitFor(() => packets.length === 2, { deadlineMs: 10_000, what: 'two messages' });
    expect(packets[0]).toMatchObject({ topic: 'one/cam-1/alarm/MotionAlarmOn', qos: 1, retain: false });
    expect(String(packets[0]?.payload)).toBe('{"n":1,"big":9007199254740993123}');
    expect(packets[0]?.properties?.userProperties).toEqual({ id: '03-1700000000000-1', type: 'event' });
    expect(packets[0]?.properties?.contentType).toBe('application/json');
    expect(packets[1]).toMatchObject({ topic: 'one/_/gap', properties: { userProperties: { type: 'gap' } } });
  });

  test('more at once than the broker allows wait for their turn, and all are confirmed', async () => {
    const packets = await listen(server.url, 'many/#');
    const proxy = await startTcpProxy({ target: { port: server.port } });
    try {
      const connection = await open({ url: `mqtt://127.0.0.1:${proxy.port}`, topic: 'many/{code}' });
      proxy.pause('down');
      const publishing = connection.publish(Array.from({ length: 500 }, (_, n) => event(n)));
      // Mosquitto allows 20 that it has not confirmed, or whose confirmation is on its way.
      await waitFor(() => packets.length >= 20, { deadlineMs: 10_000, what: '20 messages' });
      const direct = await open({ url: server.url, topic: 'many/{code}' });
      await direct.publish([event(1, 'last')]);
      await waitFor(() => packets.some(({ topic }) => topic === 'many/last'), { deadlineMs: 10_000, what: 'one more' });
      expect(packets).toHaveLength(21);
      proxy.heal();
      expect((await publishing).every(({ status }) => status === 'confirmed')).toBe(true);
      await waitFor(() => packets.length === 501, { deadlineMs: 20_000, what: 'all messages' });
    } finally {
      await proxy.stop();
    }
  });

  test('what is too large for the broker is told as such, and costs the others nothing', async () => {
    const connection = await open({ url: server.url, topic: 'size/{code}' });
    const large = { ...event(1), json: Buffer.alloc(20_000, ' ') };
    expect((await connection.publish([large, event(2)])).map(({ status }) => status)).toEqual([
      'too_large',
      'confirmed',
    ]);
  });

  test('a broker that is killed ends the connection, and nothing is confirmed by it any more', async () => {
    const options = { url: server.url, topic: 'kill/{code}' };
    const connection = await open(options);
    await server.kill();
    await connection.lost;
    expect(await connection.publish([event(1)])).toMatchObject([{ status: 'unconfirmed' }]);
    await expect(openMqttSink(options).connect()).rejects.toThrow(/ECONNREFUSED/);
    await server.restart();
    expect(await (await open(options)).publish([event(1)])).toEqual([{ status: 'confirmed' }]);
  });

  test('an answer that is against the protocol ends the connection at once', async () => {
    // Mosquitto refuses what is above this limit with a code that MQTT does not have for it.
    const strict = await startSinkServer('mosquitto', { config: ['message_size_limit 1000'] });
    try {
      const connection = await open({ url: strict.url, topic: 'a/{code}' });
      const large = { ...event(1), json: Buffer.alloc(2_000, ' ') };
      expect(await connection.publish([large])).toMatchObject([{ status: 'unconfirmed' }]);
      expect(await connection.lost).toMatch(/reason code/);
    } finally {
      await strict.stop();
    }
  });

  test('a close ends what is under way as unconfirmed', async () => {
    const connection = await open({ url: server.url, topic: 'close/{code}' });
    const publishing = connection.publish(Array.from({ length: 100 }, (_, n) => event(n)));
    await connection.close();
    expect((await publishing).every(({ status }) => status === 'confirmed' || status === 'unconfirmed')).toBe(true);
    expect((await publishing).at(-1)?.status).toBe('unconfirmed');
  });
});

describe.skipIf(why !== undefined)('an MQTT broker with users', () => {
  let server: SinkServer;
  beforeAll(async () => {
    // Users without passwords to check are all that a file of plain text can hold; rights are what counts here.
    server = await startSinkServer('mosquitto', {
      config: (dir) => [`acl_file ${dir}/acl`],
      files: { acl: 'user allowed\ntopic readwrite #\n' },
    });
  });
  afterAll(() => server.stop());

  test('what we may not publish is not taken at present', async () => {
    const allowed = await open({ url: server.url.replace('//', '//allowed:x%40@'), topic: 'a/{code}' });
    expect(await allowed.publish([event(1)])).toEqual([{ status: 'confirmed' }]);
    const other = await open({ url: server.url.replace('//', '//other@'), topic: 'a/{code}' });
    expect(await other.publish([event(1)])).toMatchObject([{ status: 'unavailable' }]);
  });
});

describe.skipIf(why !== undefined)('an MQTT broker that knows nobody', () => {
  test('refuses the connection, and the reason does not tell our credentials', async () => {
    const server = await startSinkServer('mosquitto', {
      config: (dir) => [`password_file ${dir}/users`],
      files: { users: '' },
    });
    try {
      const wrong = openMqttSink({ url: server.url.replace('//', '//u:wrong-secret@'), topic: 'a' }).connect();
      await expect(wrong).rejects.toThrow(/not authorized/i);
      await expect(wrong).rejects.not.toThrow(/wrong-secret/);
    } finally {
      await server.stop();
    }
  });
});
