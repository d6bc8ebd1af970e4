/** A copy of the scripts of the lanes for tests of the scripts themselves: they read the time from a key that the test sets, so that every
 *  moment can be met exactly; and one place may be damaged, to see whether anything notices. The caller removes the copy. */

import { mkdtemp, readdir, readFile, rm, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { pathToFileURL } from 'node:url';

const SCRIPTS = new URL('../redis/', import.meta.url);
const TIME = "redis.call('TIME')";
/** In the shard of the keys of the script, and answered like TIME: seconds and microseconds as texts. */
const TIME_FROM_KEY = "redis.call('HMGET', string.match(KEYS[1], '^[^{]*{[^}]*}:') .. 'testclock', 's', 'us')";

/** Where the copied scripts of a shard find their time. */
export function clockKey(shardPrefix: string): string {
  return `${shardPrefix}testclock`;
}

export function clockFields(ms: number): { s: string; us: string } {
  return { s: String(Math.floor(ms / 1000)), us: String((ms % 1000) * 1000) };
}

export interface Damage {
  readonly file: string;
  readonly from: string;
  readonly to: string;
}

export interface ScriptCopy {
  readonly folder: URL;
  remove(): Promise<void>;
}

/** Throws when the place to damage is not there exactly once: the list of damages is older than the scripts. */
export async function copyScripts(damage?: Damage): Promise<ScriptCopy> {
  const dir = await mkdtemp(path.join(tmpdir(), 'lapi-lane-'));
  let clocks = 0;
  for (const file of (await readdir(SCRIPTS)).filter((name) => name.endsWith('.lua'))) {
    let text = await readFile(new URL(file, SCRIPTS), 'utf8');
    if (file === damage?.file) {
      const places = text.split(damage.from).length - 1;
      if (places !== 1) throw new RangeError(`${file} has ${places} places "${damage.from}", not one`);
      text = text.replace(damage.from, () => damage.to);
    }
    clocks += text.split(TIME).length - 1;
    await writeFile(path.join(dir, file), text.replaceAll(TIME, TIME_FROM_KEY));
  }
  if (clocks === 0) throw new RangeError('no script reads the time');
  return { folder: pathToFileURL(`${dir}/`), remove: () => rm(dir, { recursive: true, force: true }) };
}
