export { createLog, type Log, type LogLevel, type LogOptions } from './log.ts';
export { type Counter, createMetrics, type Gauge, type Histogram, type Metrics } from './metric.ts';
export { createProbes, type ProbeOptions, type Probes } from './probe.ts';
export { CENSORED, isSensitiveName, redactText, redactUrl } from './redact.ts';
