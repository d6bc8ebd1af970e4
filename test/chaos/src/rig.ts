/** A broker that can be broken: its processes keep their ports, so that what was killed comes back where it was, and what was paused is let go
 *  on in any case. Redis alone, a master with two replicas and sentinels, or a cluster of three masters with a replica each. On loopback, or on
 *  another ground that gives its parties addresses of their own. Lines are TCP proxies: between a process and the one Redis, and between devices
 *  and an edge. stop() ends everything and fails if a process does not leave cleanly. */

import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  Broker,
  type CommandProcess,
  type EdgeProcess,
  freePort,
  LOOPBACK,
  type Place,
  type RedisCluster,
  type RedisSentinels,
  type RedisServer,
  startRedis,
  startRedisCluster,
  startRedisSentinel,
  startTcpProxy,
  type TcpProxy,
} from '@lapi-broker/fixture';

export type StoreKind = Store['kind'];
export type Service = 'edge' | 'command';

/** A server is given up after so long. Less, and a busy machine makes replicas take over that nobody asked for. */
const SILENCE_MS = 3_000;

/** No calls of the broker's own, so that every request on the wire is one of the run. */
const PROFILES = { quiet: { subscription: 'off', firstRequestDelayMs: 1_000 } };
const PROVISIONED_AT_ONCE = 8;

export type Env = Readonly<Record<string, string>>;

/** What a fault needs that a rig does not have of itself. */
export interface RigNeeds {
  /** Further settings of all processes, and of one. */
  readonly env?: Env;
  readonly envOf?: (service: Service, index: number) => Env;
  /** A line between each process and the one Redis. */
  readonly storeLines?: boolean;
  /** A line between the devices and each edge. */
  readonly deviceLines?: boolean;
  /** Further settings of each Redis server. */
  readonly redisArgs?: readonly string[];
  /** Where the parties live, if not on loopback. */
  readonly ground?: () => Promise<Ground>;
}

export interface RigOptions extends RigNeeds {
  readonly store: StoreKind;
  readonly edges: number;
  readonly commands: number;
}

export type Store =
  | { readonly kind: 'standalone'; readonly redis: RedisServer }
  | { readonly kind: 'sentinel'; readonly redis: RedisSentinels }
  | { readonly kind: 'cluster'; readonly redis: RedisCluster };

/** Gives the parties of a run a place. Devices, readers and the platform are in this process. */
export interface Ground {
  startStore(kind: StoreKind, redisArgs: readonly string[]): Promise<Store>;
  /** Where a service is started, and at which address it is reached. */
  placeOf(service: Service, index: number): Place;
  /** After everything on it has ended. Idempotent. */
  stop(): Promise<void>;
}

export const LOOPBACK_GROUND: Ground = {
  async startStore(kind, args) {
    switch (kind) {
      case 'standalone':
        return { kind, redis: await startRedis({ args }) };
      case 'sentinel':
        return { kind, redis: await startRedisSentinel({ args }) };
      case 'cluster':
        return { kind, redis: await startRedisCluster({ masters: 3, replicasPerMaster: 1, args }) };
    }
  },
  placeOf: () => LOOPBACK,
  stop: async () => undefined,
};

/** Two faults in one run need what both need. */
export function mergeNeeds(a: RigNeeds = {}, b: RigNeeds = {}): RigNeeds {
  const ground = a.ground ?? b.ground;
  return {
    env: { ...a.env, ...b.env },
    envOf: (service, index) => ({ ...a.envOf?.(service, index), ...b.envOf?.(service, index) }),
    storeLines: a.storeLines === true || b.storeLines === true,
    deviceLines: a.deviceLines === true || b.deviceLines === true,
    redisArgs: [...(a.redisArgs ?? []), ...(b.redisArgs ?? [])],
    ...(ground === undefined ? {} : { ground }),
  };
}

export class Rig {
  readonly store: Store;
  readonly ground: Ground;
  readonly broker: Broker;
  readonly edges: EdgeProcess[] = [];
  readonly commands: CommandProcess[] = [];
  /** Everything that was started, what was killed included. */
  readonly started: (EdgeProcess | CommandProcess)[] = [];
  readonly #options: RigOptions;
  readonly #storeLines = new Map<string, TcpProxy>();
  readonly #deviceLines: TcpProxy[] = [];
  readonly #dir: string;

