/** One worker that devices connect to, without Redis: the floors of a registration. */

import type { BareRegisterVerbs } from '../baseline/bare-register-main.ts';
import type { SocketIoEdgeVerbs } from '../baseline/socketio-edge-main.ts';
import type { Metered } from '../measure/process-usage.ts';
import type { DeviceIdentity } from '../simulate/dialect.ts';
import { Worker } from '../worker/worker.ts';

export interface SingleSystem extends Metered {
  readonly port: number;
  stop(): Promise<void>;
}

export async function startBareRegister(devices: readonly DeviceIdentity[]): Promise<SingleSystem> {
  const worker = new Worker<BareRegisterVerbs>('baseline/bare-register-main');
  const port = await worker.ask('start', { secrets: new Map(devices.map(({ code, secret }) => [code, secret])) });
  return { port, processes: [{ role: 'edge', pid: worker.pid }], stop: () => worker.stop() };
}

export async function startSocketIoAlone(): Promise<SingleSystem> {
  const worker = new Worker<SocketIoEdgeVerbs>('baseline/socketio-edge-main');
  const port = await worker.ask('start', { redisPort: undefined });
  return { port, processes: [{ role: 'edge', pid: worker.pid }], stop: () => worker.stop() };
}
