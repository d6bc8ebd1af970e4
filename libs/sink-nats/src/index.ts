/** NATS JetStream as a sink of events. */

export { type NatsSinkOptions, openNatsSink } from './nats-sink.ts';
