import { missingSinkServer, type SinkServer, startSinkServer } from '@lapi-broker/fixture';
import type { SinkConnection, SinkMessage } from '@lapi-broker/sink';
import { DiscardPolicy, jetstream, type StreamConfig } from '@nats-io/jetstream';
import { connect } from '@nats-io/transport-node';
import { afterAll, afterEach, beforeAll, describe, expect, test } from 'vitest';
import { type NatsSinkOptions, openNatsSink } from './nats-sink.ts';

const why = missingSinkServer('nats');
const opened: SinkConnection[] = [];

afterEach(async () => {
  await Promise.all(opened.splice(0).map((each) => each.close()));
});

async function open(options: NatsSinkOptions): Promise<SinkConnection> {
  const connection = await openNatsSink(options).connect();
  opened.push(connection);
  return connection;
}

const event = (n: number, code = 'cam-1', kind = 'alarm.MotionAlarmOn'): SinkMessage => ({
  id: `03-1700000000000-${n}`,
  type: 'event',
  code,
  kind,
  json: Buffer.from(`{"n":${n},"big":9007199254740993123}`),
});
const numbered = (count: number): SinkMessage[] => Array.from({ length: count }, (_, n) => event(n));

async function addStream(url: string, config: Partial<StreamConfig> & { name: string }): Promise<void> {
  const nats = await connect({ servers: url });
  await (await jetstream(nats).jetstreamManager()).streams.add(config);
  await nats.close();
}

/** All messages of a stream, oldest first. */
async function stored(url: string, name: string) {
  const nats = await connect({ servers: url });
  const { streams } = await jetstream(nats).jetstreamManager();
  const stream = await streams.get(name);
  const { state, config } = await stream.info();
  const messages = [];
  for (let seq = state.first_seq; seq <= state.last_seq; seq++) {
    const message = await stream.getMessage({ seq });
    if (message !== null) messages.push(message);
  }
  await nats.close();
  return { messages, config };
}

