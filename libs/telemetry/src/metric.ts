/** Counters, gauges and histograms of a process, read by Prometheus. Only this package knows prom-client.
 *  Values are plain numbers until they are scraped, because they sit on paths of a few microseconds; prom-client formats them.
 *  Label names are typed. Label values must come from closed sets of our own: a DeviceCode or a device's text is never one
 *  (protocol S14). As a second line, one metric holds at most 1,000 combinations; further ones are counted under `overflow`. */
import {
  collectDefaultMetrics,
  Counter as PromCounter,
  Gauge as PromGauge,
  Histogram as PromHistogram,
  Registry,
} from 'prom-client';

export type LabelValues<L extends string> = Readonly<Record<L, string>>;

export type Counter<L extends string = never> = [L] extends [never]
  ? { inc(by?: number): void }
  : { inc(labels: LabelValues<L>, by?: number): void };

export type Gauge<L extends string = never> = [L] extends [never]
  ? { set(value: number): void; inc(by?: number): void; dec(by?: number): void }
  : {
      set(labels: LabelValues<L>, value: number): void;
      inc(labels: LabelValues<L>, by?: number): void;
      dec(labels: LabelValues<L>, by?: number): void;
    };

export type Histogram<L extends string = never> = [L] extends [never]
  ? { observe(value: number): void }
  : { observe(labels: LabelValues<L>, value: number): void };

/** Names are full metric names in base units: `lapi_edge_sessions`, `lapi_command_duration_seconds`, `…_total` for counters. */
export interface Metrics {
  counter(name: string, help: string): Counter;
  counter<const L extends string>(name: string, help: string, labels: readonly L[]): Counter<L>;
  gauge(name: string, help: string): Gauge;
  gauge<const L extends string>(name: string, help: string, labels: readonly L[]): Gauge<L>;
  /** A gauge whose value is asked for at each scrape. */
  observed(name: string, help: string, read: () => number): void;
  /** One gauge with a value for each of what is there at the scrape; what is not there any more shows nothing. */
  observedEach<const L extends string>(
    name: string,
    help: string,
    labels: readonly L[],
    read: () => Iterable<readonly [labels: LabelValues<L>, value: number]>,
  ): void;
  /** `buckets`: upper bounds; when absent, seconds from 0.5 ms to 60 s. */
  histogram(name: string, help: string, labels?: readonly [], buckets?: readonly number[]): Histogram;
  histogram<const L extends string>(
    name: string,
    help: string,
    labels: readonly L[],
    buckets?: readonly number[],
  ): Histogram<L>;
  /** All metrics in the Prometheus text format, process and event-loop metrics included. */
  text(): Promise<string>;
  readonly contentType: string;
}

const MAX_SERIES = 1000;
const SECONDS = [0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60];

