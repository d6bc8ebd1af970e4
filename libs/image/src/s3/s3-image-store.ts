/** Pictures as objects of an S3-compatible store: `<prefix>/<hour>/<two hex digits>/<sha256>`. Uses five requests that all such stores know:
 *  PutObject (with the hash of the content, which the store checks), HeadObject, GetObject, ListObjectsV2, DeleteObjects.
 *  Every request has a deadline, is sent once, and follows no redirect. Where clocks differ by more than 15 minutes, the store refuses all.
 *  Certificates are checked; an own authority is given to the process by NODE_EXTRA_CA_CERTS. */

import { hash } from 'node:crypto';
import { AwsClient } from 'aws4fetch';
import { type ImageId, isHour, placeOf } from '../image-id.ts';
import type { ImageStore, OpenImage } from '../image-store.ts';
import { unavailable } from '../unavailable.ts';

export interface S3Options {
  readonly bucket: string;
  /** Letters, digits and `/ . _ -`, without a slash at its ends; '' = none. */
  readonly prefix: string;
  /** Origin of the store, without a path. */
  readonly endpoint: URL;
  readonly region: string;
  /** Where the bucket stands: in the path, as every store understands, or before the host, as some want it. */
  readonly style: 'path' | 'host';
  readonly accessKey: string;
  readonly secretKey: string;
}

/** A request goes over the network, and several can be on their way. */
const PARALLEL_PUTS = 32;
/** An answer whose bytes are read by somebody slow, ms. */
const READ_MS = 120_000;
const SWEEP_STEP_MS = 30_000;
/** What one DeleteObjects may hold, and what a list answers. */
const KEYS_PER_STEP = 1_000;
const MAX_LISTED_HOURS = 1_000;

export class S3ImageStore implements ImageStore {
  readonly place: string;
  readonly parallelPuts = PARALLEL_PUTS;
  readonly #client: AwsClient;
  readonly #bucketUrl: string;
  readonly #prefix: string;

  constructor(options: S3Options) {
    const { bucket, prefix, endpoint, region, style, accessKey, secretKey } = options;
    this.#client = new AwsClient({ accessKeyId: accessKey, secretAccessKey: secretKey, service: 's3', region });
    this.#prefix = prefix === '' ? '' : `${prefix}/`;
    this.#bucketUrl =
      style === 'path' ? `${endpoint.origin}/${bucket}` : `${endpoint.protocol}//${bucket}.${endpoint.host}`;
    this.place = `s3:${this.#bucketUrl}/${this.#prefix}`;
  }

  async put(id: ImageId, bytes: Uint8Array, contentType: string, signal: AbortSignal): Promise<void> {
    const headers = { 'Content-Type': contentType, 'X-Amz-Content-Sha256': placeOf(id).name };
    const response = await this.#send('PUT', this.#urlOf(id), signal, headers, bytes);
    await finished(response);
  }

  async open(id: ImageId, signal: AbortSignal): Promise<OpenImage | 'absent'> {
    const url = this.#urlOf(id);
    const response = await this.#send('HEAD', url, signal, {}, undefined, [404]);
    if (response.status === 404) return 'absent';
    const closing = new AbortController();
    return {
      contentType: response.headers.get('content-type') ?? 'application/octet-stream',
      totalBytes: Number(response.headers.get('content-length')),
      read: (first, last) => this.#read(url, first, last, closing.signal),
      close: () => {
        closing.abort();
        return Promise.resolve();
      },
    };
  }

