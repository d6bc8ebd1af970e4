/** What a story file stands on: a broker with device profiles for tests, and the clean-up of all that its tests opened. */

import { rmSync, writeFileSync } from 'node:fs';
import { mkdtemp } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { Broker, type BrokerOptions } from '@lapi-broker/fixture';
import { closeDevices } from './device.ts';
import { closeReaders } from './event-reader.ts';
import { closeSockets } from './platform-socket.ts';

/** No subscription of its own, so that every call on the wire is one of the test; called as early as a profile allows. */
const QUIET = { subscription: 'off', firstRequestDelayMs: 1_000 };

const PROFILES: Readonly<Record<string, unknown>> = {
  quiet: QUIET,
  /** Told to keep alive every 9–11 s. */
  brief: { ...QUIET, keepaliveTimeoutS: 10 },
  /** One call at a time, one more may wait. */
  narrow: { ...QUIET, inflight: 1, waiting: 1 },
  /** One call at a time, a few more may wait. */
  single: { ...QUIET, inflight: 1, waiting: 8 },
  /** What the first message of a session may be (protocol A2, A5, A6). */
  ackless: { ...QUIET, registerAck: 'none' },
  resignless: { ...QUIET, resign: 'none' },
  resignCnonce: { ...QUIET, resign: 'cnonce' },
  immediate: { ...QUIET, ackMode: 'immediate' },
  /** The shortest subscription. */
  subscribed: { subscription: { body: { Duration: 30, Type: 0 } }, firstRequestDelayMs: 1_000 },
};

export interface Setting {
  readonly broker: Broker;
  stop(): Promise<void>;
}

export async function startSetting(options: BrokerOptions = {}): Promise<Setting> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lapi-e2e-'));
  const file = path.join(dir, 'profiles.json');
  writeFileSync(file, JSON.stringify(PROFILES));
  const remove = (): void => rmSync(dir, { recursive: true, force: true });
  const profiles = { LAPI_PROFILES_FILE: file };
  try {
    const broker = await Broker.start({
      ...options,
      edgeEnv: { ...profiles, ...options.edgeEnv },
      commandEnv: { ...profiles, ...options.commandEnv },
    });
    return {
      broker,
      async stop() {
        closeReaders();
        closeSockets();
        closeDevices();
        remove();
        await broker.stop();
      },
    };
  } catch (error) {
    remove();
    throw error;
  }
}

/** For claims that something does not happen: `condition` must hold all the time. */
export async function staysTrue(condition: () => boolean, forMs: number, what: string): Promise<void> {
  const end = performance.now() + forMs;
  while (performance.now() < end) {
    if (!condition()) throw new Error(`did not stay true for ${forMs} ms: ${what}`);
    await sleep(20);
  }
}

/** Runs `work` and tells how long it took. */
export async function timed<T>(work: Promise<T>): Promise<{ readonly result: T; readonly tookMs: number }> {
  const startMs = performance.now();
  const result = await work;
  return { result, tookMs: performance.now() - startMs };
}
