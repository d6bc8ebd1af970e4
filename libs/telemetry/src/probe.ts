/** The three questions a platform asks a process, on a port of their own (threat T20): `/livez` does it run, `/readyz` does it take
 *  work, `/metrics` what has it done. Alive and ready differ on purpose: a draining or cut-off process must lose traffic, not its life,
 *  so `live` should look at nothing but the process itself.
 *  503 carries the reason as JSON. Never on the device or API listener: no authentication here. */
import { createServer, type HeaderList, type RequestHandler, type Server } from '@lapi-broker/http';
import type { Part } from '@lapi-broker/runtime';
import type { Metrics } from './metric.ts';

export interface ProbeOptions {
  readonly host: string;
  /** 0 = any free port. */
  readonly port: number;
  /** Sent with /readyz as `Lapi-Node`, so that a node knows its own answer among those of its peers. */
  readonly nodeName?: string;
  readonly live: () => boolean;
  /** True, or why not. */
  readonly ready: () => true | string;
  readonly metrics: Metrics;
}

export interface Probes extends Part {
  start(): Promise<void>;
  stop(): void;
  /** The port listened on; the configured one before start(). */
  readonly port: number;
}

/** Put it first into the lifecycle: it then answers while the other parts start, drain and stop. */
export function createProbes({ host, port, nodeName, live, ready, metrics }: ProbeOptions): Probes {
  let server: Server | undefined;
  let starting: Promise<void> | undefined;

  const headers: HeaderList = [
    ['Content-Type', 'application/json'],
    ...(nodeName === undefined ? [] : [['Lapi-Node', nodeName] as const]),
  ];
  const answer =
    (judge: () => true | string): RequestHandler =>
    (_request, response) => {
      const verdict = judge();
      const body = verdict === true ? { status: 'ok' } : { status: 'unavailable', reason: verdict };
      response.send(verdict === true ? 200 : 503, headers, JSON.stringify(body));
    };

  const listen = async (): Promise<void> => {
    server = await createServer({ host, port })
      .route(
        'GET',
        '/livez',
        answer(() => live() || 'not live'),
      )
      .route('GET', '/readyz', answer(ready))
      .route('GET', '/metrics', async (_request, response) => {
        response.send(200, [['Content-Type', metrics.contentType]], await metrics.text());
      })
      .listen();
  };

  return {
    name: 'probes',
    get port() {
      return server?.port ?? port;
    },
    start: () => {
      starting ??= listen();
      return starting;
    },
    stop: () => {
      server?.close();
      server = undefined;
    },
  };
}
