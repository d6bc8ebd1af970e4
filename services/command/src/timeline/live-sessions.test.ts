import {
  type DeviceCode,
  decodeControlFrame,
  type Epoch,
  type InstanceId,
  type NodeId,
  type SessionId,
} from '@lapi-broker/protocol';
import { createKeyspace } from '@lapi-broker/redis';
import { encodeSession, type SessionEntry } from '@lapi-broker/timeline';
import { expect, test, vi } from 'vitest';
import { LiveSessions } from './live-sessions.ts';

const CODE = '210235TEST0000000001' as DeviceCode;
const NODE = 'edge-1.0m3k9x1y2a4f7' as NodeId;
const ENTRY: SessionEntry = {
  type: 'session',
  code: CODE,
  session: 'session-1' as SessionId,
  node: NODE,
  epoch: 5 as Epoch,
  address: '192.0.2.1',
  openedAtMs: 1,
  endedAtMs: undefined,
  reason: undefined,
  secret: 'current',
  previous: undefined,
  heardAtMs: 2,
  keepalives: 3,
  frames: [],
};

/** The questions that reached a node. */
function open(receivers = 1) {
  const asked: { readonly channel: string; readonly ask: number }[] = [];
  const sessions = new LiveSessions({
    instance: 'c1' as InstanceId,
    keyspace: createKeyspace(),
    pubsub: {
      publish: async (channel, frame) => {
        const message = Buffer.isBuffer(frame) ? decodeControlFrame(frame) : undefined;
        if (message?.type === 'show_session') asked.push({ channel, ask: message.ask });
        return { status: 'published', receivers };
      },
    },
  });
  return { sessions, asked };
}

test('a question goes to the node, and its answer to who asked', async () => {
  const { sessions, asked } = open();
  const [first, second] = [sessions.show(NODE, CODE), sessions.show(NODE, CODE)];
  expect(asked.map(({ channel }) => channel)).toEqual([`lapi:inbox:${NODE}`, `lapi:inbox:${NODE}`]);
  const [one, two] = asked.map(({ ask }) => ask) as [number, number];
  sessions.told({ ask: two, text: '' });
  sessions.told({ ask: two + 1, text: encodeSession(ENTRY) });
  sessions.told({ ask: one, text: encodeSession(ENTRY) });
  expect(await first).toEqual(ENTRY);
  expect(await second).toBeUndefined();
});

test('a node that does not listen, does not answer or says what nobody can read costs the answer only', async () => {
  expect(await open(0).sessions.show(NODE, CODE)).toBeUndefined();
  vi.useFakeTimers();
  try {
    const { sessions, asked } = open();
    const silent = sessions.show(NODE, CODE);
    await vi.advanceTimersByTimeAsync(1_000);
    expect(await silent).toBeUndefined();
    const odd = sessions.show(NODE, CODE);
    sessions.told({ ask: asked[1]?.ask ?? 0, text: '{"v":2}' });
    expect(await odd).toBeUndefined();
    const left = sessions.show(NODE, CODE);
    sessions.stop();
    expect(await left).toBeUndefined();
    expect(vi.getTimerCount()).toBe(0);
  } finally {
    vi.useRealTimers();
  }
});
