/** Does anything grow? Least-squares slopes over the samples of a long run, after its warm-up and apart from faults. Pure.
 *
 *  A process that lives through the whole run has one line. An edge is restarted and takes and gives devices at every drain, so its line is drawn through the
 *  quiet stretches between faults: one slope, a level of its own per stretch. So is that of a Redis server, which a failover gives another part. The store is what the master holds, whoever that is.
 *  A line counts when it rests on enough time; a short run is shown and not judged. */

import type { ProcessSample, Sample } from './sample.ts';

export interface JudgeOptions {
  readonly warmUpMs: number;
  /** After a fault, until devices are spread and everything has come to rest. */
  readonly settleMs: number;
  /** Of samples that a line needs to be judged. */
  readonly leastMs: number;
}

export interface Line {
  readonly what: string;
  readonly unit: 'MiB' | '';
  readonly mean: number;
  readonly first: number;
  readonly last: number;
  readonly perHour: number;
  readonly percentPerHour: number;
  /** Of samples. */
  readonly minutes: number;
  /** What it may grow by in an hour, in its unit; undefined: shown only. */
  readonly bound: number | undefined;
  readonly verdict: 'flat' | 'grows' | 'too short' | 'shown';
}

interface Point {
  readonly group: string;
  readonly hours: number;
  readonly value: number;
}

const MiB = 2 ** 20;
const HOUR_MS = 3_600_000;
/** A share of the mean, and what may come and go by itself. */
const BOUNDS = {
  rss: { share: 0.01, least: 3 },
  fds: { share: 0.01, least: 5 },
  keys: { share: 0.01, least: 300 },
  data: { share: 0.01, least: 1 },
} as const;

export function judge(samples: readonly Sample[], options: JudgeOptions): Line[] {
  const calm = samples.filter(
    ({ atMs, weather, calmMs }) => atMs >= options.warmUpMs && weather === 'calm' && calmMs >= options.settleMs,
  );
  const names = new Map<string, ProcessSample>();
  for (const { processes } of calm) for (const process of processes) names.set(process.name, process);
  const lines: Line[] = [];
  for (const { name, role } of [...names.values()].sort((a, b) => (a.name < b.name ? -1 : 1))) {
    const pick = (value: (process: ProcessSample) => number | undefined): Point[] =>
      calm.flatMap(({ atMs, stretch, processes }) => {
        const process = processes.find((each) => each.name === name);
        const found = process === undefined ? undefined : value(process);
        if (process === undefined || found === undefined || Number.isNaN(found)) return [];
        const group = role === 'edge' || role === 'redis' ? `${process.pid} ${stretch}` : String(process.pid);
        return [{ group, hours: atMs / HOUR_MS, value: found }];
      });
    const isOurs = role === 'edge' || role === 'command';
    const rss = pick(({ rssBytes }) => rssBytes / MiB);
    lines.push(lineOf(`${name} resident`, 'MiB', rss, isOurs ? BOUNDS.rss : undefined, options));
    if (isOurs) {
      lines.push(
        lineOf(
          `${name} heap`,
          'MiB',
          pick(({ heapBytes }) => heapBytes && heapBytes / MiB),
          undefined,
          options,
        ),
      );
    }
    // Of an edge without those of its devices.
    const fds = pick((process) => process.fds - (process.sessions ?? 0));
    lines.push(lineOf(`${name} descriptors`, '', fds, role === 'harness' ? undefined : BOUNDS.fds, options));
  }
  const store = (value: (store: NonNullable<Sample['store']>) => number): Point[] =>
    calm.flatMap(({ atMs, store: sample }) =>
      sample === undefined ? [] : [{ group: 'store', hours: atMs / HOUR_MS, value: value(sample) }],
    );
  lines.push(
    lineOf(
      'store keys',
      '',
      store(({ keys }) => keys),
      BOUNDS.keys,
      options,
    ),
  );
  lines.push(
    lineOf(
      'store data',
      'MiB',
      store(({ dataBytes }) => dataBytes / MiB),
      BOUNDS.data,
      options,
    ),
  );
  lines.push(
    lineOf(
      'store clients',
      '',
      store(({ clients }) => clients),
      BOUNDS.fds,
      options,
    ),
  );
  return lines.filter(({ minutes }) => minutes > 0);
}

function lineOf(
  what: string,
  unit: Line['unit'],
  points: readonly Point[],
  bounds: { readonly share: number; readonly least: number } | undefined,
  { leastMs }: JudgeOptions,
): Line {
  const groups = new Map<string, Point[]>();
  for (const point of points) groups.set(point.group, [...(groups.get(point.group) ?? []), point]);
  const perHour = pooledSlope([...groups.values()]);
  const minutes = [...groups.values()].reduce((sum, group) => sum + spanOf(group) * 60, 0);
  const values = points.map(({ value }) => value);
  const mean = values.reduce((sum, value) => sum + value, 0) / Math.max(1, values.length);
  const third = Math.max(1, Math.floor(values.length / 3));
  const bound = bounds === undefined ? undefined : Math.max(bounds.least, bounds.share * mean);
  const grows = bound !== undefined && perHour > bound;
  const verdict = bound === undefined ? 'shown' : minutes * 60_000 < leastMs ? 'too short' : grows ? 'grows' : 'flat';
  return {
    what,
    unit,
    mean,
    first: medianOf(values.slice(0, third)),
    last: medianOf(values.slice(-third)),
    perHour,
    percentPerHour: mean === 0 ? 0 : (100 * perHour) / mean,
    minutes,
    bound,
    verdict,
  };
}

/** One slope through groups that have a level each. */
export function pooledSlope(groups: readonly (readonly Pick<Point, 'hours' | 'value'>[])[]): number {
  let [above, below] = [0, 0];
  for (const group of groups) {
    const hours = group.reduce((sum, point) => sum + point.hours, 0) / group.length;
    const value = group.reduce((sum, point) => sum + point.value, 0) / group.length;
    for (const point of group) {
      above += (point.hours - hours) * (point.value - value);
      below += (point.hours - hours) ** 2;
    }
  }
  return below === 0 ? 0 : above / below;
}

function spanOf(points: readonly Point[]): number {
  return (points.at(-1)?.hours ?? 0) - (points[0]?.hours ?? 0);
}

function medianOf(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[sorted.length >> 1] ?? Number.NaN;
}
