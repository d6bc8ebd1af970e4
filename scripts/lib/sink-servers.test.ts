/** Guards what the tests of sinks accept as servers, and that their absence is told in words that help. */

import { expect, test } from 'vitest';
import { findSinkServer, isUsable, sinkInstruction } from './sink-servers.mjs';

test('NATS from 2.9 and Mosquitto from 2.0 will do', () => {
  expect(isUsable('nats', 'nats-server: v2.9.10')).toBe(true);
  expect(isUsable('nats', 'nats-server: v2.11.4')).toBe(true);
  expect(isUsable('nats', 'nats-server: v2.1.2')).toBe(false);
  expect(isUsable('mosquitto', 'mosquitto version 2.0.11\n\nmosquitto is an MQTT v5.0/v3.1.1/v3.1 broker.')).toBe(true);
  expect(isUsable('mosquitto', 'mosquitto version 1.4.15 (build date …)')).toBe(false);
  expect(isUsable('mosquitto', 'error while loading shared libraries: libcjson.so.1')).toBe(false);
});

test('a program that is named but not there is not found', () => {
  expect(findSinkServer('nats', { LAPI_NATS_SERVER: '/nowhere/nats-server' }, '/nowhere')).toBeUndefined();
});

test('what is missing is told with the command that helps', () => {
  expect(sinkInstruction(['nats', 'mosquitto'])).toBe(
    'nats-server ≥ 2.9 and mosquitto ≥ 2.0 not found, so tests of sinks are skipped. To run them: sudo apt-get install -y --no-install-recommends nats-server mosquitto',
  );
});