  private constructor(options: RigOptions, ground: Ground, store: Store, broker: Broker, dir: string) {
    this.#options = options;
    this.ground = ground;
    this.store = store;
    this.broker = broker;
    this.#dir = dir;
  }

  static async start(options: RigOptions): Promise<Rig> {
    const dir = await mkdtemp(path.join(tmpdir(), 'lapi-chaos-'));
    const profiles = path.join(dir, 'profiles.json');
    await writeFile(profiles, JSON.stringify(PROFILES));
    const ground = (await options.ground?.()) ?? LOOPBACK_GROUND;
    try {
      const store = await ground.startStore(options.store, [
        ...(options.redisArgs ?? []),
        ...(options.store === 'cluster' ? ['--cluster-node-timeout', String(SILENCE_MS)] : []),
      ]);
      if (store.kind === 'sentinel') {
        for (const each of store.redis.sentinels) {
          await each.command('SENTINEL', 'SET', 'broker', 'down-after-milliseconds', SILENCE_MS);
        }
      }
      const env = { LAPI_PROFILES_FILE: profiles, ...options.env };
      const broker = await Broker.start({
        redis: { url: store.redis.url },
        edges: 0,
        commands: 0,
        edgeEnv: env,
        commandEnv: env,
      });
      const rig = new Rig(options, ground, store, broker, dir);
      try {
        await rig.#startAll();
      } catch (error) {
        await rig.kill();
        throw error;
      }
      return rig;
    } catch (error) {
      await ground.stop();
      await rm(dir, { recursive: true, force: true });
      throw error;
    }
  }

  /** Where devices connect: the edges, or the lines in front of them. */
  get edgeUrls(): string[] {
    return this.edges.map(({ url }, i) => {
      const line = this.#deviceLines[i];
      return line === undefined ? url : `ws://127.0.0.1:${line.port}`;
    });
  }

  get commandUrls(): string[] {
    return this.commands.map(({ url }) => url);
  }

  edge(index: number): EdgeProcess {
    const edge = this.edges[index];
    if (edge === undefined) throw new RangeError(`no edge ${index}`);
    return edge;
  }

  command(index: number): CommandProcess {
    const command = this.commands[index];
    if (command === undefined) throw new RangeError(`no command service ${index}`);
    return command;
  }

  /** Between that process and the one Redis; only where it was asked for. */
  storeLine(service: Service, index: number): TcpProxy {
    const line = this.#storeLines.get(`${service} ${index}`);
    if (line === undefined) throw new RangeError(`no line between ${service} ${index} and Redis`);
    return line;
  }

