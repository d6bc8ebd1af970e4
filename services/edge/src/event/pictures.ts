/** Pictures leave an event before it goes to the event store: their base64 is cut out of the data, their bytes go to the image store, and a
 *  reference stays (protocol 11.4). The base64 is gone when it is decoded, and of the message only what is left is kept.
 *  - Order: events of one device go to the event store in the order in which they came, also while one waits for its pictures (V5).
 *  - An event never fails for its pictures: what the image store has not taken within 2 s, refuses, or has no room for here, is dropped and
 *    the reference says so. A picture whose put is given up may be stored all the same; nothing refers to it then.
 *  - Bounds: bytes of pictures of the node, puts at once. The outbox counts them too, until their event is stored.
 *  Which members are pictures is decided by the protocol package; how long they are kept, by the command services. */

import type { EventStream } from '@lapi-broker/bus';
import { contentTypeOf, type ImageId, type ImageStore, imageIdOf, sha256Of } from '@lapi-broker/image';
import { type DeviceCode, decodePicture, type EventRecord, findPictures, replaceParts } from '@lapi-broker/protocol';
import { MAX_PICTURE_BYTES_PER_NODE, PICTURE_DEADLINE_MS } from '../limits.ts';
import type { EdgeMetrics } from '../metrics.ts';

/** A picture that was taken out of an event. */
export interface Picture {
  readonly id: ImageId;
  readonly contentType: string;
  readonly bytes: Buffer;
  /** JSON Pointer into the event's data. */
  readonly path: string;
  /** Where its URL stands in the data now, quotes included. */
  readonly start: number;
  readonly end: number;
}

/** `late`: not within its time; `failed`: the image store refused it or is away; `busy`: too many bytes wait here. */
type PutResult = 'stored' | 'late' | 'failed' | 'busy';

interface Put {
  readonly picture: Picture;
  readonly signal: AbortSignal;
  readonly done: (end: PutEnd) => void;
}

interface PutEnd {
  readonly result: PutResult;
  readonly error?: unknown;
}

export interface PicturesOptions {
  readonly store: ImageStore;
  readonly stream: Pick<EventStream, 'append'>;
  /** Shorter base64 text stays in its event. */
  readonly thresholdBytes: number;
  readonly monotonicMs: () => number;
  readonly metrics: Pick<EdgeMetrics, 'pictures' | 'pictureBytes' | 'pictureSeconds'>;
  /** The image store has begun, or ceased, to take pictures. */
  readonly changed: (works: boolean, facts: Readonly<Record<string, unknown>>) => void;
  readonly deadlineMs?: number;
  readonly maxBytes?: number;
}

const NONE: readonly Picture[] = [];

export class Pictures {
  readonly name = 'pictures';
  private readonly options: PicturesOptions;
  /** Of devices with an event that waits: settles when their last one has been given to the event store. */
  private readonly turns = new Map<DeviceCode, Promise<void>>();
  private readonly deadlines = new Set<AbortController>();
  /** In order of arrival. */
  private readonly waiting = new Set<Put>();
  private putting = 0;
  private heldBytes = 0;
  private works = true;

  constructor(options: PicturesOptions) {
    this.options = options;
  }

  /** `data` is checked JSON and may be a view that dies; the answer's data is a copy, with URLs in place of pictures. */
  takeOut(kind: string, data: Buffer, nowMs: number): { readonly data: Buffer; readonly pictures: readonly Picture[] } {
    const spans = findPictures(kind, data, this.options.thresholdBytes);
    if (spans.length === 0) return { data: Buffer.from(data), pictures: NONE };
    let shift = 0;
    const pictures = spans.map((span): Picture => {
      const bytes = decodePicture(data, span);
      const id = imageIdOf(bytes, nowMs);
      const start = span.start + shift;
      const end = start + urlText(id).length;
      shift += end - start - (span.end - span.start);
      return { id, contentType: contentTypeOf(bytes), bytes, path: span.path, start, end };
    });
    const urls = spans.map(({ start, end }, i) => ({ start, end, text: urlText((pictures[i] as Picture).id) }));
    return { data: replaceParts(data, urls), pictures };
  }

