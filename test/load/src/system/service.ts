/** Starts edges and command services of this checkout from dist, quiet (warnings only) and with limits per address and key raised, because
 *  a load generator is one address and one key. What is measured is otherwise configured as it is shipped. */

import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import { freePort, type RedisServer, type RunningProcess, startProcess, startRedis } from '@lapi-broker/fixture';
import type { Metered } from '../measure/process-usage.ts';
import type { DeviceIdentity } from '../simulate/dialect.ts';

const root = fileURLToPath(new URL('../../../../', import.meta.url));

export interface ServiceProcess {
  readonly name: string;
  readonly pid: number;
  readonly port: number;
  readonly probePort: number;
  readonly running: RunningProcess<true>;
}

export interface LapiOptions {
  readonly edges: number;
  /** 0: no command service; devices cannot be provisioned then. */
  readonly commands: number;
  /** Device profile of all devices; false: no subscription, first call after 1 s, so that only what is measured happens. */
  readonly subscriptions: boolean;
  readonly edgeEnv?: Readonly<Record<string, string>>;
  readonly commandEnv?: Readonly<Record<string, string>>;
  readonly redisArgs?: readonly string[];
}

const PROVISIONED_AT_ONCE = 32;
const NO_LIMIT = '10000000';

/** Further arguments of Node for the services, for work on them: `--cpu-prof --cpu-prof-dir=…`, `--perf-basic-prof`, heap sizes. */
const nodeArgs = (process.env.LAPI_LOAD_NODE_ARGS ?? '').split(' ').filter((arg) => arg !== '');

export class LapiSystem implements Metered {
  readonly redis: RedisServer;
  readonly edges: ServiceProcess[] = [];
  readonly commands: ServiceProcess[] = [];
  readonly apiKey = `lapi_${randomBytes(32).toString('base64url')}`;
  readonly profile: string;
  private readonly options: LapiOptions;
  private readonly dir: string;
  private readonly secretKey = randomBytes(32).toString('base64');
  private readonly nonceKey = randomBytes(32).toString('base64');

  private constructor(options: LapiOptions, redis: RedisServer, dir: string) {
    this.options = options;
    this.redis = redis;
    this.dir = dir;
    this.profile = options.subscriptions ? 'default' : 'plain';
  }

  static async start(options: LapiOptions): Promise<LapiSystem> {
    const redis = await startRedis({ args: options.redisArgs ?? [] });
    const dir = await mkdtemp(path.join(tmpdir(), 'lapi-load-'));
    const system = new LapiSystem(options, redis, dir);
    try {
      await writeFile(
        system.profilesFile,
        JSON.stringify({ plain: { subscription: 'off', firstRequestDelayMs: 1_000 } }),
      );
      for (let i = 0; i < options.edges; i++) await system.addEdge();
      for (let i = 0; i < options.commands; i++) await system.addCommand();
    } catch (error) {
      await system.stop();
      throw error;
    }
    return system;
  }

  get processes(): { role: string; pid: number }[] {
    return [
      ...this.edges.map(({ pid }) => ({ role: 'edge', pid })),
      ...this.commands.map(({ pid }) => ({ role: 'command', pid })),
    ];
  }

  async addEdge(): Promise<ServiceProcess> {
    const edge = await this.startEdge(`edge-${this.edges.length + 1}`, await freePort(), await freePort());
    this.edges.push(edge);
    return edge;
  }

  /** On the same ports; the process must have ended. */
  async restartEdge(index: number): Promise<ServiceProcess> {
    const old = this.edges[index];
    if (old === undefined) throw new RangeError(`no edge ${index}`);
    const edge = await this.startEdge(old.name, old.port, old.probePort);
    this.edges[index] = edge;
    return edge;
  }

  async addCommand(): Promise<ServiceProcess> {
    const port = await freePort();
    const command = await this.startService('command', `command-${this.commands.length + 1}`, port, await freePort(), {
      LAPI_API_HOST: '127.0.0.1',
      LAPI_API_PORT: String(port),
      LAPI_API_KEY: this.apiKey,
      LAPI_KEY_REQUESTS_PER_SECOND: NO_LIMIT,
      ...this.options.commandEnv,
    });
    this.commands.push(command);
    return command;
  }

