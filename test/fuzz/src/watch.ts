/** Watches the processes of a broker from outside, whatever the inputs are: they must live on, log no error and no secret, print nothing that is not
 *  a log line, keep their event loops going and their memory bounded. Stalls and memory come from the probe inside (probe.ts); without it they are
 *  not known. Output is read from what the fixture keeps, so `look` must be called more often than that turns over. */

import { readdirSync } from 'node:fs';
import { type RunningProcess, type ServiceReady, waitFor } from '@lapi-broker/fixture';
import type { Arena } from './arena.ts';

/** Reliability: no stall longer than this. */
export const STALL_MS = 150;
const GROWTH_BYTES = 48 * 1024 * 1024;
const GROWTH_BYTES_PER_INPUT = 105;

type Service = RunningProcess<ServiceReady>;

export interface Stall {
  readonly cpuMs: number;
  readonly wallMs: number;
}

export interface Memory {
  readonly usedBytes: number;
  readonly rssBytes: number;
}

export interface ServiceState {
  readonly name: string;
  readonly memory: Memory | undefined;
  readonly descriptors: number;
}

interface Watched {
  readonly service: Service;
  lastLine: string | undefined;
  worst: Stall;
  memory: Memory | undefined;
}

export class Watch {
  readonly #watched: readonly Watched[];
  readonly #secrets: readonly string[];
  readonly #faults: string[] = [];
  readonly probed: boolean;

  /** `secrets` must stand in no line. */
  constructor(arena: Arena, options: { readonly probed: boolean; readonly secrets: readonly string[] }) {
    this.probed = options.probed;
    this.#secrets = [...options.secrets, arena.broker.apiKey, arena.broker.secretKey, arena.broker.nonceKey];
    this.#watched = [arena.edge, arena.command].map((service) => ({
      service,
      lastLine: service.lines().at(-1),
      worst: { cpuMs: 0, wallMs: 0 },
      memory: undefined,
    }));
  }

  /** What was wrong since the last call. */
  look(): string[] {
    for (const watched of this.#watched) this.#look(watched);
    return this.#faults.splice(0);
  }

  /** Longest stalls since the last call, by process. */
  takeStalls(): Readonly<Record<string, Stall>> {
    const stalls: Record<string, Stall> = {};
    for (const watched of this.#watched) {
      this.#look(watched);
      stalls[watched.service.name] = watched.worst;
      watched.worst = { cpuMs: 0, wallMs: 0 };
    }
    return stalls;
  }

  /** After a full collection, where there is a probe. */
  async measure(): Promise<ServiceState[]> {
    return await Promise.all(
      this.#watched.map(async (watched) => {
        const { service } = watched;
        if (this.probed && service.exit() === undefined) {
          watched.memory = undefined;
          service.signal('SIGUSR2');
          await waitFor(
            () => {
              this.#look(watched);
              return watched.memory;
            },
            { deadlineMs: 20_000, what: `the memory of ${service.name}` },
          );
        }
        return { name: service.name, memory: watched.memory, descriptors: descriptorsOf(service.pid) };
      }),
    );
  }

  #look(watched: Watched): void {
    const { service } = watched;
    const lines = service.lines();
    const from = watched.lastLine === undefined ? 0 : lines.lastIndexOf(watched.lastLine) + 1;
    for (const line of lines.slice(from)) this.#read(watched, line);
    watched.lastLine = lines.at(-1);
    const exit = service.exit();
    if (exit !== undefined) this.#faults.push(`${service.name} ended: ${exit.code ?? exit.signal}`);
  }

  #read(watched: Watched, line: string): void {
    const { name } = watched.service;
    const secret = this.#secrets.find((each) => line.includes(each));
    if (secret !== undefined) this.#faults.push(`${name} logs a secret: ${line.replaceAll(secret, '<secret>')}`);
    let fact: unknown;
    try {
      fact = JSON.parse(line);
    } catch {
      this.#faults.push(`${name} says: ${line}`);
      return;
    }
    const { event, level, cpuMs, wallMs, usedBytes, rssBytes } = fact as Record<string, unknown>;
    if (level === 'error' || level === 'fatal') this.#faults.push(`${name} logs: ${line}`);
    if (event === 'fuzz.memory') watched.memory = { usedBytes: Number(usedBytes), rssBytes: Number(rssBytes) };
    if (event !== 'fuzz.stall') return;
    const stall = { cpuMs: Number(cpuMs), wallMs: Number(wallMs) };
    if (stall.cpuMs > watched.worst.cpuMs) watched.worst = stall;
    if (stall.cpuMs > STALL_MS) this.#faults.push(`${name} stalls: ${stall.cpuMs} ms of its own work in one turn`);
  }
}

/** What grew beyond its bound between two measurements. */
export function growthOf(before: readonly ServiceState[], after: readonly ServiceState[], inputs: number): string[] {
  const bound = GROWTH_BYTES + inputs * GROWTH_BYTES_PER_INPUT;
  return after.flatMap(({ name, memory }) => {
    const earlier = before.find((state) => state.name === name)?.memory;
    if (memory === undefined || earlier === undefined) return [];
    const grown = memory.usedBytes - earlier.usedBytes;
    return grown <= bound ? [] : [`${name} holds ${mebibytes(grown)} MiB more after ${inputs} inputs`];
  });
}

export function mebibytes(bytes: number): number {
  return Math.round((bytes / 1_048_576) * 10) / 10;
}

function descriptorsOf(pid: number): number {
  try {
    return readdirSync(`/proc/${pid}/fd`).length;
  } catch {
    return 0;
  }
}
