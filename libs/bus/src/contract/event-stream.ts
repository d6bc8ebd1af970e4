/** What every EventStream promises, whatever keeps it. */

import { waitFor } from '@lapi-broker/fixture';
import type { DeviceCode, Epoch, EventRecord } from '@lapi-broker/protocol';
import { createKeyspace, type Keyspace } from '@lapi-broker/redis';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  compareEntryIds,
  type EventStream,
  entryNumber,
  type StreamEntry,
  type Tail,
  ZERO_ID,
} from '../event-stream.ts';
import { DEFAULT_RETENTION, ENTRY_BYTES, type Retention } from '../retention.ts';

export interface EventStreamUnderTest {
  /** An empty stream over the keys of `keyspace`. */
  open(keyspace: Keyspace, retention: Retention): EventStream & { stop(): Promise<void> };
  close(): Promise<void>;
}

const ARRIVAL = { deadlineMs: 10_000, what: 'all entries' };

export function eventOf(code: string, seq: number, data = '{}'): EventRecord {
  return {
    code: code as DeviceCode,
    kind: 'alarm.MotionAlarmOn',
    url: '/LAPI/V1.0/System/Event/Notification/Alarm',
    at: 1_700_000_000_000 + seq,
    receivedAt: 1_700_000_000_500 + seq,
    epoch: 4_503_599_627_370_497 as Epoch,
    session: '',
    seq,
    tags: ['site-a', 'größe'],
    dedupKey: `${code}-${seq}`,
    images: '',
    data: Buffer.from(data),
  };
}

/** Devices of four different shards. */
export function devicesOf(keyspace: Keyspace): readonly [string, string, string, string] {
  const byShard = new Map<number, string>();
  for (let i = 0; byShard.size < 4; i++) byShard.set(keyspace.shardOf(`cam-${i}` as DeviceCode), `cam-${i}`);
  return [...byShard.values()] as [string, string, string, string];
}

