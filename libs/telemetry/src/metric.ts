/** Counters, gauges and histograms of a process, read by Prometheus. Only this package knows prom-client.
 *  Counters and gauges are plain numbers until they are scraped, because they sit on paths of a few microseconds.
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
    const series = new SeriesTable(labels);
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
    if (labels.length > 0) return { inc: (values: LabelValues<string>, by = 1) => series.add(values, by) };
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
    const series = new SeriesTable(labels);
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
        set: (values: LabelValues<string>, value: number) => series.set(values, value),
        inc: (values: LabelValues<string>, by = 1) => series.add(values, by),
        dec: (values: LabelValues<string>, by = 1) => series.add(values, -by),
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
    const prom = new PromHistogram({
      name,
      help,
      labelNames: [...labels],
      buckets: [...buckets],
      registers: [registry],
    });
    if (labels.length === 0) return { observe: (value: number) => prom.observe(value) };
    const series = new SeriesTable(labels);
    return { observe: (values: LabelValues<string>, value: number) => prom.observe(series.of(values).labels, value) };
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
    text: () => registry.metrics(),
    contentType: registry.contentType,
  };
}

interface Series {
  readonly labels: Record<string, string>;
  value: number;
}

/** The combinations of label values of one metric, at most MAX_SERIES and one for the rest. */
class SeriesTable {
  readonly #names: readonly string[];
  readonly #series = new Map<string, Series>();

  constructor(names: readonly string[]) {
    this.#names = names;
  }

  /** The one series of a metric without labels; exists from the start, so that it shows as 0. */
  only(): Series {
    return this.of({});
  }

  of(labels: LabelValues<string>): Series {
    const key = this.#keyOf(labels);
    return this.#series.get(key) ?? this.#create(key, labels);
  }

  add(labels: LabelValues<string>, by: number): void {
    this.of(labels).value += by;
  }

  set(labels: LabelValues<string>, value: number): void {
    this.of(labels).value = value;
  }

  all(): Iterable<Series> {
    return this.#series.values();
  }

  #keyOf(labels: LabelValues<string>): string {
    const [first] = this.#names;
    if (this.#names.length === 1 && first !== undefined) return labels[first] ?? '';
    return this.#names.map((name) => labels[name] ?? '').join('\u0000');
  }

  #create(key: string, labels: LabelValues<string>): Series {
    if (this.#series.size >= MAX_SERIES) {
      const overflow = Object.fromEntries(this.#names.map((name) => [name, 'overflow']));
      const overflowKey = this.#keyOf(overflow);
      const known = this.#series.get(overflowKey);
      if (known !== undefined) return known;
      return this.#insert(overflowKey, overflow);
    }
    return this.#insert(key, Object.fromEntries(this.#names.map((name) => [name, labels[name] ?? ''])));
  }

  #insert(key: string, labels: Record<string, string>): Series {
    const series = { labels, value: 0 };
    this.#series.set(key, series);
    return series;
  }
}
