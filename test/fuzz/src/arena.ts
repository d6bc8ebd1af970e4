/** The broker that is fuzzed, and what all targets need of it: devices in its books, keys of every kind, sessions that can be broken. One edge and
 *  one command service, because an input is judged by the process that gets it. The limits on failing registrations are raised: they would answer
 *  for what is to be tested, and have tests of their own. */

import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { Broker, type CommandProcess, type EdgeProcess } from '@lapi-broker/fixture';
import { DeviceSession, type Identity } from './device.ts';

/** No calls of the broker's own. */
const PROFILES = { quiet: { subscription: 'off', firstRequestDelayMs: 1_000 } };
const AT_ONCE = 16;
const MANY = '1000000';

/** Little is kept: megabytes of events are made. */
const ENV = { LAPI_EVENT_RETENTION_BYTES: String(4 * 1024 * 1024) };
const EDGE_ENV = {
  LAPI_FAILURES_BEFORE_DELAY: MANY,
  LAPI_FAILURES_BEFORE_REFUSAL: MANY,
  LAPI_REGISTRATIONS_PER_SECOND: MANY,
  LAPI_UNAUTHENTICATED_CONNECTIONS: '0',
};

export class Arena {
  readonly broker: Broker;
  #devices = 0;

  constructor(broker: Broker) {
    this.broker = broker;
  }

  /** `stop` ends the broker too. With a probe in each process. */
  static async start(): Promise<{ readonly arena: Arena; stop(): Promise<void> }> {
    const dir = await mkdtemp(path.join(tmpdir(), 'lapi-fuzz-'));
    const profiles = path.join(dir, 'profiles.json');
    await writeFile(profiles, JSON.stringify(PROFILES));
    const probe = new URL(import.meta.url.endsWith('.ts') ? './probe.ts' : './probe.js', import.meta.url);
    const env = { ...ENV, LAPI_PROFILES_FILE: profiles, NODE_OPTIONS: `--import=${probe.href}` };
    const broker = await Broker.start({ edges: 1, commands: 1, edgeEnv: { ...env, ...EDGE_ENV }, commandEnv: env });
    return {
      arena: new Arena(broker),
      async stop() {
        await broker.stop();
        await rm(dir, { recursive: true, force: true });
      },
    };
  }

  get edge(): EdgeProcess {
    return this.broker.edges[0] as EdgeProcess;
  }

  get command(): CommandProcess {
    return this.broker.commands[0] as CommandProcess;
  }

  get edgePort(): number {
    return this.edge.ready.port;
  }

  get apiPort(): number {
    return this.command.ready.port;
  }

  /** Has one of its processes ended? */
  get hasDied(): boolean {
    return this.edge.exit() !== undefined || this.command.exit() !== undefined;
  }

  /** Devices in the books of the broker, never given out before. */
  async provision(count: number): Promise<Identity[]> {
    const codes = Array.from({ length: count }, () => `FUZZ${String(++this.#devices).padStart(8, '0')}`);
    const found: Identity[] = [];
    const rest = codes.values();
    await Promise.all(
      Array.from({ length: AT_ONCE }, async () => {
        for (const code of rest) found.push({ code, secret: await this.broker.provision(code, { profile: 'quiet' }) });
      }),
    );
    return found;
  }

  /** A key with these scopes, and its id. */
  async key(scopes: readonly string[]): Promise<{ readonly id: string; readonly key: string }> {
    const answer = await this.broker.api('/v1/keys', { method: 'POST', body: { name: 'fuzz', scopes } });
    const { id, key } = answer.json();
    if (typeof id !== 'string' || typeof key !== 'string')
      throw new Error(`POST /v1/keys: ${answer.status} ${answer.text}`);
    return { id, key };
  }
}

const TRIES = 50;

/** Sessions that targets break. A device that the broker holds down for what its last sessions did waits while others are taken. */
export class SessionPool {
  readonly #port: number;
  readonly #devices: Identity[];
  readonly #idle: DeviceSession[] = [];
  readonly #open = new Set<DeviceSession>();

  constructor(port: number, devices: readonly Identity[]) {
    this.#port = port;
    this.#devices = [...devices];
  }

  /** How many answers refused a registration that was sound. */
  heldDown = 0;

  /** An idle one, or a new one. Fails when no device can register any more. */
  async take(): Promise<DeviceSession> {
    for (let session = this.#idle.shift(); session !== undefined; session = this.#idle.shift()) {
      if (session.usable) return session;
      this.drop(session);
    }
    return await this.open();
  }

  async open(): Promise<DeviceSession> {
    for (let i = 0; i < TRIES; i++) {
      const identity = this.#devices.shift();
      if (identity === undefined) throw new Error('all devices of the pool have sessions');
      const opened = await DeviceSession.open(this.#port, identity);
      if (opened.status === 'open') {
        this.#open.add(opened.session);
        return opened.session;
      }
      this.#devices.push(identity);
      if (opened.answer !== 429) throw new Error(`a sound registration got ${opened.answer}`);
      this.heldDown++;
    }
    throw new Error(`${TRIES} sound registrations in a row were held down`);
  }

  give(session: DeviceSession): void {
    session.onText = undefined;
    session.onPong = undefined;
    if (session.usable) this.#idle.push(session);
    else this.drop(session);
  }

  drop(session: DeviceSession): void {
    session.close();
    if (this.#open.delete(session)) this.#devices.push(session.identity);
  }

  stop(): void {
    for (const session of this.#open) session.close();
    this.#open.clear();
    this.#idle.length = 0;
  }
}
