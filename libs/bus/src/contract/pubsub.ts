/** What every PubSub promises, whatever carries it. */

import { waitFor } from '@lapi-broker/fixture';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import type { PublisherLimits } from '../publisher.ts';
import type { PubSub, PubSubCounts } from '../pubsub.ts';

export type StoppablePubSub = PubSub & { readonly counts: PubSubCounts; stop(): Promise<void> };

export interface PubSubUnderTest {
  /** A PubSub on the same channels as all others from here. */
  open(limits?: Partial<PublisherLimits>): StoppablePubSub;
  close(): Promise<void>;
}

const ignore = (): void => undefined;
const ARRIVAL = { deadlineMs: 5000, what: 'all frames' };

export function pubSubContract(name: string, openSubject: () => Promise<PubSubUnderTest>): void {
  describe(`PubSub: ${name}`, () => {
    let subject: PubSubUnderTest;
    let channels = 0;
    const newChannel = (): string => `contract:${++channels}`;
    const opened: StoppablePubSub[] = [];
    const open = (limits?: Partial<PublisherLimits>): StoppablePubSub => {
      const pubsub = subject.open(limits);
      opened.push(pubsub);
      return pubsub;
    };
    beforeAll(async () => {
      subject = await openSubject();
    });
    afterAll(async () => {
      await Promise.all(opened.map((pubsub) => pubsub.stop()));
      await subject.close();
    });

    test('a frame arrives byte by byte as it was, counted once', async () => {
      const pubsub = open();
      const channel = newChannel();
      const frames: Buffer[] = [];
      await pubsub.subscribe(channel, (frame) => frames.push(frame), ignore);
      const sent = Buffer.from(Array.from({ length: 256 }, (_, i) => i));
      expect(await pubsub.publish(channel, sent)).toEqual({ status: 'published', receivers: 1 });
      await waitFor(() => frames.length === 1, ARRIVAL);
      expect(frames[0]).toEqual(sent);
    });

    test('a publication to nobody answers 0 receivers: nothing was sent', async () => {
      const pubsub = open();
      expect(await pubsub.publish(newChannel(), Buffer.from('x'))).toEqual({ status: 'published', receivers: 0 });
    });

    test('10,000 frames arrive once each, in order, over many batches', async () => {
      const pubsub = open();
      const channel = newChannel();
      const numbers: number[] = [];
      await pubsub.subscribe(channel, (frame) => numbers.push(frame.readUInt32BE(0)), ignore);
      const results = new Set<Promise<unknown>>();
      for (let i = 0; i < 10_000; i++) {
        const frame = Buffer.alloc(4 + (i % 700));
        frame.writeUInt32BE(i, 0);
        results.add(pubsub.publish(channel, frame));
        if (i % 97 === 0) await new Promise(setImmediate);
      }
      for (const result of await Promise.all(results)) expect(result).toEqual({ status: 'published', receivers: 1 });
      await waitFor(() => numbers.length === 10_000, ARRIVAL);
      expect(numbers).toEqual(Array.from({ length: 10_000 }, (_, i) => i));
    });

    test('frames of one tick leave as one publication per channel', async () => {
      const pubsub = open();
      const [a, b] = [newChannel(), newChannel()];
      const results = Array.from({ length: 100 }, (_, i) => pubsub.publish(i % 2 === 0 ? a : b, Buffer.alloc(10)));
      await Promise.all(results);
      expect(pubsub.counts).toMatchObject({ publishedBatches: 2, publishedFrames: 100, waitingBytes: 0 });
      expect(new Set(results).size).toBe(2);
    });

    test('frames larger than a batch and empty frames keep their place', async () => {
      const pubsub = open({ maxBatchBytes: 1000 });
      const channel = newChannel();
      const sizes: number[] = [];
      await pubsub.subscribe(channel, (frame) => sizes.push(frame.length), ignore);
      const wanted = [0, 400, 400, 400, 256 * 2 ** 10, 0, 1, 999, 3];
      for (const size of wanted) void pubsub.publish(channel, Buffer.alloc(size, 7));
      await waitFor(() => sizes.length === wanted.length, ARRIVAL);
      expect(sizes).toEqual(wanted);
    });

    test('frames of all sizes arrive with their own bytes, while many batches are under way', async () => {
      const pubsub = open({ maxBatchBytes: 100_000 });
      const channels = [newChannel(), newChannel()];
      const sizes = [3, 500, 16_383, 16_384, 99_000, 1_000_000];
      let whole = 0;
      for (const channel of channels) {
        await pubsub.subscribe(
          channel,
          (frame) => {
            if (frame.length === sizes[(frame[0] ?? 0) % sizes.length] && frame.equals(frameOf(frame[0] ?? 0))) whole++;
          },
          ignore,
        );
      }
      const frameOf = (seed: number): Buffer => Buffer.alloc(sizes[seed % sizes.length] ?? 0, seed);
      const count = 180;
      for (let seed = 0; seed < count; seed++) {
        void pubsub.publish(channels[seed & 1] ?? '', frameOf(seed));
        // More in one turn than a socket takes.
        if (seed % 60 === 59) await new Promise(setImmediate);
      }
      await waitFor(() => whole === count, ARRIVAL);
      expect(pubsub.counts.waitingBytes).toBe(0);
    });

    test('a reader is not cut, and loses nothing, when more large frames come at once than Redis keeps for a subscriber', async () => {
      const [publisher, subscriber] = [open(), open()];
      const channel = newChannel();
      const heard: number[] = [];
      const gaps: unknown[] = [];
      await subscriber.subscribe(
        channel,
        (frame) => heard.push(frame[0] === frame.at(-1) ? (frame[0] ?? 0) : -1),
        () => gaps.push('gap'),
      );
      const large = Array.from({ length: 8 }, (_, i) => publisher.publish(channel, Buffer.alloc(16 * 2 ** 20, i + 1)));
      const small = publisher.publish(channel, Buffer.from([100]));
      for (const result of await Promise.all([...large, small])) {
        expect(result).toEqual({ status: 'published', receivers: 1 });
      }
      await waitFor(() => heard.length === 9, ARRIVAL);
      expect(heard.sort((a, b) => a - b)).toEqual([1, 2, 3, 4, 5, 6, 7, 8, 100]);
      expect(gaps).toEqual([]);
      expect(publisher.counts.waitingBytes).toBe(0);
    });

    test('a large frame for nobody answers 0 receivers', async () => {
      expect(await open().publish(newChannel(), Buffer.alloc(2 ** 20))).toEqual({ status: 'published', receivers: 0 });
    });

    test('a large frame that was counted as received is heard before its subscription has closed', async () => {
      const [publisher, subscriber] = [open(), open()];
      const channel = newChannel();
      let heard = 0;
      const subscription = await subscriber.subscribe(channel, () => heard++, ignore);
      const published = publisher.publish(channel, Buffer.alloc(4 * 2 ** 20));
      expect(await published).toEqual({ status: 'published', receivers: 1 });
      await subscription.close();
      expect(heard).toBe(1);
    });

    test('every subscriber of a channel gets every frame, and each is counted', async () => {
      const [a, b] = [open(), open()];
      const channel = newChannel();
      const got: string[] = [];
      await a.subscribe(channel, () => got.push('a'), ignore);
      await b.subscribe(channel, () => got.push('b'), ignore);
      expect(await a.publish(channel, Buffer.from('x'))).toEqual({ status: 'published', receivers: 2 });
      await waitFor(() => got.length === 2, ARRIVAL);
      expect(got).toHaveLength(2);
      expect(new Set(got)).toEqual(new Set(['a', 'b']));
    });

    test('a closed subscription hears nothing more and is not counted', async () => {
      const pubsub = open();
      const channel = newChannel();
      let frames = 0;
      const subscription = await pubsub.subscribe(channel, () => frames++, ignore);
      await subscription.close();
      await subscription.close();
      expect(await pubsub.publish(channel, Buffer.from('x'))).toEqual({ status: 'published', receivers: 0 });
      expect(frames).toBe(0);
    });

    test('what was counted as received before a subscription closed has been heard, however many frames meet its end', async () => {
      const [publisher, subscriber] = [open(), open()];
      for (let round = 0; round < 20; round++) {
        const channel = newChannel();
        const heard = new Set<number>();
        const subscription = await subscriber.subscribe(channel, (frame) => heard.add(frame.readUInt32BE(0)), ignore);
        const received: number[] = [];
        let sent = 0;
        let closed: boolean = false;
        const send = async (): Promise<void> => {
          const number = sent++;
          const frame = Buffer.alloc(4);
          frame.writeUInt32BE(number, 0);
          const result = await publisher.publish(channel, frame);
          if (result.status === 'published' && result.receivers > 0) received.push(number);
        };
        const sending: Promise<void>[] = [];
        while (!closed) {
          sending.push(send());
          await new Promise(setImmediate);
          if (sent === 20) void subscription.close().then(() => (closed = true));
        }
        await Promise.all(sending);
        expect(received.length).toBeGreaterThan(0);
        expect([...heard]).toEqual(received);
      }
    });

    test('a stop resolves when what was given before has left and its fate is known', async () => {
      const [publisher, subscriber] = [open(), open()];
      const channel = newChannel();
      let frames = 0;
      await subscriber.subscribe(channel, () => frames++, ignore);
      const results = [
        publisher.publish(channel, Buffer.alloc(100)),
        publisher.publish(channel, Buffer.alloc(2_000_000)),
      ];
      await publisher.stop();
      expect(publisher.counts).toMatchObject({ publishedFrames: 2, waitingBytes: 0 });
      for (const result of results) expect(await result).toEqual({ status: 'published', receivers: 1 });
      await waitFor(() => frames === 2, ARRIVAL);
    });

    test('beyond the bound on waiting bytes a frame is not sent, and none before it is lost', async () => {
      const pubsub = open({ maxWaitingBytes: 5 * (4 + 100) });
      const channel = newChannel();
      let frames = 0;
      await pubsub.subscribe(channel, () => frames++, ignore);
      const results = await Promise.all(Array.from({ length: 6 }, () => pubsub.publish(channel, Buffer.alloc(100))));
      expect(results.map(({ status }) => status)).toEqual([
        ...Array.from({ length: 5 }, () => 'published'),
        'not_sent',
      ]);
      await waitFor(() => frames === 5, ARRIVAL);
      expect(await pubsub.publish(channel, Buffer.alloc(100))).toMatchObject({ status: 'published' });
    });

    test('large frames leave room to small ones, however many come', async () => {
      const pubsub = open({ maxWaitingBytes: 2_000_000, parcelBytes: 1_000, keptForSmallBytes: 500_000 });
      const channel = newChannel();
      let frames = 0;
      await pubsub.subscribe(channel, () => frames++, ignore);
      const large = Array.from({ length: 4 }, () => pubsub.publish(channel, Buffer.alloc(500_000 - 4)));
      const small = pubsub.publish(channel, Buffer.alloc(1_000));
      expect((await Promise.all(large)).map(({ status }) => status)).toEqual([
        'published',
        'published',
        'published',
        'not_sent',
      ]);
      expect(await small).toEqual({ status: 'published', receivers: 1 });
      await waitFor(() => frames === 4, ARRIVAL);
    });

    test('a listener that throws costs its own frame only', async () => {
      const pubsub = open();
      const channel = newChannel();
      const heard: string[] = [];
      const listener = (frame: Buffer): void => {
        heard.push(frame.toString());
        if (frame.toString() === 'bad') throw new Error('listener');
      };
      await pubsub.subscribe(channel, listener, ignore);
      for (const text of ['one', 'bad', 'two']) void pubsub.publish(channel, Buffer.from(text));
      await waitFor(() => heard.length === 3, ARRIVAL);
      expect(heard).toEqual(['one', 'bad', 'two']);
      expect(pubsub.counts.failedFrames).toBe(1);
    });

    test('it is trustworthy from the confirmed subscription on, not before and not after stop', async () => {
      const pubsub = open();
      expect(pubsub.trustworthy()).toBe(false);
      await pubsub.subscribe(newChannel(), ignore, ignore);
      expect(pubsub.trustworthy()).toBe(true);
      await pubsub.stop();
      expect(pubsub.trustworthy()).toBe(false);
      expect(await pubsub.publish(newChannel(), Buffer.from('x'))).toEqual({ status: 'not_sent' });
    });
  });
}
