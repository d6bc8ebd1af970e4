/** V14: secrets are nowhere but as ciphertext. Those of the devices, the key that seals them, the key of the nonces and the API key are looked for
 *  in all that the processes logged, in every answer of the API that was read, and in everything that was ever written to Redis: its
 *  append-only files. Also written as hex or base64. */

import { readdir, readFile } from 'node:fs/promises';
import path from 'node:path';
import type { Rig } from '../rig.ts';

export interface Leak {
  readonly check: 'V14';
  readonly what: string;
}

export class Canaries {
  /** Name by text. */
  readonly #texts = new Map<string, string>();
  readonly #found = new Map<string, Leak>();

  add(name: string, secret: string): void {
    const bytes = Buffer.from(secret);
    this.#texts.set(secret, name);
    this.#texts.set(bytes.toString('hex'), `${name} as hex`);
    // The last characters depend on what follows.
    this.#texts.set(bytes.toString('base64').slice(0, -4), `${name} as base64`);
  }

  look(where: string, text: string): void {
    for (const [secret, name] of this.#texts) {
      if (!text.includes(secret)) continue;
      const what = `${name} stands in ${where}`;
      this.#found.set(what, { check: 'V14', what });
    }
  }

  get leaks(): readonly Leak[] {
    return [...this.#found.values()];
  }
}

/** Where the servers of Redis write; to be asked while all of them run. */
export async function storeDirs(rig: Rig): Promise<readonly string[]> {
  return await Promise.all(
    rig.servers.map(async (server) => {
      const [, dir = ''] = (await server.command('CONFIG', 'GET', 'dir')) as string[];
      return path.join(dir, 'appendonlydir');
    }),
  );
}

export async function lookEverywhere(rig: Rig, dirs: readonly string[], canaries: Canaries): Promise<void> {
  for (const process of rig.started) canaries.look(`the log of ${process.name}`, process.lines().join('\n'));
  for (const dir of dirs) {
    for (const file of await readdir(dir)) {
      canaries.look('what was written to Redis', await readFile(path.join(dir, file), 'latin1'));
    }
  }
}
