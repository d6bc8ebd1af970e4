/** An MQTT 5 broker as a sink of events. */

export { type MqttSinkOptions, openMqttSink } from './mqtt-sink.ts';