  async sweep(beforeHour: string, signal: AbortSignal): Promise<number> {
    const listed = await this.#list(
      { prefix: this.#prefix, delimiter: '/', 'max-keys': String(MAX_LISTED_HOURS) },
      signal,
    );
    const hours = elements(listed, 'Prefix')
      .map((prefix) => prefix.slice(this.#prefix.length).replace(/\/$/, ''))
      .filter((hour) => isHour(hour) && hour < beforeHour);
    for (const hour of hours) await this.#removeHour(hour, signal);
    return hours.length;
  }

  async #removeHour(hour: string, signal: AbortSignal): Promise<void> {
    const query = { prefix: `${this.#prefix}${hour}/`, 'max-keys': String(KEYS_PER_STEP) };
    for (;;) {
      signal.throwIfAborted();
      const keys = elements(await this.#list(query, signal), 'Key');
      if (keys.length === 0) return;
      const objects = keys.map((key) => `<Object><Key>${key}</Key></Object>`).join('');
      const body = Buffer.from(`<Delete><Quiet>true</Quiet>${objects}</Delete>`);
      // Stores ask for one of the two; both are cheap.
      const headers = {
        'Content-Type': 'application/xml',
        'Content-MD5': hash('md5', body, 'base64'),
        'X-Amz-Content-Sha256': hash('sha256', body, 'hex'),
      };
      const deadline = AbortSignal.any([signal, AbortSignal.timeout(SWEEP_STEP_MS)]);
      const response = await this.#send('POST', `${this.#bucketUrl}?delete=`, deadline, headers, body);
      const text = await textOf(response);
      // What cannot be deleted would be listed again for ever.
      if (text.includes('<Error>'))
        throw unavailable(new Error(`DeleteObjects: ${elements(text, 'Code')[0] ?? 'failed'}`));
    }
  }

  async #list(query: Readonly<Record<string, string>>, signal: AbortSignal): Promise<string> {
    const deadline = AbortSignal.any([signal, AbortSignal.timeout(SWEEP_STEP_MS)]);
    const search = new URLSearchParams({ 'list-type': '2', ...query });
    return await textOf(await this.#send('GET', `${this.#bucketUrl}?${search}`, deadline));
  }

  async *#read(url: string, first: number, last: number, closed: AbortSignal): AsyncGenerator<Uint8Array> {
    const signal = AbortSignal.any([closed, AbortSignal.timeout(READ_MS)]);
    const { body } = await this.#send('GET', url, signal, { Range: `bytes=${first}-${last}` });
    if (body === null) throw unavailable(new Error('an answer without a body'));
    let left = last + 1 - first;
    try {
      for await (const piece of body) {
        left -= piece.byteLength;
        yield piece;
      }
    } catch (error) {
      throw unavailable(error);
    }
    if (left !== 0) throw unavailable(new Error('another number of bytes than was asked for'));
  }

  #urlOf(id: ImageId): string {
    const { hour, part, name } = placeOf(id);
    return `${this.#bucketUrl}/${this.#prefix}${hour}/${part}/${name}`;
  }

  /** Rejects for every status but 2xx and those that are `expected`. */
  async #send(
    method: string,
    url: string,
    signal: AbortSignal,
    headers: Readonly<Record<string, string>> = {},
    body?: Uint8Array,
    expected: readonly number[] = [],
  ): Promise<Response> {
    try {
      const given = body === undefined ? {} : { body };
      const request = await this.#client.sign(url, { method, headers, signal, redirect: 'error', ...given });
      const response = await fetch(request);
      if (response.ok || expected.includes(response.status)) return response;
      const code = elements(await textOf(response), 'Code')[0] ?? '';
      throw new Error(`${method} answered ${response.status} ${code}`);
    } catch (error) {
      throw unavailable(error);
    }
  }
}

/** Reads an answer to its end, so that its connection is free again. */
async function finished(response: Response): Promise<void> {
  await textOf(response);
}

async function textOf(response: Response): Promise<string> {
  try {
    return await response.text();
  } catch (error) {
    throw unavailable(error);
  }
}

/** Contents of all elements of that name. Enough for these answers: they hold names of ours, in characters that XML does not escape, and codes. */
function elements(xml: string, name: string): string[] {
  return [...xml.matchAll(new RegExp(`<${name}>([^<]*)</${name}>`, 'g'))].map(([, text]) => text ?? '');
}
