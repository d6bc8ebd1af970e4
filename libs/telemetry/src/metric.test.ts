import { describe, expect, test } from 'vitest';
import { createMetrics } from './metric.ts';

function sample(text: string, name: string): string[] {
  return text.split('\n').filter((line) => line.startsWith(`${name}{`) || line.startsWith(`${name} `));
}

describe('metrics', () => {
  test('a counter without labels shows as 0 before its first use, then counts', async () => {
    const metrics = createMetrics('edge');
    const opened = metrics.counter('lapi_sessions_opened_total', 'Sessions opened.');
    expect(sample(await metrics.text(), 'lapi_sessions_opened_total')).toEqual([
      'lapi_sessions_opened_total{service="edge"} 0',
    ]);
    opened.inc();
    opened.inc(2);
    for (let scrape = 0; scrape < 2; scrape += 1) {
      expect(sample(await metrics.text(), 'lapi_sessions_opened_total')).toEqual([
        'lapi_sessions_opened_total{service="edge"} 3',
      ]);
    }
  });

  test('a counter with labels keeps one series per combination', async () => {
    const metrics = createMetrics('edge');
    const rejected = metrics.counter('lapi_rejected_total', 'Refusals.', ['reason', 'phase']);
    rejected.inc({ reason: 'bad_sign', phase: 'two' });
    rejected.inc({ phase: 'two', reason: 'bad_sign' }, 4);
    rejected.inc({ reason: 'bad', phase: '_signtwo' });
    expect(sample(await metrics.text(), 'lapi_rejected_total')).toEqual([
      'lapi_rejected_total{reason="bad_sign",phase="two",service="edge"} 5',
      'lapi_rejected_total{reason="bad",phase="_signtwo",service="edge"} 1',
    ]);
  });

  test('gauges are set, moved and observed', async () => {
    const metrics = createMetrics('edge');
    const inflight = metrics.gauge('lapi_inflight', 'In flight.');
    inflight.set(5);
    inflight.inc();
    inflight.dec(3);
    const state = metrics.gauge('lapi_state', 'State.', ['state']);
    state.set({ state: 'draining' }, 1);
    state.dec({ state: 'draining' });
    let sessions = 7;
    metrics.observed('lapi_sessions', 'Sessions.', () => sessions);
    sessions = 8;
    const text = await metrics.text();
    expect(sample(text, 'lapi_inflight')).toEqual(['lapi_inflight{service="edge"} 3']);
    expect(sample(text, 'lapi_state')).toEqual(['lapi_state{state="draining",service="edge"} 0']);
    expect(sample(text, 'lapi_sessions')).toEqual(['lapi_sessions{service="edge"} 8']);
  });

  test('histograms count into buckets, with and without labels', async () => {
    const metrics = createMetrics('edge');
    metrics.histogram('lapi_plain_seconds', 'Plain.').observe(0.003);
    metrics.histogram('lapi_bytes', 'Bytes.', ['direction'], [10, 100]).observe({ direction: 'up' }, 50);
    const text = await metrics.text();
    expect(text).toContain('lapi_plain_seconds_bucket{le="0.005",service="edge"} 1');
    expect(text).toContain('lapi_plain_seconds_bucket{le="0.0025",service="edge"} 0');
    expect(sample(text, 'lapi_bytes_bucket')).toEqual([
      'lapi_bytes_bucket{le="10",direction="up",service="edge"} 0',
      'lapi_bytes_bucket{le="100",direction="up",service="edge"} 1',
      'lapi_bytes_bucket{le="+Inf",direction="up",service="edge"} 1',
    ]);
    expect(sample(text, 'lapi_bytes_sum')).toEqual(['lapi_bytes_sum{direction="up",service="edge"} 50']);
    expect(sample(text, 'lapi_bytes_count')).toEqual(['lapi_bytes_count{direction="up",service="edge"} 1']);
    expect(sample(text, 'lapi_plain_seconds_count')).toEqual(['lapi_plain_seconds_count{service="edge"} 1']);
  });

  test('process and event-loop metrics are there, and the content type is that of Prometheus', async () => {
    const metrics = createMetrics('edge');
    const text = await metrics.text();
    for (const name of ['process_resident_memory_bytes', 'nodejs_eventloop_lag_seconds', 'process_open_fds'])
      expect(text).toContain(name);
    expect(metrics.contentType).toMatch(/^text\/plain/);
  });

  test('combinations of label values are bounded; further ones are counted under overflow (S14)', async () => {
    const metrics = createMetrics('edge');
    const flooded = metrics.counter('lapi_flooded_total', 'Flooded.', ['what']);
    for (let index = 0; index < 5000; index += 1) flooded.inc({ what: `v${index}` });
    const lines = sample(await metrics.text(), 'lapi_flooded_total');
    expect(lines).toHaveLength(1001);
    expect(lines.at(-1)).toBe('lapi_flooded_total{what="overflow",service="edge"} 4000');
  });

  test('a label value cannot forge a line (S14)', async () => {
    const metrics = createMetrics('edge');
    metrics.counter('lapi_hostile_total', 'Hostile.', ['what']).inc({ what: 'a"} 1\nforged_total 1\n\\' });
    expect(await metrics.text()).not.toMatch(/^forged_total/m);
  });

  test('two registries do not meet, and one name is used once', () => {
    const first = createMetrics('a');
    createMetrics('b').counter('lapi_same_total', 'Same.');
    first.counter('lapi_same_total', 'Same.');
    expect(() => first.counter('lapi_same_total', 'Again.')).toThrow();
  });
});
