/** Puts together the pumps of all sinks that are configured. The packages that speak to message brokers are optional: one is loaded only when a
 *  sink needs it, and when it is not there the process does not start, and says what to install. */

import type { LifecycleLog, Part } from '@lapi-broker/runtime';
import type { Sink } from '@lapi-broker/sink';
import type { Metrics } from '@lapi-broker/telemetry';
import { type SinkLimits, type SinkMeter, SinkPump, type SinkPumpParts } from './sink-pump.ts';
import type { SinkSettings } from './sink-settings.ts';

export interface SinkWiring {
  readonly sinks: readonly SinkSettings[];
  readonly groups: SinkPumpParts['groups'];
  readonly metrics: Metrics;
  readonly log: Pick<LifecycleLog, 'info' | 'warn'>;
  readonly monotonicMs: () => number;
  readonly random: () => number;
  readonly limits?: Partial<SinkLimits>;
}

/** To start after the groups. */
export function createSinks({ sinks, metrics, ...rest }: SinkWiring): readonly Part[] {
  if (sinks.length === 0) return [];
  const meterOf = createSinkMeters(metrics);
  return sinks.map((settings) => sinkPart(settings, { ...rest, meter: meterOf(settings.name) }));
}

type PumpWiring = Omit<SinkWiring, 'sinks' | 'metrics'> & { readonly meter: SinkMeter };

function sinkPart(settings: SinkSettings, wiring: PumpWiring): Part {
  let pump: SinkPump | undefined;
  return {
    name: `sink ${settings.name}`,
    start: async () => {
      const { name, filter, from } = settings;
      pump = new SinkPump({ ...wiring, sinkName: name, filter, start: { from }, sink: await openSink(settings) });
      pump.start();
    },
    drain: () => pump?.drain(),
    stop: () => pump?.stop(),
  };
}

export async function openSink(settings: SinkSettings, load: LoadPackage = loadPackage): Promise<Sink> {
  const { type, address } = settings;
  if (type === 'nats') {
    const { openNatsSink } = await load('@lapi-broker/sink-nats', () => import('@lapi-broker/sink-nats'));
    return openNatsSink({ ...settings, subject: address });
  }
  const { openMqttSink } = await load('@lapi-broker/sink-mqtt', () => import('@lapi-broker/sink-mqtt'));
  return openMqttSink({ ...settings, topic: address });
}

type LoadPackage = <Module>(name: string, load: () => Promise<Module>) => Promise<Module>;

/** Also when it is there and what it stands on is not. */
export const loadPackage: LoadPackage = async (name, load) => {
  try {
    return await load();
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    if (code !== 'ERR_MODULE_NOT_FOUND' && code !== 'MODULE_NOT_FOUND') throw error;
    throw new Error(
      `A sink needs the optional package ${name}, which is not installed here. Run npm ci without --omit=optional, or: npm install ${name}`,
      { cause: error },
    );
  }
};

function createSinkMeters(metrics: Metrics): (sink: string) => SinkMeter {
  const messages = metrics.counter('lapi_sink_messages_total', 'Messages given to message brokers, by their answer.', [
    'sink',
    'result',
  ]);
  const seconds = metrics.histogram('lapi_sink_publish_seconds', 'Until a broker has answered a batch.', ['sink']);
  const connected = metrics.gauge('lapi_sink_connected', 'Whether this process has a connection to the broker.', [
    'sink',
  ]);
  const failures = metrics.counter(
    'lapi_sink_store_failures_total',
    'Events that could not be fetched or settled for a sink because Redis failed; counted per batch.',
    ['sink'],
  );
  return (sink) => ({
    published(results, ms) {
      for (const result of results) messages.inc({ sink, result });
      seconds.observe({ sink }, ms / 1000);
    },
    connected: (yes) => connected.set({ sink }, yes ? 1 : 0),
    storeFailed: () => failures.inc({ sink }),
  });
}
