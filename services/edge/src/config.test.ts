import { randomBytes } from 'node:crypto';
import { ConfigError } from '@lapi-broker/runtime';
import { expect, test } from 'vitest';
import { readEdgeConfig } from './config.ts';

const KEYS = {
  LAPI_SECRET_KEY: randomBytes(32).toString('base64'),
  LAPI_NONCE_KEY: randomBytes(32).toString('base64'),
};

test('a certificate without its key, or a key without its certificate, is refused: the listener never falls back to plain (S8)', () => {
  for (const [given, missing] of [
    ['LAPI_DEVICE_TLS_CERT', 'LAPI_DEVICE_TLS_KEY'],
    ['LAPI_DEVICE_TLS_KEY', 'LAPI_DEVICE_TLS_CERT'],
  ] as const) {
    const read = () => readEdgeConfig({ ...KEYS, [given]: '/run/tls/file.pem' });
    expect(read).toThrow(ConfigError);
    expect(read).toThrow(`${missing} not set: required, because ${given} is set`);
  }
  expect(readEdgeConfig({ ...KEYS, LAPI_DEVICE_TLS_CERT: 'a', LAPI_DEVICE_TLS_KEY: 'b' }).LAPI_DEVICE_TLS_KEY).toBe(
    'b',
  );
});
