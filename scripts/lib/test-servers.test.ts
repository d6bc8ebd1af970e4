/** Guards what tests accept as servers, and that their absence is told in words that help. */

import { expect, test } from 'vitest';
import { findTestServer, isUsable, testServerInstruction } from './test-servers.mjs';

test('NATS from 2.9, Mosquitto from 2.0, HAProxy from 2.4 and nft from 0.9 will do', () => {
  expect(isUsable('nats', 'nats-server: v2.9.10')).toBe(true);
  expect(isUsable('nats', 'nats-server: v2.11.4')).toBe(true);
  expect(isUsable('nats', 'nats-server: v2.1.2')).toBe(false);
  expect(isUsable('mosquitto', 'mosquitto version 2.0.11\n\nmosquitto is an MQTT v5.0/v3.1.1/v3.1 broker.')).toBe(true);
  expect(isUsable('mosquitto', 'mosquitto version 1.4.15 (build date …)')).toBe(false);
  expect(isUsable('mosquitto', 'error while loading shared libraries: libcjson.so.1')).toBe(false);
  expect(isUsable('haproxy', 'HAProxy version 2.6.12-1+deb12u4 2026/10/17 - https://haproxy.org/')).toBe(true);
  expect(isUsable('haproxy', 'HA-Proxy version 2.2.9-2+deb11u6 2023/12/02 - https://haproxy.org/')).toBe(false);
  expect(isUsable('nft', 'nftables v1.0.6 (Lester Gooch #5)')).toBe(true);
  expect(isUsable('nft', 'nftables v0.8.2 (Joe Btfsplk)')).toBe(false);
});

test('a program that is named but not there is not found', () => {
  expect(findTestServer('nats', { LAPI_NATS_SERVER: '/nowhere/nats-server' }, '/nowhere')).toBeUndefined();
});

test('what is missing is told with the command that helps', () => {
  expect(testServerInstruction(['nats', 'mosquitto'])).toBe(
    'nats-server ≥ 2.9 and mosquitto ≥ 2.0 not found, so what needs them is skipped. To run it: sudo apt-get install -y --no-install-recommends nats-server mosquitto',
  );
});
