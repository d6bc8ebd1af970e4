/** What `load -- isolation` does to a broker, one thing after the other: each begins, lasts for a window, and ends. Who disturbs is in processes
 *  of its own, so that those who are measured do not wait for their own load generator. */

import { setTimeout as pause } from 'node:timers/promises';
import { freePort } from '@lapi-broker/fixture';
import type { CallerVerbs } from '../simulate/caller-main.ts';
import type { DevicesVerbs } from '../simulate/devices-main.ts';
import type { DeviceIdentity } from '../simulate/dialect.ts';
import type { HostileVerbs } from '../simulate/hostile-main.ts';
import type { ListenerVerbs } from '../simulate/listener-main.ts';
import { LapiSystem } from '../system/service.ts';
import { Worker } from '../worker/worker.ts';

const MiB = 2 ** 20;
const URL = '/LAPI/V1.0/System/DeviceInfo';
const HOSTILE = 'hostile';
/** The largest that still is a message. */
const FAT_BYTES = 16 * MiB - 4_096;
const FAT_DEVICES = 8;
const KEEPALIVE_MS = 20_000;
const FAT_PAUSE_MS = 1_500;
const DEAF_DEVICES = 8;
const DEAF_CALL_BYTES = MiB;
const DEAF_CALLS_PER_SECOND = 16;
const TRICKLING = 50;
const DEAF_READERS = 10;
const DEAF_CALLERS = 32;
const PULLERS = 4;
/** Events for those who do not keep up. */
const NOISE = { devices: 100, shape: { kind: 'alarm', bytes: 20_000 }, perSecond: 200, window: 20 } as const;

/** Of each of 16 shards: so little that the store does not grow from one disturbance to the next. */
const RETENTION = { LAPI_EVENT_RETENTION_BYTES: String(8 * MiB) } as const;

/** Ends it; answers what the disturber saw. */
type End = () => Promise<Readonly<Record<string, unknown>>>;

export interface Disturbance {
  readonly name: string;
  /** Events flow for the readers that do not keep up, in the undisturbed window too. */
  readonly noisy: boolean;
  /** A reader that takes nothing is closed after 30 s. */
  readonly isLong: boolean;
  begin(stage: Stage): Promise<End>;
}

/** Everything that disturbs, entered and ready. */
export class Stage {
  readonly system: LapiSystem;
  readonly hostile = new Worker<HostileVerbs>('simulate/hostile-main');
  readonly devices = new Worker<DevicesVerbs>('simulate/devices-main');
  readonly caller = new Worker<CallerVerbs>('simulate/caller-main');
  readonly listeners = new Worker<ListenerVerbs>('simulate/listener-main');
  readonly #receiverPort: number;
  #fat: DeviceIdentity[] = [];
  #hostile: DeviceIdentity[] = [];

  private constructor(system: LapiSystem, receiverPort: number) {
    this.system = system;
    this.#receiverPort = receiverPort;
  }

  /** The system that is disturbed, with a webhook receiver's port allowed. The caller stops both. */
  static async startSystem(): Promise<{ system: LapiSystem; stage: Stage }> {
    const receiverPort = await freePort();
    const system = await LapiSystem.start({
      edges: 1,
      commands: 1,
      subscriptions: false,
      edgeEnv: RETENTION,
      commandEnv: {
        ...RETENTION,
        LAPI_WEBHOOK_ALLOW: '127.0.0.0/8',
        LAPI_WEBHOOK_ALLOW_HTTP: 'true',
        LAPI_WEBHOOK_PORTS: String(receiverPort),
      },
    });
    return { system, stage: new Stage(system, receiverPort) };
  }

  get edgePort(): number {
    const [edge] = this.system.edges;
    if (edge === undefined) throw new RangeError('no edge');
    return edge.port;
  }