  /** Header lines of a call. */
  get headers(): string {
    return `Authorization: Bearer ${this.apiKey}\r\n`;
  }

  get apiPort(): number {
    const [command] = this.commands;
    if (command === undefined) throw new RangeError('no command service');
    return command.port;
  }

  /** Makes devices known, with codes of 16 characters. */
  async provision(count: number, prefix: string): Promise<DeviceIdentity[]> {
    const devices = Array.from({ length: count }, (_, i) => ({
      code: `${prefix}${String(i).padStart(16 - prefix.length, '0')}`,
      secret: randomBytes(24).toString('base64url'),
    }));
    let next = 0;
    const lane = async (): Promise<void> => {
      for (let device = devices[next++]; device !== undefined; device = devices[next++]) {
        const answer = await fetch(`http://127.0.0.1:${this.apiPort}/v1/devices/${device.code}`, {
          method: 'PUT',
          headers: { authorization: `Bearer ${this.apiKey}`, 'content-type': 'application/json' },
          body: JSON.stringify({ secret: device.secret, profile: this.profile }),
        });
        if (answer.status !== 201) throw new Error(`PUT device: ${answer.status} ${await answer.text()}`);
        await answer.arrayBuffer();
      }
    };
    await Promise.all(Array.from({ length: PROVISIONED_AT_ONCE }, lane));
    return devices;
  }

  /** The value of a metric of a process, over all its labels; 0 if there is none. */
  async metric(service: ServiceProcess, name: string): Promise<number> {
    let sum = 0;
    for (const [series, value] of await this.metrics(service)) if (series.replace(/\{.*/, '') === name) sum += value;
    return sum;
  }

  /** All of a process: name with labels → value. */
  async metrics({ probePort }: ServiceProcess): Promise<ReadonlyMap<string, number>> {
    const text = await (await fetch(`http://127.0.0.1:${probePort}/metrics`)).text();
    const all = new Map<string, number>();
    for (const line of text.split('\n')) {
      const match = /^([a-zA-Z_:]+(?:\{[^}]*\})?) (\S+)/.exec(line);
      if (match !== null) all.set(match[1] as string, Number(match[2]));
    }
    return all;
  }

  async stop(): Promise<void> {
    const services = [...this.commands, ...this.edges];
    await Promise.allSettled(services.map(({ running }) => running.stop()));
    await this.redis.stop();
    await rm(this.dir, { recursive: true, force: true });
  }

  private get profilesFile(): string {
    return path.join(this.dir, 'profiles.json');
  }

  private startEdge(name: string, port: number, probePort: number): Promise<ServiceProcess> {
    return this.startService('edge', name, port, probePort, {
      LAPI_NODE_NAME: name,
      LAPI_DEVICE_HOST: '127.0.0.1',
      LAPI_DEVICE_PORT: String(port),
      LAPI_NONCE_KEY: this.nonceKey,
      // High, but not 0, which would switch the counting off that production pays for.
      LAPI_CONNECTIONS_PER_ADDRESS: '100000',
      ...this.options.edgeEnv,
    });
  }

  private async startService(
    service: 'edge' | 'command',
    name: string,
    port: number,
    probePort: number,
    env: Readonly<Record<string, string>>,
  ): Promise<ServiceProcess> {
    const running = await startProcess({
      name,
      args: [...nodeArgs, `${root}services/${service}/dist/main.js`],
      env: {
        REDIS_URL: this.redis.url,
        LAPI_SECRET_KEY: this.secretKey,
        LAPI_IMAGE_STORE: `file:${path.join(this.dir, 'images')}`,
        LAPI_PROBE_PORT: String(probePort),
        LAPI_PROFILES_FILE: this.profilesFile,
        LAPI_DRAIN_SECONDS: '1',
        LAPI_DRAIN_DELAY_SECONDS: '0',
        LAPI_LOG_LEVEL: 'warn',
        ...env,
      },
      ready: () => undefined,
      probe: async () => ((await fetch(`http://127.0.0.1:${probePort}/readyz`)).ok ? true : undefined),
    });
    return { name, pid: running.pid, port, probePort, running };
  }
}
