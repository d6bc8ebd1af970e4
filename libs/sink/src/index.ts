/** The words that the command service and the optional packages for message brokers share. */

export { type Address, parseAddress, type Separator } from './address.ts';
export {
  SINK_DEADLINES,
  type Sink,
  type SinkConnection,
  type SinkDeadlines,
  type SinkMessage,
  type SinkResult,
} from './sink.ts';
export { MQTT_URL, NATS_URL, parseSinkUrl, type SinkUrl, type SinkUrlRules } from './url.ts';