/** One registry per call, so tests and several services in one process do not meet. */
export function createMetrics(service: string): Metrics {
  const registry = new Registry();
  registry.setDefaultLabels({ service });
  collectDefaultMetrics({ register: registry });

  // The overloads of Metrics cannot be expressed on an object literal without naming each implementation signature.
  function counter(name: string, help: string): Counter;
  function counter<L extends string>(name: string, help: string, labels: readonly L[]): Counter<L>;
  function counter(name: string, help: string, labels: readonly string[] = []): Counter | Counter<string> {
    const series = new SeriesTable(labels, scalar);
    new PromCounter({
      name,
      help,
      labelNames: [...labels],
      registers: [registry],
      collect() {
        this.reset();
        for (const { labels: values, value } of series.all()) this.inc(values, value);
      },
    });
    if (labels.length > 0) {
      return {
        inc: (values: LabelValues<string>, by = 1) => {
          series.of(values).value += by;
        },
      };
    }
    const only = series.only();
    return {
      inc: (by = 1) => {
        only.value += by;
      },
    };
  }

  function gauge(name: string, help: string): Gauge;
  function gauge<L extends string>(name: string, help: string, labels: readonly L[]): Gauge<L>;
  function gauge(name: string, help: string, labels: readonly string[] = []): Gauge | Gauge<string> {
    const series = new SeriesTable(labels, scalar);
    new PromGauge({
      name,
      help,
      labelNames: [...labels],
      registers: [registry],
      collect() {
        this.reset();
        for (const { labels: values, value } of series.all()) this.set(values, value);
      },
    });
    if (labels.length > 0) {
      return {
        set: (values: LabelValues<string>, value: number) => {
          series.of(values).value = value;
        },
        inc: (values: LabelValues<string>, by = 1) => {
          series.of(values).value += by;
        },
        dec: (values: LabelValues<string>, by = 1) => {
          series.of(values).value -= by;
        },
      };
    }
    const only = series.only();
    return {
      set: (value: number) => {
        only.value = value;
      },
      inc: (by = 1) => {
        only.value += by;
      },
      dec: (by = 1) => {
        only.value -= by;
      },
    };
  }

  function histogram(name: string, help: string, labels?: readonly [], buckets?: readonly number[]): Histogram;
  function histogram<L extends string>(
    name: string,
    help: string,
    labels: readonly L[],
    buckets?: readonly number[],
  ): Histogram<L>;
  function histogram(
    name: string,
    help: string,
    labels: readonly string[] = [],
    buckets: readonly number[] = SECONDS,
  ): Histogram | Histogram<string> {
    const bounds = [...buckets];
    const series = new SeriesTable(labels, (values): Distribution => {
      return { labels: values, counts: new Array<number>(bounds.length + 1).fill(0), sum: 0 };
    });
    const prom = new PromHistogram({ name, help, labelNames: [...labels], buckets: bounds, registers: [registry] });
    const read = async (): Promise<PromSamples> => {
      return {
        name,
        help,
        type: 'histogram',
        aggregator: 'sum',
        values: [...series.all()].flatMap((each) => samplesOf(name, bounds, each)),
      };
    };
    // The registry asks for the first, its JSON form for the second.
    Object.assign(prom, { getForPromString: read, get: read });
    if (labels.length > 0) {
      return { observe: (values: LabelValues<string>, value: number) => observe(series.of(values), bounds, value) };
    }
    const only = series.only();
    return { observe: (value: number) => observe(only, bounds, value) };
  }

  return {
    counter,
    gauge,
    histogram,
    observed(name, help, read) {
      new PromGauge({
        name,
        help,
        registers: [registry],
        collect() {
          this.set(read());
        },
      });
    },
    observedEach(name, help, labels, read) {
      new PromGauge({
        name,
        help,
        labelNames: [...labels],
        registers: [registry],
        collect() {
          this.reset();
          let series = 0;
          for (const [values, value] of read()) {
            if (++series > MAX_SERIES) return;
            this.set(values, value);
          }
        },
      });
    },
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}

interface Series {
  readonly labels: Record<string, string>;
}

interface Scalar extends Series {
  value: number;
}

interface Distribution extends Series {
  /** Per bucket, not cumulative; the last one is beyond all bounds. */
  readonly counts: number[];
  sum: number;
}

function scalar(labels: Record<string, string>): Scalar {
  return { labels, value: 0 };
}

function observe(series: Distribution, bounds: readonly number[], value: number): void {
  let bucket = 0;
  while (bucket < bounds.length && value > (bounds[bucket] ?? 0)) bucket += 1;
  series.counts[bucket] = (series.counts[bucket] ?? 0) + 1;
  series.sum += value;
}

interface PromSample {
  readonly metricName: string;
  readonly labels: Record<string, string | number>;
  readonly value: number;
}

/** What prom-client wants of a metric when it is scraped. */
interface PromSamples {
  readonly name: string;
  readonly help: string;
  readonly type: 'histogram';
  readonly aggregator: 'sum';
  readonly values: readonly PromSample[];
}

function samplesOf(name: string, bounds: readonly number[], { labels, counts, sum }: Distribution): PromSample[] {
  let total = 0;
  const samples = counts.map((count, bucket): PromSample => {
    total += count;
    return { metricName: `${name}_bucket`, labels: { le: bounds[bucket] ?? '+Inf', ...labels }, value: total };
  });
  samples.push(
    { metricName: `${name}_sum`, labels, value: sum },
    { metricName: `${name}_count`, labels, value: total },
  );
  return samples;
}

/** By the value of the first label, then of the second …; at the end the series. */
type Branch<S> = Map<string, Branch<S> | S>;

/** The combinations of label values of one metric, at most MAX_SERIES and one for the rest. A look-up makes no string: it happens several
 *  times for every command. */
class SeriesTable<S extends Series> {
  readonly #names: readonly string[];
  readonly #empty: (labels: Record<string, string>) => S;
  readonly #root: Branch<S> = new Map();
  readonly #all: S[] = [];
  #overflow: S | undefined;

  constructor(names: readonly string[], empty: (labels: Record<string, string>) => S) {
    this.#names = names;
    this.#empty = empty;
  }

  /** The one series of a metric without labels; exists from the start, so that it shows as 0. */
  only(): S {
    return this.#insert({});
  }

  of(labels: LabelValues<string>): S {
    let found: Branch<S> | S | undefined = this.#root;
    for (const name of this.#names) {
      found = (found as Branch<S>).get(labels[name] ?? '');
      if (found === undefined) return this.#create(labels);
    }
    return found as S;
  }

  all(): Iterable<S> {
    return this.#all;
  }

  #create(labels: LabelValues<string>): S {
    if (this.#all.length >= MAX_SERIES) {
      this.#overflow ??= this.#insert(Object.fromEntries(this.#names.map((name) => [name, 'overflow'])));
      return this.#overflow;
    }
    const series = this.#insert(Object.fromEntries(this.#names.map((name) => [name, labels[name] ?? ''])));
    let branch = this.#root;
    for (const [i, name] of this.#names.entries()) {
      const value = labels[name] ?? '';
      if (i === this.#names.length - 1) {
        branch.set(value, series);
        break;
      }
      let next = branch.get(value) as Branch<S> | undefined;
      if (next === undefined) {
        next = new Map();
        branch.set(value, next);
      }
      branch = next;
    }
    return series;
  }

  #insert(labels: Record<string, string>): S {
    const series = this.#empty(labels);
    this.#all.push(series);
    return series;
  }
}