  async enter(): Promise<void> {
    const { system, devices, edgePort } = this;
    const plan = { dialect: 'lapi', ports: [edgePort], atOnce: 16, retry: true } as const;
    this.#fat = await system.provision(FAT_DEVICES, 'FAT');
    this.#hostile = await system.provision(TRICKLING, 'HOSTILE');
    await devices.ask('enter', { ...plan, group: 'fat', devices: this.#fat, answerBytes: FAT_BYTES });
    const noise = await system.provision(NOISE.devices, 'NOISE');
    await devices.ask('enter', { ...plan, group: 'noise', devices: noise, answerBytes: 200 });
    for (const group of ['fat', 'noise']) await devices.ask('keepaliveEvery', { group, intervalMs: KEEPALIVE_MS });
  }

  async noise(durationMs: number): Promise<void> {
    const { shape, perSecond, window } = NOISE;
    await this.devices.ask('notify', { group: 'noise', shape, perSecond, window, durationMs });
  }

  hostiles(count: number): readonly DeviceIdentity[] {
    return this.#hostile.slice(0, count);
  }

  get fatCodes(): readonly string[] {
    return this.#fat.map(({ code }) => code);
  }

  get receiverUrl(): string {
    return `http://127.0.0.1:${this.#receiverPort}/`;
  }

  receive(): Promise<void> {
    return this.hostile.ask('receive', { group: HOSTILE, port: this.#receiverPort });
  }

  /** Ends what the hostile process does. */
  async leave(): Promise<Readonly<Record<string, unknown>>> {
    const tally = await this.hostile.ask('tally', HOSTILE);
    await this.hostile.ask('leave', HOSTILE);
    return { ...tally };
  }

  async api(method: string, path: string, body?: unknown): Promise<{ status: number; text: string }> {
    const answer = await fetch(`http://127.0.0.1:${this.system.apiPort}${path}`, {
      method,
      headers: { authorization: `Bearer ${this.system.apiKey}`, 'content-type': 'application/json' },
      ...(body === undefined ? {} : { body: JSON.stringify(body) }),
    });
    return { status: answer.status, text: await answer.text() };
  }

  async stop(): Promise<void> {
    await Promise.all([this.hostile, this.devices, this.caller, this.listeners].map((worker) => worker.stop()));
  }
}

function quiet(name: string, begin: Disturbance['begin']): Disturbance {
  return { name, noisy: false, isLong: false, begin };
}

function floodBy(habit: 'events' | 'pings'): Disturbance['begin'] {
  return async (stage) => {
    // Others each time, because those that were closed for it are kept away for a while.
    const devices = stage
      .hostiles(TRICKLING)
      .slice(habit === 'events' ? -1 : -2)
      .slice(0, 1);
    await stage.hostile.ask('devices', { group: HOSTILE, port: stage.edgePort, devices, habit });
    return () => stage.leave();
  };
}

async function deafDevices(stage: Stage): Promise<End> {
  const devices = stage.hostiles(DEAF_DEVICES);
  await stage.hostile.ask('devices', { group: HOSTILE, port: stage.edgePort, devices, habit: 'deaf' });
  const { apiPort, headers } = stage.system;
  let over = false;
  const calls: Record<string, number> = {};
  const calling = (async () => {
    while (!over) {
      const tally = await stage.caller.ask('pace', {
        port: apiPort,
        headers: `${headers}X-LAPI-Timeout: 2000\r\n`,
        codes: devices.map(({ code }) => code),
        path: URL,
        body: JSON.stringify({ Text: 'x'.repeat(DEAF_CALL_BYTES) }),
        leastBytes: 0,
        connections: 64,
        perSecond: DEAF_CALLS_PER_SECOND,
        durationMs: 2_000,
      });
      for (const [what, times] of Object.entries(tally.failures)) calls[what] = (calls[what] ?? 0) + times;
      calls.unanswered = (calls.unanswered ?? 0) + tally.unanswered;
    }
  })();
  return async () => {
    over = true;
    await calling;
    return { ...(await stage.leave()), calls };
  };
}

async function trickle(stage: Stage): Promise<End> {
  const { edgePort: port } = stage;
  await stage.hostile.ask('devices', { group: HOSTILE, port, devices: stage.hostiles(TRICKLING), habit: 'trickle' });
  await stage.hostile.ask('callers', {
    group: `${HOSTILE} strangers`,
    port,
    requests: ['GET /LAPI/V1.0/System/UpServer/Register HTTP/1.1\r\nHost: '],
    drip: 'x',
    count: TRICKLING,
  });
  return async () => {
    const strangers = await stage.hostile.ask('tally', `${HOSTILE} strangers`);
    await stage.hostile.ask('leave', `${HOSTILE} strangers`);
    return { devices: await stage.leave(), strangers };
  };
}

async function fatAnswers(stage: Stage): Promise<End> {
  const { apiPort: port, headers } = stage.system;
  const plan = { port, headers, codes: stage.fatCodes, path: URL, leastBytes: FAT_BYTES - 4_096 };
  let over = false;
  let [answered, failed] = [0, 0];
  let firstFailure = '';
  const calling = (async () => {
    while (!over) {
      const burst = { ...plan, connections: FAT_DEVICES, maxCalls: FAT_DEVICES, durationMs: 20_000 };
      const tally = await stage.caller.ask('saturate', burst);
      answered += tally.answered;
      failed += tally.failed;
      firstFailure ||= tally.firstFailure;
      if (!over) await pause(FAT_PAUSE_MS);
    }
  })();
  return async () => {
    over = true;
    await calling;
    return { answered, failed, firstFailure };
  };
}

function deafReaders(transport: 'sse' | 'websocket'): Disturbance['begin'] {
  return async (stage) => {
    const { apiPort: port, headers } = stage.system;
    const plan = { group: HOSTILE, port, headers, transport, count: DEAF_READERS, deaf: true } as const;
    await stage.listeners.ask('listen', plan);
    return async () => {
      const [command] = stage.system.commands;
      const standing = command === undefined ? 0 : await stage.system.metric(command, 'lapi_event_connections');
      await stage.listeners.ask('leave', HOSTILE);
      return { readers: DEAF_READERS, connectionsWithThoseOfTheControlGroup: standing };
    };
  };
}

async function neverAcknowledges(stage: Stage): Promise<End> {
  const name = `slow-${Date.now()}`;
  const filter = { devices: ['NOISE*'] };
  const made = await stage.api('POST', '/v1/subscriptions', { name, filter, ackDeadlineSeconds: 5 });
  if (made.status !== 201) throw new Error(`subscription: ${made.status} ${made.text}`);
  let over = false;
  let [pulls, events] = [0, 0];
  const statuses: Record<string, number> = {};
  const pull = async (): Promise<void> => {
    while (!over) {
      const { status, text } = await stage.api('POST', `/v1/subscriptions/${name}/pull`, { max: 100, waitSeconds: 1 });
      pulls++;
      statuses[status] = (statuses[status] ?? 0) + 1;
      events += text.split('"ackId"').length - 1;
    }
  };
  const pulling = Array.from({ length: PULLERS }, pull);
  return async () => {
    over = true;
    await Promise.all(pulling);
    await stage.api('DELETE', `/v1/subscriptions/${name}`);
    return { pulls, events, statuses };
  };
}

async function slowReceiver(stage: Stage): Promise<End> {
  await stage.receive();
  const filter = { devices: ['NOISE*'] };
  const wish = { url: stage.receiverUrl, name: `slow-${Date.now()}`, filter, concurrency: 16 };
  const made = await stage.api('POST', '/v1/webhooks', wish);
  if (made.status !== 201) throw new Error(`webhook: ${made.status} ${made.text}`);
  const { id } = JSON.parse(made.text) as { id: string };
  return async () => {
    await stage.api('DELETE', `/v1/webhooks/${id}`);
    return await stage.leave();
  };
}

/** Half of them asked for what is large and read nothing of it, half promise a body and drip it. */
async function halfOpen(stage: Stage): Promise<End> {
  const { apiPort: port, headers } = stage.system;
  const head = (method: string, code: string): string =>
    `${method} /v1/devices/${code}${URL} HTTP/1.1\r\nHost: 127.0.0.1\r\n${headers}`;
  const asks = stage.fatCodes.map((code) => `${head('GET', code)}\r\n`);
  const [code = ''] = stage.fatCodes;
  const promise = `${head('POST', code)}Content-Type: application/json\r\nContent-Length: ${4 * MiB}\r\n\r\n{`;
  await stage.hostile.ask('callers', { group: HOSTILE, port, requests: asks, count: DEAF_CALLERS });
  const drippers = { group: `${HOSTILE} bodies`, port, requests: [promise], drip: ' ', count: DEAF_CALLERS };
  await stage.hostile.ask('callers', drippers);
  return async () => {
    const bodies = await stage.hostile.ask('tally', drippers.group);
    await stage.hostile.ask('leave', drippers.group);
    return { readNothing: await stage.leave(), bodies };
  };
}

export const DISTURBANCES: readonly Disturbance[] = [
  quiet(`${DEAF_DEVICES} devices that never read, called with 1 MiB`, deafDevices),
  quiet(`${TRICKLING} devices and ${TRICKLING} strangers, one byte a second`, trickle),
  quiet('one device floods events', floodBy('events')),
  quiet('one device floods pings', floodBy('pings')),
  quiet(`answers of 16 MiB from ${FAT_DEVICES} devices at once`, fatAnswers),
  quiet(`${2 * DEAF_CALLERS} half-open API callers`, halfOpen),
  {
    name: `${DEAF_READERS} SSE readers that never read`,
    noisy: true,
    isLong: true,
    begin: deafReaders('sse'),
  },
  {
    name: `${DEAF_READERS} WebSocket readers that never read`,
    noisy: true,
    isLong: true,
    begin: deafReaders('websocket'),
  },
  { name: 'a durable consumer that never acknowledges', noisy: true, isLong: false, begin: neverAcknowledges },
  { name: 'a webhook receiver that never answers', noisy: true, isLong: false, begin: slowReceiver },
];
