/** Starts the systems that ours is compared with, in the same layout: one command process, edges, a Redis of their own. */

import { type RedisServer, startRedis } from '@lapi-broker/fixture';
import type { LoopCommandVerbs } from '../baseline/bare-command-main.ts';
import type { LoopEdgeVerbs } from '../baseline/bare-edge-main.ts';
import type { BareEventCommandVerbs } from '../baseline/bare-event-command-main.ts';
import type { BareEventEdgeVerbs } from '../baseline/bare-event-edge-main.ts';
import type { SocketIoCommandVerbs } from '../baseline/socketio-command-main.ts';
import type { SocketIoEdgeVerbs } from '../baseline/socketio-edge-main.ts';
import type { Metered } from '../measure/process-usage.ts';
import { Worker } from '../worker/worker.ts';

export interface LoopSystem extends Metered {
  readonly redis: RedisServer;
  readonly edgePorts: readonly number[];
  readonly apiPort: number;
  /** One more edge, without devices. */
  addEdge(): Promise<void>;
  stop(): Promise<void>;
}

/** `bare` and `bullmq` are told which edge has which device: those at even places the first of two, and so on. */
export async function startLoop(kind: 'bare' | 'bullmq', edges: number, codes: readonly string[]): Promise<LoopSystem> {
  const redis = await startRedis();
  const edgeWorkers: Worker<LoopEdgeVerbs>[] = [];
  const edgePorts: number[] = [];
  const addEdge = async (): Promise<void> => {
    const worker = new Worker<LoopEdgeVerbs>(`baseline/${kind}-edge-main`);
    edgeWorkers.push(worker);
    edgePorts.push(await worker.ask('start', { redisPort: redis.port, edge: edgeWorkers.length - 1 }));
  };
  for (let i = 0; i < edges; i++) await addEdge();
  const command = new Worker<LoopCommandVerbs>(`baseline/${kind}-command-main`);
  const owners = new Map(codes.map((code, i) => [code, i % edges]));
  const apiPort = await command.ask('start', { redisPort: redis.port, edges: owners });
  return loopOf(redis, edgeWorkers, edgePorts, command, apiPort, addEdge);
}

export async function startSocketIo(edges: number): Promise<LoopSystem> {
  const redis = await startRedis();
  const edgeWorkers: Worker<SocketIoEdgeVerbs>[] = [];
  const edgePorts: number[] = [];
  const addEdge = async (): Promise<void> => {
    const worker = new Worker<SocketIoEdgeVerbs>('baseline/socketio-edge-main');
    edgeWorkers.push(worker);
    edgePorts.push(await worker.ask('start', { redisPort: redis.port }));
  };
  for (let i = 0; i < edges; i++) await addEdge();
  const command = new Worker<SocketIoCommandVerbs>('baseline/socketio-command-main');
  const apiPort = await command.ask('start', { redisPort: redis.port });
  return loopOf(redis, edgeWorkers, edgePorts, command, apiPort, addEdge);
}

/** Events from one edge to who listens at one command process. */
export async function startEventLoop(): Promise<LoopSystem> {
  const redis = await startRedis();
  const edge = new Worker<BareEventEdgeVerbs>('baseline/bare-event-edge-main');
  const command = new Worker<BareEventCommandVerbs>('baseline/bare-event-command-main');
  const edgePort = await edge.ask('start', redis.port);
  const apiPort = await command.ask('start', redis.port);
  return loopOf(redis, [edge], [edgePort], command, apiPort, () =>
    Promise.reject(new RangeError('this loop has one edge')),
  );
}

interface Stoppable {
  readonly pid: number;
  stop(): Promise<void>;
}

function loopOf(
  redis: RedisServer,
  edges: readonly Stoppable[],
  edgePorts: readonly number[],
  command: Stoppable,
  apiPort: number,
  addEdge: () => Promise<void>,
): LoopSystem {
  return {
    redis,
    edgePorts,
    apiPort,
    addEdge,
    get processes() {
      return [{ role: 'command', pid: command.pid }, ...edges.map(({ pid }) => ({ role: 'edge', pid }))];
    },
    async stop() {
      await Promise.all([command, ...edges].map((each) => each.stop()));
      await redis.stop();
    },
  };
}
