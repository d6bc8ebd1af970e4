/** Starts a process of this package (load generator, devices, baselines) and asks it things. A worker ends with the channel to it, so
 *  nothing survives this process. Every question has a deadline; a worker that dies fails all its open questions. */

import { type ChildProcess, fork } from 'node:child_process';
import path from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Question, Reply, Verbs } from './verbs.ts';

const DEADLINE_MS = 180_000;
const STOP_MS = 5_000;

interface Open {
  readonly resolve: (result: unknown) => void;
  readonly reject: (error: Error) => void;
  readonly timer: NodeJS.Timeout;
}

export class Worker<V extends Verbs> {
  readonly name: string;
  private readonly child: ChildProcess;
  private readonly open = new Map<number, Open>();
  private readonly ended: Promise<void>;
  private lastId = 0;

  /** `entry`: path below src, without extension. `nodeArgs`: for this worker alone, such as `--cpu-prof`. */
  constructor(entry: string, env: Readonly<Record<string, string>> = {}, nodeArgs: readonly string[] = []) {
    this.name = path.basename(entry);
    const self = fileURLToPath(import.meta.url);
    const extension = path.extname(self);
    const file = path.join(path.dirname(self), '..', `${entry}${extension}`);
    // From source this package itself was started with the conditions that find it; built code runs as it would in production.
    const inherited = extension === '.ts' ? process.execArgv : [];
    this.child = fork(file, [], {
      execArgv: [...inherited, ...nodeArgs],
      env: { ...process.env, ...env },
      serialization: 'advanced',
    });
    this.child.on('message', (message) => this.onReply(message as Reply));
    this.ended = new Promise((resolve) => {
      this.child.once('exit', (code, signal) => {
        this.failAll(new Error(`${this.name} ended (${signal ?? code})`));
        resolve();
      });
    });
  }

  get pid(): number {
    return this.child.pid as number;
  }

  ask<K extends keyof V & string>(verb: K, argument: Parameters<V[K]>[0]): Promise<Awaited<ReturnType<V[K]>>> {
    const id = ++this.lastId;
    return new Promise((resolve, reject) => {
      const timer = setTimeout(() => {
        this.open.delete(id);
        reject(new Error(`${this.name} did not answer "${verb}" within ${DEADLINE_MS / 1000} s`));
      }, DEADLINE_MS);
      this.open.set(id, { resolve: (result) => resolve(result as Awaited<ReturnType<V[K]>>), reject, timer });
      const question: Question = { id, verb, argument };
      this.child.send(question, (error) => {
        if (error !== null) this.failAll(error);
      });
    });
  }

  async stop(): Promise<void> {
    if (this.child.exitCode !== null || this.child.signalCode !== null) return;
    if (this.child.connected) this.child.disconnect();
    const late = setTimeout(() => this.child.kill('SIGKILL'), STOP_MS);
    await this.ended;
    clearTimeout(late);
  }

  private onReply(reply: Reply): void {
    const open = this.open.get(reply.id);
    if (open === undefined) return;
    this.open.delete(reply.id);
    clearTimeout(open.timer);
    if ('error' in reply) open.reject(new Error(`${this.name}: ${reply.error}`));
    else open.resolve(reply.result);
  }

  private failAll(error: Error): void {
    for (const open of this.open.values()) {
      clearTimeout(open.timer);
      open.reject(error);
    }
    this.open.clear();
  }
}
