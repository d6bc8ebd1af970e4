import { MemoryPubSub, type PublisherLimits, type PubSub } from '@lapi-broker/bus';
import {
  type CommandFrame,
  type DeviceCode,
  decodeReplyFrame,
  type Epoch,
  encodeCommandFrame,
  type InstanceId,
  type NodeId,
  type ReplyFrame,
  readEnvelope,
} from '@lapi-broker/protocol';
import { createKeyspace, RedisClock } from '@lapi-broker/redis';
import { createLog, createMetrics } from '@lapi-broker/telemetry';
import { afterEach, expect, test, vi } from 'vitest';
import type { Session } from '../device/session.ts';
import { SessionTable } from '../device/session-table.ts';
import { REMEMBERED_COMMAND_IDS } from '../limits.ts';
import { createEdgeMetrics } from '../metrics.ts';
import { Inbox } from './inbox.ts';
import type { Call } from './inflight.ts';

const NODE = 'edge.1' as NodeId;
const CODE = 'CAM-1' as DeviceCode;
const EPOCH = 7 as Epoch;
const NOW_MS = 1_000;
const keyspace = createKeyspace('inbox', 1);
const releases: (() => Promise<void>)[] = [];

afterEach(async () => {
  for (const release of releases.splice(0)) await release();
});

function commandFrame(id: number, from = 'a', over: Partial<CommandFrame> = {}): Buffer {
  return encodeCommandFrame({
    id,
    replyTo: from as InstanceId,
    code: CODE,
    epoch: EPOCH,
    deadlineMs: NOW_MS + 5_000,
    method: 'GET',
    url: '/LAPI/V1.0/X',
    body: Buffer.alloc(0),
    ...over,
  });
}

/** An inbox with one open session, which keeps the calls that it is given. */
function inboxOn(pubsub: PubSub) {
  const calls: Call[] = [];
  const session = { code: CODE, epoch: EPOCH, isOpen: true, leaving: false, submit: (call: Call) => calls.push(call) };
  const sessions = new SessionTable();
  // The inbox uses nothing else of a session.
  sessions.enter(session as unknown as Session);
  const redisClock = new RedisClock(() => NOW_MS);
  redisClock.observe(NOW_MS, NOW_MS, NOW_MS);
  const inbox = new Inbox({
    pubsub,
    keyspace,
    sessions,
    redisClock,
    monotonicMs: () => NOW_MS,
    onControl: () => undefined,
    onGap: () => undefined,
    metrics: createEdgeMetrics(createMetrics('edge')),
    log: createLog({ service: 'edge', level: 'silent' }),
  });
  return { inbox, calls };
}

async function rig(limits: Partial<PublisherLimits> = {}) {
  const pubsub = new MemoryPubSub({ limits });
  const { inbox, calls } = inboxOn(pubsub);
  await inbox.listenAs(NODE);
  const replies: ReplyFrame[] = [];
  for (const instance of ['a', 'b']) {
    await pubsub.subscribe(
      keyspace.reply(instance as InstanceId),
      (bytes) => {
        const frame = decodeReplyFrame(bytes);
        if (frame !== undefined) replies.push(frame);
      },
      () => undefined,
    );
  }
  releases.push(
    () => inbox.stop(),
    () => pubsub.stop(),
  );
  const send = async (id: number, from = 'a', over: Partial<CommandFrame> = {}): Promise<void> => {
    await pubsub.publish(keyspace.inbox(NODE), commandFrame(id, from, over));
  };
  return { send, calls, replies };
}

test('a frame that arrives twice is taken once (I7)', async () => {
  const { send, calls } = await rig();
  await send(1);
  await send(1);
  await send(2);
  await send(1);
  expect(calls).toHaveLength(2);
});

test('equal ids of two asking processes are two commands', async () => {
  const { send, calls } = await rig();
  await send(1, 'a');
  await send(1, 'b');
  await send(1, 'a');
  await send(1, 'b');
  expect(calls).toHaveLength(2);
});

test('ids that share a place of the memory are not taken for each other', async () => {
  const { send, calls } = await rig();
  await send(1);
  await send(1 + REMEMBERED_COMMAND_IDS);
  await send(1 + REMEMBERED_COMMAND_IDS);
  expect(calls).toHaveLength(2);
});

