import { setImmediate as turn } from 'node:timers/promises';
import { waitFor } from '@lapi-broker/fixture';
import type { ImageId, ImageStore } from '@lapi-broker/image';
import { BrokerError, type DeviceCode, type Epoch, type EventRecord } from '@lapi-broker/protocol';
import { beforeEach, describe, expect, test } from 'vitest';
import { type Picture, Pictures, type PicturesOptions } from './pictures.ts';

const NOW_MS = Date.UTC(2026, 2, 1, 12, 30);
const HOUR = '2026030112';

interface Put {
  readonly id: ImageId;
  readonly bytes: Uint8Array;
  readonly contentType: string;
  readonly signal: AbortSignal;
  readonly done: () => void;
  readonly fail: (error: unknown) => void;
}

let puts: Put[];
let stored: EventRecord[];
let counted: Record<string, number>;
let logged: string[];
let pictures: Pictures;

/** Each put waits for the test. */
const store: ImageStore = {
  place: 'test',
  parallelPuts: 2,
  put: (id, bytes, contentType, signal) =>
    new Promise((resolve, reject) => {
      puts.push({ id, bytes, contentType, signal, done: resolve, fail: reject });
    }),
  open: () => Promise.resolve('absent'),
  sweep: () => Promise.resolve(0),
};

function create(options: Partial<PicturesOptions> = {}): Pictures {
  return new Pictures({
    store,
    stream: {
      append: (event) => {
        stored.push(event);
        return Promise.resolve(undefined as never);
      },
    },
    thresholdBytes: 1_024,
    monotonicMs: () => 0,
    metrics: {
      pictures: { inc: ({ result }: { result: string }) => (counted[result] = (counted[result] ?? 0) + 1) },
      pictureBytes: { inc: (bytes: number) => (counted.bytes = (counted.bytes ?? 0) + bytes) },
      pictureSeconds: { observe: () => (counted.observed = (counted.observed ?? 0) + 1) },
    } as PicturesOptions['metrics'],
    changed: (works) => logged.push(works ? 'images.stored_again' : 'images.dropped'),
    // Longer than any test: late is what a test says.
    deadlineMs: 60_000,
    ...options,
  });
}

beforeEach(() => {
  puts = [];
  stored = [];
  counted = {};
  logged = [];
  pictures = create();
});

function jpeg(bytes: number, fill = 1): Buffer {
  return Buffer.concat([Buffer.from('ffd8ffe0', 'hex'), Buffer.alloc(bytes - 4, fill)]);
}

function structure(...images: readonly Buffer[]): Buffer {
  const list = images.map((image, Index) => ({ Index, Data: image.toString('base64') }));
  return Buffer.from(JSON.stringify({ SrcID: 1, StructureInfo: { ImageInfoList: list } }));
}

let seq = 0;
function offer(
  data: Buffer,
  code = 'cam-1',
  way = pictures,
): { event: EventRecord; taken: readonly Picture[]; appended: Promise<unknown> } {
  const taken = way.takeOut('structure', data, NOW_MS);
  const event: EventRecord = {
    code: code as DeviceCode,
    kind: 'structure',
    url: '',
    at: 0,
    receivedAt: 0,
    epoch: 1 as Epoch,
    session: '',
    seq: ++seq,
    tags: [],
    dedupKey: '',
    images: '',
    data: taken.data,
  };
  return { event, taken: taken.pictures, appended: way.append(event, taken.pictures) };
}

const json = (event: EventRecord | undefined) => ({
  images: JSON.parse(event?.images || '[]') as Record<string, unknown>[],
  data: JSON.parse(Buffer.from(event?.data ?? '').toString()) as {
    StructureInfo: { ImageInfoList: { Data: string }[] };
  },
});

test('a stored picture leaves its URL in the data and a reference beside it', async () => {
  const { appended } = offer(structure(jpeg(2_000), Buffer.alloc(3_000, 7)));
  expect(puts.map(({ contentType, bytes }) => [contentType, bytes.length])).toEqual([
    ['image/jpeg', 2_000],
    ['application/octet-stream', 3_000],
  ]);
  expect(stored).toEqual([]);
  for (const { done } of puts) done();
  await appended;
  const { images, data } = json(stored[0]);
  const id = puts[0]?.id ?? '';
  expect(id).toMatch(new RegExp(`^${HOUR}-[0-9a-f]{64}$`));
  expect(images[0]).toEqual({
    path: '/StructureInfo/ImageInfoList/0/Data',
    contentType: 'image/jpeg',
    bytes: 2_000,
    sha256: id.slice(11),
    url: `/v1/images/${id}`,
  });
  expect(data.StructureInfo.ImageInfoList.map(({ Data }) => Data)).toEqual(images.map(({ url }) => url));
  expect(counted).toEqual({ stored: 2, bytes: 5_000, observed: 2 });
});

test('a picture that the store refuses is dropped alone: its event says so, and stays whole otherwise', async () => {
  const { appended } = offer(structure(jpeg(2_000), jpeg(2_001), jpeg(2_002)));
  puts[0]?.done();
  puts[1]?.fail(new BrokerError('broker_unavailable', 'away'));
  await turn();
  puts[2]?.done();
  await appended;
  const { images, data } = json(stored[0]);
  expect(images.map(({ bytes, imageDropped, url }) => [bytes, imageDropped, typeof url])).toEqual([
    [2_000, undefined, 'string'],
    [2_001, true, 'undefined'],
    [2_002, undefined, 'string'],
  ]);
  expect(data.StructureInfo.ImageInfoList.map(({ Data }) => Data)).toEqual([images[0]?.url, '', images[2]?.url]);
  expect(counted).toMatchObject({ stored: 2, failed: 1 });
  expect(logged).toEqual(['images.dropped', 'images.stored_again']);
});