  /** As `append` of the event store, once the pictures are stored or given up. */
  append(event: EventRecord, pictures: readonly Picture[]): Promise<unknown> {
    const before = this.turns.get(event.code);
    if (before === undefined && pictures.length === 0) return this.options.stream.append(event);
    return this.inTurn(event, before, pictures.length === 0 ? event : this.putAll(event, pictures));
  }

  /** Gives up what is under way. Events go on without their pictures. */
  stop(): void {
    for (const deadline of this.deadlines) deadline.abort();
  }

  private inTurn(
    { code }: EventRecord,
    before: Promise<void> | undefined,
    ready: EventRecord | Promise<EventRecord>,
  ): Promise<unknown> {
    let appended: Promise<unknown> | undefined;
    const turn = (async () => {
      await before;
      const whole = await ready;
      appended = this.options.stream.append(whole);
    })();
    this.turns.set(code, turn);
    return turn
      .finally(() => {
        if (this.turns.get(code) === turn) this.turns.delete(code);
      })
      .then(() => appended);
  }

  private async putAll(event: EventRecord, pictures: readonly Picture[]): Promise<EventRecord> {
    const deadline = new AbortController();
    const timer = setTimeout(() => deadline.abort(), this.options.deadlineMs ?? PICTURE_DEADLINE_MS);
    this.deadlines.add(deadline);
    const results = await Promise.all(pictures.map((picture) => this.put(picture, deadline.signal)));
    clearTimeout(timer);
    this.deadlines.delete(deadline);
    return withReferences(event, pictures, results);
  }

  private async put(picture: Picture, signal: AbortSignal): Promise<PutResult> {
    const { metrics, monotonicMs, maxBytes = MAX_PICTURE_BYTES_PER_NODE } = this.options;
    const bytes = picture.bytes.length;
    if (this.heldBytes + bytes > maxBytes) {
      metrics.pictures.inc({ result: 'busy' });
      return 'busy';
    }
    const beganMs = monotonicMs();
    const { result, error } = await new Promise<PutEnd>((done) => {
      const put: Put = { picture, signal, done };
      this.heldBytes += bytes;
      this.waiting.add(put);
      const giveUp = (): void => {
        // What has begun holds its bytes until the image store lets go of it.
        if (this.waiting.delete(put)) this.heldBytes -= bytes;
        done({ result: 'late' });
      };
      signal.addEventListener('abort', giveUp, { once: true });
      this.next();
    });
    metrics.pictures.inc({ result });
    metrics.pictureSeconds.observe((monotonicMs() - beganMs) / 1_000);
    if (result === 'stored') metrics.pictureBytes.inc(bytes);
    this.tell(result, error);
    return result;
  }

  private next(): void {
    for (const put of this.waiting) {
      if (this.putting >= this.options.store.parallelPuts) return;
      this.waiting.delete(put);
      this.putting++;
      void this.run(put);
    }
  }

  private async run({ picture, signal, done }: Put): Promise<void> {
    try {
      await this.options.store.put(picture.id, picture.bytes, picture.contentType, signal);
      done({ result: 'stored' });
    } catch (error) {
      done({ result: signal.aborted ? 'late' : 'failed', error });
    }
    this.putting--;
    this.heldBytes -= picture.bytes.length;
    this.next();
  }

  /** Each picture is counted; only changes are told. */
  private tell(result: PutResult, error: unknown): void {
    const works = result === 'stored';
    if (works === this.works) return;
    this.works = works;
    this.options.changed(works, { place: this.options.store.place, result, err: error });
  }
}

function urlText(id: ImageId): string {
  return `"/v1/images/${id}"`;
}

function withReferences(event: EventRecord, pictures: readonly Picture[], results: readonly PutResult[]): EventRecord {
  const stored = (i: number): boolean => results[i] === 'stored';
  const references = pictures.map(({ id, path, contentType, bytes }, i) =>
    JSON.stringify({
      path,
      contentType,
      bytes: bytes.length,
      sha256: sha256Of(id),
      ...(stored(i) ? { url: `/v1/images/${id}` } : { imageDropped: true }),
    }),
  );
  const dropped = pictures.filter((_, i) => !stored(i)).map(({ start, end }) => ({ start, end, text: '""' }));
  const { buffer, byteOffset, byteLength } = event.data;
  const data = dropped.length === 0 ? event.data : replaceParts(Buffer.from(buffer, byteOffset, byteLength), dropped);
  return { ...event, data, images: `[${references.join(',')}]` };
}