test('a command that ended unwritten may come again under its id, one that was written may not (C6, I7)', async () => {
  const { send, calls, replies } = await rig();
  await send(1);
  calls[0]?.settle({ outcome: 'device_busy', written: false });
  await send(1);
  expect(calls).toHaveLength(2);
  calls[1]?.settle({ outcome: 'timeout', written: true });
  await send(1);
  expect(calls).toHaveLength(2);
  await expect.poll(() => replies.map(({ outcome }) => outcome)).toEqual(['device_busy', 'timeout']);
});

test('a foreign epoch, a passed deadline and an unknown device are refused, not written', async () => {
  const { send, calls, replies } = await rig();
  await send(1, 'a', { epoch: 6 as Epoch });
  await send(2, 'a', { deadlineMs: NOW_MS - 1 });
  await send(3, 'a', { code: 'CAM-2' as DeviceCode });
  await expect
    .poll(() => replies.map(({ id, outcome, written }) => [id, outcome, written]))
    .toEqual([
      [1, 'stale_owner', false],
      [2, 'timeout_not_sent', false],
      [3, 'stale_owner', false],
    ]);
  expect(calls).toHaveLength(0);
});

test("the device's answer comes back byte by byte, without our Cseq (E11)", async () => {
  const { send, calls, replies } = await rig();
  await send(9);
  const text = Buffer.from('{"ResponseCode":0,"Cseq":12,"Data":{"n":1.0e5}}');
  const cutStart = text.indexOf('"Cseq"');
  calls[0]?.settle({
    outcome: 'answered',
    response: {
      type: 'response',
      url: '',
      cseq: 12,
      responseCode: 0,
      statusCode: undefined,
      success: true,
      text,
      cutStart,
      cutEnd: cutStart + '"Cseq":12,'.length,
      data: undefined,
    },
  });
  // The transport takes the message's memory back as soon as it was handled.
  text.fill(0);
  await expect.poll(() => replies.length).toBe(1);
  expect(replies[0]).toMatchObject({ id: 9, outcome: 'answered', written: true, success: true, responseCode: 0 });
  expect(Buffer.from(replies[0]?.body ?? []).toString()).toBe('{"ResponseCode":0,"Data":{"n":1.0e5}}');
});

/** A bus whose last frame comes in while its subscription closes, and that takes nothing from then on. */
class ClosingBus extends MemoryPubSub {
  readonly given: ReplyFrame[] = [];

  override async subscribe(_channel: string, onFrame: (frame: Buffer) => void) {
    return {
      close: async () => onFrame(commandFrame(1, 'a', { epoch: 6 as Epoch })),
    };
  }

  override trustworthy(): boolean {
    return true;
  }

  override async publish(_channel: string, frame: Uint8Array) {
    const reply = decodeReplyFrame(Buffer.from(frame));
    if (reply !== undefined) this.given.push(reply);
    return { status: 'not_sent' } as const;
  }
}

test('a command that comes in while the inbox stops is refused, and nothing is left to be repeated', async () => {
  vi.useFakeTimers();
  try {
    const bus = new ClosingBus();
    const { inbox } = inboxOn(bus);
    await inbox.listenAs(NODE);
    await inbox.stop();
    expect(bus.given).toMatchObject([{ id: 1, outcome: 'stale_owner', written: false }]);
    await vi.advanceTimersByTimeAsync(60_000);
    expect(bus.given).toHaveLength(1);
  } finally {
    vi.useRealTimers();
  }
});

test('the caller of an answer that found no room among other large ones is told so at once, and small answers go on (I4.5)', async () => {
  const { send, calls, replies } = await rig({
    maxWaitingBytes: 300_000,
    keptForSmallBytes: 100_000,
    parcelBytes: 1_000,
  });
  const answer = (text: string) => {
    const read = readEnvelope(Buffer.from(`{"ResponseURL":"/X","ResponseCode":0,"Cseq":1,"Data":{"Text":"${text}"}}`));
    if (read.type !== 'response') throw new Error(read.type);
    return { outcome: 'answered', response: read } as const;
  };
  for (let id = 1; id <= 3; id++) await send(id);
  calls[0]?.settle(answer('x'.repeat(150_000)));
  calls[1]?.settle(answer('x'.repeat(150_000)));
  calls[2]?.settle(answer('small'));
  await vi.waitFor(() => expect(replies).toHaveLength(3));
  const told = replies.map(({ id, outcome, written }) => [id, outcome, written]);
  expect(told.sort((a, b) => Number(a[0]) - Number(b[0]))).toEqual([
    [1, 'answered', true],
    [2, 'outcome_unknown', true],
    [3, 'answered', true],
  ]);
});