export function eventStreamContract(name: string, openSubject: () => Promise<EventStreamUnderTest>): void {
  describe(`EventStream: ${name}`, () => {
    let subject: EventStreamUnderTest;
    let keyspaces = 0;
    const cleanups: (() => Promise<void>)[] = [];
    const open = (
      retention = DEFAULT_RETENTION,
    ): { stream: EventStream; keyspace: Keyspace; devices: readonly string[] } => {
      const keyspace = createKeyspace(`stream-${++keyspaces}`);
      const stream = subject.open(keyspace, retention);
      cleanups.push(() => stream.stop());
      return { stream, keyspace, devices: devicesOf(keyspace) };
    };
    const closeLater = (tail: Tail): Tail => {
      cleanups.push(() => tail.close());
      return tail;
    };
    beforeAll(async () => {
      subject = await openSubject();
    });
    afterAll(async () => {
      for (const cleanup of cleanups.reverse()) await cleanup();
      await subject.close();
    });

    test('an event comes back field by field as it was appended', async () => {
      const { stream, keyspace } = open();
      const event = eventOf('cam-1', 7, '{"big":9007199254740993,"text":"ä€𝄞","nul":"\\u0000"}');
      const id = await stream.append(event);
      const [entry] = await stream.read(keyspace.shardOf(event.code), ZERO_ID, 10);
      expect(entry).toEqual({ shard: keyspace.shardOf(event.code), id, event });
    });

    test('events of one shard are stored in the order of the calls, with growing ids that number them from 1 without a hole', async () => {
      const { stream, keyspace, devices } = open();
      const ids = new Map<string, string[]>(devices.map((code) => [code, []]));
      const appended: Promise<unknown>[] = [];
      for (let seq = 0; seq < 500; seq++) {
        for (const code of devices) {
          appended.push(stream.append(eventOf(code, seq)).then((id) => ids.get(code)?.push(id)));
        }
        if (seq % 37 === 0) await new Promise(setImmediate);
      }
      await Promise.all(appended);
      for (const code of devices) {
        const entries = await stream.read(keyspace.shardOf(code as DeviceCode), ZERO_ID, 1000);
        expect(entries.map(({ event }) => event.seq)).toEqual(Array.from({ length: 500 }, (_, i) => i));
        expect(entries.map(({ id }) => id)).toEqual(ids.get(code));
        expect(entries.map(({ id }) => entryNumber(id))).toEqual(Array.from({ length: 500 }, (_, i) => i + 1));
        for (let i = 1; i < entries.length; i++) {
          expect(compareEntryIds(entries[i - 1]?.id ?? '', entries[i]?.id ?? '')).toBeLessThan(0);
        }
      }
    });

    test('read starts after the position and stops at count', async () => {
      const { stream, keyspace } = open();
      const ids: string[] = [];
      for (let seq = 0; seq < 6; seq++) ids.push(await stream.append(eventOf('cam-1', seq)));
      const shard = keyspace.shardOf('cam-1' as DeviceCode);
      const entries = await stream.read(shard, ids[1] ?? '', 3);
      expect(entries.map(({ id }) => id)).toEqual(ids.slice(2, 5));
      expect(await stream.read(shard, ids[5] ?? '', 3)).toEqual([]);
    });

    test('bounds of a shard that never had an entry are those of an empty stream', async () => {
      const { stream } = open();
      expect(await stream.bounds(3)).toEqual({ last: ZERO_ID, first: undefined, added: 0, length: 0 });
    });

    test('what does not fit into the bytes of a shard goes, oldest first, and bounds tell how much that was', async () => {
      const body = 'x'.repeat(700);
      const fitting = 200;
      const maxBytes = fitting * (ENTRY_BYTES + body.length);
      const { stream, keyspace } = open({ ...DEFAULT_RETENTION, maxBytes });
      const shard = keyspace.shardOf('cam-1' as DeviceCode);
      const ids = await Promise.all(
        Array.from({ length: 1_000 }, (_, seq) => stream.append(eventOf('cam-1', seq, body))),
      );
      for (let seq = 1_000; seq < 1_100; seq++) {
        ids.push(await stream.append(eventOf('cam-1', seq, body)));
        // A mark is made for every 64th part of the limit.
        expect((await stream.bounds(shard)).length).toBeLessThanOrEqual(fitting + fitting / 64 + 1);
      }
      const bounds = await stream.bounds(shard);
      expect(bounds).toMatchObject({ last: ids.at(-1), added: 1_100, first: ids[1_100 - bounds.length] });
      expect(bounds.length).toBeGreaterThanOrEqual(fitting - fitting / 64 - 1);
      const { entries, bytes } = await stream.trim(shard);
      expect(bytes).toBeLessThanOrEqual(maxBytes);
      expect(Math.abs(bytes - entries * (ENTRY_BYTES + body.length))).toBeLessThanOrEqual(maxBytes / 64);
    });

    test('an event larger than all bytes of a shard is kept until the next one', async () => {
      const { stream, keyspace } = open({ ...DEFAULT_RETENTION, maxBytes: 1_000 });
      const shard = keyspace.shardOf('cam-1' as DeviceCode);
      await stream.append(eventOf('cam-1', 1));
      const large = await stream.append(eventOf('cam-1', 2, 'x'.repeat(5_000)));
      expect(await stream.bounds(shard)).toMatchObject({ first: large, length: 1 });
      const next = await stream.append(eventOf('cam-1', 3));
      expect(await stream.bounds(shard)).toMatchObject({ first: next, added: 3, length: 1 });
    });

    test('what is too old goes when the shard is trimmed, and the next number follows the last one', async () => {
      const { stream, keyspace } = open({ ...DEFAULT_RETENTION, maxAgeMs: 200 });
      const shard = keyspace.shardOf('cam-1' as DeviceCode);
      for (let seq = 0; seq < 150; seq++) void stream.append(eventOf('cam-1', seq));
      const last = await stream.append(eventOf('cam-1', 150));
      await waitFor(async () => (await stream.trim(shard)).entries === 0, {
        deadlineMs: 10_000,
        what: 'old entries to go',
      });
      expect(await stream.bounds(shard)).toEqual({ last, first: undefined, added: 151, length: 0 });
      expect(await stream.trim(shard)).toEqual({ trimmed: 0, entries: 0, bytes: 0 });
      const next = await stream.append(eventOf('cam-1', 151));
      expect(entryNumber(next)).toBe(152);
    });

    test('trimming a shard that never had an entry does nothing', async () => {
      const { stream } = open();
      expect(await stream.trim(3)).toEqual({ trimmed: 0, entries: 0, bytes: 0 });
      expect(await stream.bounds(3)).toEqual({ last: ZERO_ID, first: undefined, added: 0, length: 0 });
    });

    test('a tail without positions hears what is appended from now on, of all shards, once and in order', async () => {
      const { stream, devices } = open();
      await Promise.all(devices.map((code) => stream.append(eventOf(code, 0))));
      const heard: StreamEntry[] = [];
      closeLater(await stream.tail(new Map(), (_, entries) => heard.push(...entries)));
      for (let seq = 1; seq <= 200; seq++) {
        for (const code of devices) void stream.append(eventOf(code, seq));
        if (seq % 50 === 0) await new Promise(setImmediate);
      }
      await waitFor(() => heard.length >= 200 * devices.length, ARRIVAL);
      for (const code of devices) {
        const seqs = heard.filter(({ event }) => event.code === code).map(({ event }) => event.seq);
        expect(seqs).toEqual(Array.from({ length: 200 }, (_, i) => i + 1));
      }
    });

    test('a tail from a position hears everything after it, also what is older than the tail', async () => {
      const { stream, keyspace } = open();
      const shard = keyspace.shardOf('cam-1' as DeviceCode);
      const ids: string[] = [];
      for (let seq = 0; seq < 2000; seq++) ids.push(await appendQuick(stream, seq));
      const heard: number[] = [];
      const from = new Map([[shard, ids[99] ?? '']]);
      closeLater(await stream.tail(from, (_, entries) => heard.push(...entries.map(({ event }) => event.seq))));
      await stream.append(eventOf('cam-1', 2000));
      await waitFor(() => heard.length >= 1901, ARRIVAL);
      expect(heard).toEqual(Array.from({ length: 1901 }, (_, i) => i + 100));
    });

    test('a closed tail hears nothing more; others go on', async () => {
      const { stream } = open();
      const [closed, other]: [number[], number[]] = [[], []];
      const tail = await stream.tail(new Map(), (_, entries) => closed.push(...entries.map(({ event }) => event.seq)));
      closeLater(await stream.tail(new Map(), (_, entries) => other.push(...entries.map(({ event }) => event.seq))));
      await stream.append(eventOf('cam-1', 1));
      await waitFor(() => closed.length === 1, ARRIVAL);
      await tail.close();
      await tail.close();
      await stream.append(eventOf('cam-1', 2));
      await waitFor(() => other.length === 2, ARRIVAL);
      expect(closed).toEqual([1]);
    });
  });
}

function appendQuick(stream: EventStream, seq: number): Promise<string> {
  return stream.append(eventOf('cam-1', seq));
}