describe.skipIf(why !== undefined)(`NATS JetStream as a sink${why === undefined ? '' : ` (${why})`}`, () => {
  let server: SinkServer;
  beforeAll(async () => {
    server = await startSinkServer('nats', {
      config: [
        'max_payload: 16KB',
        'accounts { A { jetstream: enabled, users: [{ user: a, password: "p@ss/word" }, { user: r, password: r, permissions: { publish: "none" } }] } }',
        'no_auth_user: a',
      ],
    });
  });
  afterAll(() => server.stop());

  test('what is confirmed is in the stream, byte for byte, under the subject of its device and kind', async () => {
    await addStream(server.url, { name: 'one', subjects: ['one.>'] });
    const connection = await open({ url: server.url, subject: 'one.{code}.{kind}' });
    const results = await connection.publish([event(1), { ...event(2, '', 'gap'), type: 'gap' }]);
    expect(results).toEqual([{ status: 'confirmed' }, { status: 'confirmed' }]);
    const { messages } = await stored(server.url, 'one');
    expect(new Set(messages.map(({ subject }) => subject))).toEqual(
      new Set(['one._.gap', 'one.cam-1.alarm.MotionAlarmOn']),
    );
    const first = messages.find(({ subject }) => subject.startsWith('one.cam-1'));
    expect(first?.string()).toBe('{"n":1,"big":9007199254740993123}');
    expect(first?.header.get('Nats-Msg-Id')).toBe('03-1700000000000-1');
    expect(first?.header.get('Lapi-Type')).toBe('event');
  });

  test('a repeat is confirmed, and dropped by the stream', async () => {
    await addStream(server.url, { name: 'twice', subjects: ['twice.>'] });
    const connection = await open({ url: server.url, subject: 'twice.{code}' });
    for (let i = 0; i < 3; i++) {
      expect(await connection.publish(numbered(100))).toEqual(
        Array.from({ length: 100 }, () => ({ status: 'confirmed' })),
      );
    }
    expect((await stored(server.url, 'twice')).messages).toHaveLength(100);
  });

  test('without a stream nothing is taken, at once and with the reason, and the connection stays', async () => {
    const connection = await open({ url: server.url, subject: 'nobody.{code}' });
    expect(await connection.publish([event(1)])).toEqual([
      { status: 'unavailable', reason: expect.stringContaining('no JetStream stream takes the subjects under nobody') },
    ]);
    await addStream(server.url, { name: 'somebody', subjects: ['nobody.>'] });
    expect(await connection.publish([event(1)])).toEqual([{ status: 'confirmed' }]);
  });

  test('a stream is made when asked for, once, and left as it is where it exists', async () => {
    const options = { url: server.url, subject: 'made.{code}', createStream: 'made' };
    const connections = await Promise.all([open(options), open(options), open(options)]);
    await Promise.all(connections.map((each) => each.publish(numbered(2))));
    const { messages, config } = await stored(server.url, 'made');
    expect(messages).toHaveLength(2);
    expect(config.subjects).toEqual(['made.>']);
    await open({ ...options, subject: 'other.{code}' });
    expect((await stored(server.url, 'made')).config.subjects).toEqual(['made.>']);
  });

  test('what is too large for the server or the stream is told as such, and costs the others nothing', async () => {
    await addStream(server.url, { name: 'small', subjects: ['small.>'], max_msg_size: 8_000 });
    const connection = await open({ url: server.url, subject: 'small.{code}' });
    const large = (bytes: number): SinkMessage => ({ ...event(bytes), json: Buffer.alloc(bytes, ' ') });
    expect((await connection.publish([large(20_000), large(9_000), event(1)])).map(({ status }) => status)).toEqual([
      'too_large',
      'too_large',
      'confirmed',
    ]);
  });

  test('a stream that is full takes nothing at present; so does a server that gives no permission', async () => {
    await addStream(server.url, { name: 'full', subjects: ['full.>'], max_msgs: 1, discard: DiscardPolicy.New });
    const connection = await open({ url: server.url, subject: 'full.{code}' });
    expect(await connection.publish([event(1)])).toEqual([{ status: 'confirmed' }]);
    expect(await connection.publish([event(2)])).toMatchObject([{ status: 'unavailable' }]);
    const reader = await open({ url: server.url.replace('//', '//r:r@'), subject: 'full.{code}' });
    expect(await reader.publish([event(3)])).toMatchObject([{ status: 'unavailable' }]);
  });

  test('credentials of the URL are used, and a refusal does not tell them', async () => {
    await open({ url: server.url.replace('//', '//a:p%40ss%2Fword@'), subject: 'x.{code}' });
    const wrong = openNatsSink({ url: server.url.replace('//', '//a:wrong-secret@'), subject: 'x.{code}' }).connect();
    await expect(wrong).rejects.toThrow(/authorization/i);
    await expect(wrong).rejects.not.toThrow(/wrong-secret/);
  });
});

describe.skipIf(why !== undefined)('a NATS server that is killed', () => {
  let server: SinkServer;
  beforeAll(async () => {
    server = await startSinkServer('nats');
  });
  afterAll(() => server.stop());

  test('ends the connection; nothing is confirmed by it any more, and what was confirmed is there after a restart', async () => {
    const options = { url: server.url, subject: 'k.{code}', createStream: 'k' };
    const connection = await open(options);
    expect((await connection.publish(numbered(50))).every(({ status }) => status === 'confirmed')).toBe(true);
    await server.kill();
    await connection.lost;
    expect(await connection.publish([event(99)])).toMatchObject([{ status: 'unconfirmed' }]);
    await expect(openNatsSink(options).connect()).rejects.toThrow();
    await server.restart();
    const again = await open(options);
    expect(await again.publish([event(99)])).toEqual([{ status: 'confirmed' }]);
    expect((await stored(server.url, 'k')).messages.map((message) => message.json<{ n: number }>().n)).toEqual([
      ...numbered(50).map((_, n) => n),
      99,
    ]);
  });
});
