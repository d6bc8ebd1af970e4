import { afterEach, describe, expect, test } from 'vitest';
import { createMetrics } from './metric.ts';
import { createProbes, type Probes } from './probe.ts';

let probes: Probes | undefined;

afterEach(() => probes?.stop());

async function started(live: () => boolean, ready: () => true | string): Promise<(path: string) => Promise<Response>> {
  const metrics = createMetrics('edge');
  metrics.counter('lapi_any_total', 'Any.');
  probes = createProbes({ host: '127.0.0.1', port: 0, live, ready, metrics });
  await probes.start();
  const { port } = probes;
  return (path) => fetch(`http://127.0.0.1:${port}${path}`, { headers: { connection: 'close' } });
}

describe('probes', () => {
  test('alive and not ready are different answers: a draining process loses traffic, not its life', async () => {
    let verdict: true | string = true;
    const ask = await started(
      () => true,
      () => verdict,
    );
    expect((await ask('/readyz')).status).toBe(200);
    verdict = 'draining';
    const answer = await ask('/readyz');
    expect({ status: answer.status, type: answer.headers.get('content-type'), body: await answer.json() }).toEqual({
      status: 503,
      type: 'application/json',
      body: { status: 'unavailable', reason: 'draining' },
    });
    expect((await ask('/livez')).status).toBe(200);
  });

  test('not live is 503', async () => {
    const ask = await started(
      () => false,
      () => true,
    );
    expect((await ask('/livez')).status).toBe(503);
    expect((await ask('/readyz')).status).toBe(200);
  });

  test('metrics are in the Prometheus format', async () => {
    const ask = await started(
      () => true,
      () => true,
    );
    const answer = await ask('/metrics');
    expect(answer.headers.get('content-type')).toMatch(/^text\/plain/);
    expect(await answer.text()).toContain('lapi_any_total{service="edge"} 0');
  });

  test('nothing else is served', async () => {
    const ask = await started(
      () => true,
      () => true,
    );
    expect((await ask('/')).status).toBe(404);
  });

  test('start and stop are idempotent, and stop frees the port', async () => {
    const ask = await started(
      () => true,
      () => true,
    );
    await probes?.start();
    expect((await ask('/livez')).status).toBe(200);
    probes?.stop();
    probes?.stop();
    await expect(ask('/livez')).rejects.toThrow();
  });
});