test('what the store has not taken in time is dropped, and the store is told to give up', async () => {
  pictures = create({ deadlineMs: 30 });
  await offer(structure(jpeg(2_000), jpeg(2_001), jpeg(2_002))).appended;
  expect(json(stored[0]).images.every(({ imageDropped }) => imageDropped === true)).toBe(true);
  expect(puts.map(({ signal }) => signal.aborted)).toEqual([true, true]);
  expect(counted).toMatchObject({ late: 3 });
});

describe('order (V5)', () => {
  test('events of one device wait for the one whose pictures are on their way, others do not', async () => {
    const first = offer(structure(jpeg(2_000)));
    const second = offer(structure());
    const third = offer(structure(jpeg(2_001)));
    const other = offer(structure(), 'cam-2');
    await other.appended;
    puts[1]?.done();
    await turn();
    expect(stored.map((event) => event.seq)).toEqual([other.event.seq]);
    puts[0]?.done();
    await Promise.all([first.appended, second.appended, third.appended]);
    expect(stored.map((event) => event.seq)).toEqual([other, first, second, third].map(({ event }) => event.seq));
  });

  test('an event that comes right when the one before it leaves does not overtake it', async () => {
    const appended: Promise<unknown>[] = [];
    for (let round = 0; round < 50; round++) {
      appended.push(offer(structure(jpeg(2_000 + round))).appended);
      puts[round]?.done();
      for (let step = 0; step < round % 7; step++) await Promise.resolve();
      appended.push(offer(structure()).appended);
      await Promise.all(appended);
    }
    const seqs = stored.map((event) => event.seq);
    expect(seqs).toEqual([...seqs].sort((a, b) => a - b));
    expect(seqs.length).toBe(100);
  });

  test('an event that the event store refuses does not hold up the next one', async () => {
    let calls = 0;
    pictures = create({
      stream: {
        append: () => (++calls === 1 ? Promise.reject(new Error('away')) : Promise.resolve(undefined as never)),
      },
    });
    const first = offer(structure(jpeg(2_000)));
    const second = offer(structure());
    puts[0]?.done();
    await expect(first.appended).rejects.toThrow('away');
    await second.appended;
    expect(calls).toBe(2);
  });
});

describe('bounds', () => {
  test('only so many puts run at once; the others follow in order', async () => {
    const { appended } = offer(structure(...[0, 1, 2, 3].map((i) => jpeg(2_000 + i))));
    expect(puts.length).toBe(2);
    puts[0]?.done();
    await waitFor(() => puts.length === 3 || undefined, { deadlineMs: 5_000, what: 'the third put' });
    for (let i = 1; i < 4; i++) {
      await waitFor(() => puts[i], { deadlineMs: 5_000, what: `put ${i}` });
      puts[i]?.done();
    }
    await appended;
    expect(puts.map(({ bytes }) => bytes.length)).toEqual([2_000, 2_001, 2_002, 2_003]);
  });

  test('beyond the bytes that may wait pictures are dropped at once, and there is room again later', async () => {
    pictures = create({ maxBytes: 5_000 });
    const full = offer(structure(jpeg(2_000), jpeg(2_500)));
    await offer(structure(jpeg(2_000)), 'cam-2').appended;
    expect(json(stored[0]).images[0]).toMatchObject({ bytes: 2_000, imageDropped: true });
    expect(counted).toEqual({ busy: 1 });
    for (const { done } of puts) done();
    await full.appended;
    const again = offer(structure(jpeg(2_000)), 'cam-2');
    puts[2]?.done();
    await again.appended;
    expect(counted).toMatchObject({ busy: 1, stored: 3 });
  });

  test('a put that the store does not let go of keeps its place and its bytes', async () => {
    pictures = create({ maxBytes: 5_000, deadlineMs: 20 });
    await offer(structure(jpeg(2_000), jpeg(2_500))).appended;
    await offer(structure(jpeg(2_000))).appended;
    expect(counted).toMatchObject({ late: 2, busy: 1 });
    expect(puts.length).toBe(2);
    puts[0]?.fail(new Error('at last'));
    await turn();
    await offer(structure(jpeg(2_000))).appended;
    expect(puts.length).toBe(3);
  });

  test('a put that has not begun lets go of its bytes when it is given up', async () => {
    pictures = create({ maxBytes: 7_000, deadlineMs: 20 });
    await offer(structure(jpeg(2_000), jpeg(2_001), jpeg(2_999))).appended;
    await offer(structure(jpeg(2_999))).appended;
    expect(counted).toMatchObject({ late: 4 });
    expect(counted.busy).toBeUndefined();
  });

  test('stop gives up what waits; its events go on', async () => {
    const { appended } = offer(structure(jpeg(2_000)));
    pictures.stop();
    await appended;
    expect(json(stored[0]).images[0]).toMatchObject({ imageDropped: true });
  });
});

test('data without pictures is a copy, byte by byte', async () => {
  const data = Buffer.from('{"a":9007199254740993, "b":[1]}');
  const { event, taken } = offer(data);
  data.fill(0);
  expect(taken).toEqual([]);
  expect(Buffer.from(event.data).toString()).toBe('{"a":9007199254740993, "b":[1]}');
});
