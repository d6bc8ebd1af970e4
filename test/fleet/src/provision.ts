/** Tells the platform API about the devices before they dial in: PUT /v1/devices/{code}, many at a time.
 *  Repeats what may pass (no connection, 429, 5xx) a few times; anything else ends it, because all other devices would fail alike.
 *  A device that exists gets the new secret. Deleting is not done here. */

import { setTimeout } from 'node:timers/promises';
import type { PlannedDevice } from './fleet.ts';

export interface ProvisionOptions {
  /** Base address of the API, without /v1. */
  readonly api: string;
  readonly key: string | undefined;
  readonly tags: readonly string[];
  /** Name of the broker's profile; undefined uses the kind of the device: nvr, ipc or radar. */
  readonly profile?: string;
  readonly concurrency?: number;
  readonly requestDeadlineMs?: number;
  /** Further tries after one that may pass. */
  readonly retries?: number;
  /** Pause before the first further try; doubles. Retry-After is honoured up to 30 s. */
  readonly retryMs?: number;
  /** Ends the work early; the outcome is then `failed`. */
  readonly signal?: AbortSignal;
}

export type ProvisionOutcome =
  | { readonly status: 'done'; readonly devices: number }
  | { readonly status: 'failed'; readonly done: number; readonly sentence: string };

type Try =
  | { readonly status: 'done' }
  | { readonly status: 'wrong' | 'later'; readonly why: string; readonly retryAfterMs: number };

const PAUSE_LIMIT_MS = 30_000;

export async function provisionDevices(
  devices: readonly PlannedDevice[],
  options: ProvisionOptions,
  onProgress: (done: number) => void = () => undefined,
): Promise<ProvisionOutcome> {
  let next = 0;
  let done = 0;
  let sentence: string | undefined;
  const work = async () => {
    for (let device = devices[next++]; device !== undefined && sentence === undefined; device = devices[next++]) {
      const why = await provisionOne(device, options);
      if (why === undefined) {
        done += 1;
        onProgress(done);
      } else {
        sentence ??= `Provisioning ${device.code} at ${options.api} failed: ${why}.`;
      }
    }
  };
  await Promise.all(Array.from({ length: Math.min(devices.length, options.concurrency ?? 16) }, work));
  return sentence === undefined ? { status: 'done', devices: done } : { status: 'failed', done, sentence };
}

/** Undefined on success, else why not. */
async function provisionOne(device: PlannedDevice, options: ProvisionOptions): Promise<string | undefined> {
  const retries = options.retries ?? 5;
  for (let attempt = 0; ; attempt += 1) {
    const result = await put(device, options);
    if (result.status === 'done') return undefined;
    if (result.status === 'wrong' || attempt >= retries || options.signal?.aborted === true) return result.why;
    const pauseMs = Math.max(result.retryAfterMs, (options.retryMs ?? 500) * 2 ** attempt);
    await pause(Math.min(PAUSE_LIMIT_MS, pauseMs), options.signal);
  }
}

async function put(device: PlannedDevice, options: ProvisionOptions): Promise<Try> {
  const url = `${options.api.replace(/\/+$/, '')}/v1/devices/${encodeURIComponent(device.code)}`;
  try {
    const response = await fetch(url, {
      method: 'PUT',
      headers: {
        'content-type': 'application/json',
        ...(options.key === undefined ? {} : { authorization: `Bearer ${options.key}` }),
      },
      body: JSON.stringify({
        secret: device.secret,
        type: device.profile.name,
        tags: options.tags,
        profile: options.profile ?? device.profile.name,
      }),
      redirect: 'error',
      signal: AbortSignal.any([
        AbortSignal.timeout(options.requestDeadlineMs ?? 10_000),
        ...(options.signal === undefined ? [] : [options.signal]),
      ]),
    });
    const body = await response.text();
    if (response.ok) return { status: 'done' };
    const passing = response.status === 429 || response.status >= 500;
    return {
      status: passing ? 'later' : 'wrong',
      why: `HTTP ${response.status}${hint(response.status)}${excerpt(body)}`,
      retryAfterMs: Number(response.headers.get('retry-after') ?? 0) * 1000 || 0,
    };
  } catch (error) {
    return { status: 'later', why: networkReason(error), retryAfterMs: 0 };
  }
}

async function pause(ms: number, signal: AbortSignal | undefined): Promise<void> {
  try {
    await setTimeout(ms, undefined, signal === undefined ? {} : { signal });
  } catch {
    // Aborted: the next look at the signal ends the work.
  }
}

function hint(status: number): string {
  if (status === 401) return ' (is --key right?)';
  if (status === 403) return ' (the key may not provision devices)';
  if (status === 404) return ' (is --api the address of the platform API?)';
  return '';
}

function excerpt(body: string): string {
  const line = body.replaceAll(/\s+/g, ' ').trim().slice(0, 200);
  return line === '' ? '' : `: ${line}`;
}

function networkReason(error: unknown): string {
  if (!(error instanceof Error)) return 'no connection';
  const cause = error.cause;
  if (!(cause instanceof Error)) return error.message;
  return 'code' in cause && typeof cause.code === 'string' ? cause.code : cause.message;
}