  get storeLines(): readonly TcpProxy[] {
    return [...this.#storeLines.values()];
  }

  /** Between devices and that edge; only where it was asked for. */
  deviceLine(edge: number): TcpProxy {
    const line = this.#deviceLines[edge];
    if (line === undefined) throw new RangeError(`no line in front of edge ${edge}`);
    return line;
  }

  /** All Redis servers that keep data, as they were at the start. */
  get servers(): readonly RedisServer[] {
    const { store } = this;
    if (store.kind === 'standalone') return [store.redis];
    if (store.kind === 'sentinel') return [store.redis.master, ...store.redis.replicas];
    return [...store.redis.masters, ...store.redis.replicas];
  }

  /** How often a replica has taken over; in a cluster, how many of the first replicas are masters now. */
  async takeOvers(): Promise<number> {
    const { store } = this;
    if (store.kind === 'standalone') return 0;
    if (store.kind === 'sentinel') {
      const facts = (await store.redis.sentinels[0]?.command('SENTINEL', 'master', 'broker')) as string[];
      return Number(facts[facts.indexOf('config-epoch') + 1]);
    }
    const roles = await Promise.all(
      store.redis.replicas.map((server) => server.command('ROLE').catch(() => ['unknown'])),
    );
    return roles.filter((role) => (role as string[])[0] === 'master').length;
  }

  /** The port stays; the process must have ended. */
  async restartEdge(index: number): Promise<void> {
    await this.#startEdge(index, this.edge(index).ready.port);
  }

  async restartCommand(index: number): Promise<void> {
    await this.#startCommand(index, this.command(index).ready.port);
  }

  /** Answers the secrets by code. */
  async provision(codes: readonly string[]): Promise<ReadonlyMap<string, string>> {
    const secrets = new Map<string, string>();
    const rest = codes.values();
    await Promise.all(
      Array.from({ length: PROVISIONED_AT_ONCE }, async () => {
        for (const code of rest) {
          const secret = randomBytes(24).toString('base64url');
          secrets.set(code, await this.broker.provision(code, { secret, profile: 'quiet' }));
        }
      }),
    );
    return secrets;
  }

  /** What a durable subscription still has to do; any service that answers. */
  async progress(
    subscription: string,
  ): Promise<Readonly<Record<'lag' | 'waiting' | 'inFlight' | 'deadLetters', number>>> {
    for (const service of this.commands.keys()) {
      const url = this.commandUrls[service];
      const answer = await fetch(`${url}/v1/subscriptions/${subscription}`, {
        headers: { authorization: `Bearer ${this.broker.apiKey}` },
        signal: AbortSignal.timeout(5_000),
      }).catch(() => undefined);
      if (answer?.status !== 200) continue;
      const { lag, waiting, inFlight, deadLetters } = (await answer.json()) as Record<string, unknown>;
      return {
        lag: Number(lag),
        waiting: Number(waiting),
        inFlight: Number(inFlight),
        deadLetters: Number(deadLetters),
      };
    }
    throw new Error(`no service tells how far ${subscription} is`);
  }

  async stop(): Promise<void> {
    try {
      await this.broker.stop();
    } finally {
      await this.#stopRest();
    }
  }

  /** Ends everything at once, for runs that failed. */
  async kill(): Promise<void> {
    await this.broker.kill();
    await this.#stopRest();
  }

  async #startAll(): Promise<void> {
    const { edges, commands, storeLines, deviceLines } = this.#options;
    if (storeLines === true) {
      if (this.store.kind !== 'standalone') throw new TypeError('lines to the store want one Redis');
      const { port } = this.store.redis;
      for (let i = 0; i < edges; i++) this.#storeLines.set(`edge ${i}`, await startTcpProxy({ target: { port } }));
      for (let i = 0; i < commands; i++)
        this.#storeLines.set(`command ${i}`, await startTcpProxy({ target: { port } }));
    }
    for (let i = 0; i < edges; i++) {
      const port = await freePort();
      await this.#startEdge(i, port);
      if (deviceLines === true)
        this.#deviceLines.push(await startTcpProxy({ target: { host: this.edge(i).address, port } }));
    }
    for (let i = 0; i < commands; i++) await this.#startCommand(i, await freePort());
  }

  async #stopRest(): Promise<void> {
    await Promise.all([...this.#storeLines.values(), ...this.#deviceLines].map((line) => line.stop()));
    await this.store.redis.stop();
    await this.ground.stop();
    await rm(this.#dir, { recursive: true, force: true });
  }

  #envOf(service: Service, index: number): Env {
    const line = this.#storeLines.get(`${service} ${index}`);
    return {
      ...(line === undefined ? {} : { REDIS_URL: `redis://127.0.0.1:${line.port}/0` }),
      ...this.#options.envOf?.(service, index),
    };
  }

  async #startEdge(index: number, port: number): Promise<void> {
    const edge = await this.broker.addEdge(
      { LAPI_NODE_NAME: `edge-${index + 1}`, LAPI_DEVICE_PORT: String(port), ...this.#envOf('edge', index) },
      this.ground.placeOf('edge', index),
    );
    this.edges[index] = edge;
    this.started.push(edge);
  }

  async #startCommand(index: number, port: number): Promise<void> {
    const command = await this.broker.addCommand(
      { LAPI_API_PORT: String(port), ...this.#envOf('command', index) },
      this.ground.placeOf('command', index),
    );
    this.commands[index] = command;
    this.started.push(command);
  }
}
