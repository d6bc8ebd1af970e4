/** A broker that can be broken: its processes keep their ports, so that what was killed comes back where it was, and what was paused is let go
 *  on in any case. Redis alone, a master with two replicas and sentinels, or a cluster of three masters with a replica each. stop() ends everything and fails if a process does not leave
 *  cleanly. */

import { randomBytes } from 'node:crypto';
import { mkdtemp, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import {
  Broker,
  type CommandProcess,
  type EdgeProcess,
  freePort,
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

/** No calls of the broker's own, so that every request on the wire is one of the run. */
const PROFILES = { quiet: { subscription: 'off', firstRequestDelayMs: 1_000 } };
const PROVISIONED_AT_ONCE = 8;

export interface RigOptions {
  readonly store: StoreKind;
  readonly edges: number;
  readonly commands: number;
  /** Further settings of all processes. */
  readonly env?: Readonly<Record<string, string>>;
  /** With a line to the one Redis that can be made slow. */
  readonly slowable?: boolean;
}

type Store =
  | { readonly kind: 'standalone'; readonly redis: RedisServer }
  | { readonly kind: 'sentinel'; readonly redis: RedisSentinels }
  | { readonly kind: 'cluster'; readonly redis: RedisCluster };

async function startStore(kind: StoreKind): Promise<Store> {
  switch (kind) {
    case 'standalone':
      return { kind, redis: await startRedis() };
    case 'sentinel':
      return { kind, redis: await startRedisSentinel() };
    case 'cluster':
      return { kind, redis: await startRedisCluster({ masters: 3, replicasPerMaster: 1 }) };
  }
}

export class Rig {
  readonly store: Store;
  readonly broker: Broker;
  readonly edges: EdgeProcess[] = [];
  readonly commands: CommandProcess[] = [];
  /** Between the broker and its one Redis, where that was asked for. */
  readonly line: TcpProxy | undefined;
  readonly #dir: string;

  private constructor(store: Store, line: TcpProxy | undefined, broker: Broker, dir: string) {
    this.store = store;
    this.line = line;
    this.broker = broker;
    this.#dir = dir;
  }

  static async start({ store: kind, edges, commands, env: more = {}, slowable = false }: RigOptions): Promise<Rig> {
    const dir = await mkdtemp(path.join(tmpdir(), 'lapi-chaos-'));
    const profiles = path.join(dir, 'profiles.json');
    await writeFile(profiles, JSON.stringify(PROFILES));
    const store = await startStore(kind);
    const line =
      slowable && store.kind === 'standalone' ? await startTcpProxy({ target: { port: store.redis.port } }) : undefined;
    const env = { LAPI_PROFILES_FILE: profiles, ...more };
    const broker = await Broker.start({
      redis: { url: line === undefined ? store.redis.url : `redis://127.0.0.1:${line.port}/0` },
      edges: 0,
      commands: 0,
      edgeEnv: env,
      commandEnv: env,
    });
    const rig = new Rig(store, line, broker, dir);
    try {
      for (let i = 0; i < edges; i++) await rig.#startEdge(i, await freePort());
      for (let i = 0; i < commands; i++) await rig.#startCommand(i, await freePort());
    } catch (error) {
      await rig.kill();
      throw error;
    }
    return rig;
  }

  get edgeUrls(): string[] {
    return this.edges.map(({ url }) => url);
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
      const answer = await this.broker.api(`/v1/subscriptions/${subscription}`, { service }).catch(() => undefined);
      if (answer?.status !== 200) continue;
      const { lag, waiting, inFlight, deadLetters } = answer.json();
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
      await this.#stopStore();
    }
  }

  /** Ends everything at once, for runs that failed. */
  async kill(): Promise<void> {
    await this.broker.kill();
    await this.#stopStore();
  }

  async #stopStore(): Promise<void> {
    await this.line?.stop();
    await this.store.redis.stop();
    await rm(this.#dir, { recursive: true, force: true });
  }

  async #startEdge(index: number, port: number): Promise<void> {
    this.edges[index] = await this.broker.addEdge({
      LAPI_NODE_NAME: `edge-${index + 1}`,
      LAPI_DEVICE_PORT: String(port),
    });
  }

  async #startCommand(index: number, port: number): Promise<void> {
    this.commands[index] = await this.broker.addCommand({ LAPI_API_PORT: String(port) });
  }
}
