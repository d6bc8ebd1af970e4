import { ConfigError, describeConfig } from '@lapi-broker/runtime';
import { describe, expect, it } from 'vitest';
import { CommandSettings, readCommandConfig } from './config.ts';

const KEY = Buffer.alloc(32, 1).toString('base64');

function problemsOf(env: Record<string, string>): readonly string[] {
  try {
    readCommandConfig(env);
    return [];
  } catch (error) {
    if (error instanceof ConfigError) return error.problems.map((problem) => problem.variable);
    throw error;
  }
}

describe('settings', () => {
  it('need a master key and nothing else', () => {
    expect(problemsOf({})).toEqual(['LAPI_SECRET_KEY']);
    expect(readCommandConfig({ LAPI_SECRET_KEY: KEY })).toMatchObject({
      LAPI_API_HOST: '0.0.0.0',
      LAPI_API_PORT: 8080,
      LAPI_PROBE_PORT: 9080,
      LAPI_SHARDS: 16,
      LAPI_ALLOW_WEAK_SECRETS: false,
    });
  });

  it('are refused all together, each by its name', () => {
    const env = {
      LAPI_SECRET_KEY: 'short',
      LAPI_API_PORT: '70000',
      LAPI_SHARDS: '0',
      LAPI_LOG_LEVEL: 'loud',
      LAPI_PENDING_COMMANDS: 'x',
    };
    expect(new Set(problemsOf(env))).toEqual(new Set(Object.keys(env)));
  });

  it('take a guessable bootstrap key only where weak secrets are allowed', () => {
    const env = { LAPI_SECRET_KEY: KEY, LAPI_API_KEY: 'dev' };
    expect(problemsOf(env)).toEqual(['LAPI_API_KEY']);
    expect(problemsOf({ ...env, LAPI_ALLOW_WEAK_SECRETS: 'true' })).toEqual([]);
    expect(problemsOf({ ...env, LAPI_API_KEY: 'k'.repeat(32) })).toEqual([]);
  });

  it('never allow a largest body that could not pass', () => {
    expect(problemsOf({ LAPI_SECRET_KEY: KEY, LAPI_BODIES_BYTES: '1000000' })).toEqual(['LAPI_BODIES_BYTES']);
  });

  it('are each described, and secrets are marked as such', () => {
    const variables = describeConfig(CommandSettings);
    for (const { name, description } of variables) expect(description, name).toMatch(/\w/);
    expect(variables.filter((each) => each.secret).map((each) => each.name)).toEqual([
      'LAPI_SECRET_KEY',
      'LAPI_SECRET_KEY_PREVIOUS',
      'LAPI_API_KEY',
      'LAPI_SINK_NATS_URL',
      'LAPI_SINK_MQTT_URL',
      'LAPI_IMAGE_S3_SECRET_KEY',
    ]);
  });

  it('never show a secret in a problem', () => {
    const secret = 'not base64 but secret';
    let message = '';
    try {
      readCommandConfig({ LAPI_SECRET_KEY: secret });
    } catch (error) {
      message = String(error);
    }
    expect(message).toContain('LAPI_SECRET_KEY');
    expect(message).not.toContain(secret);
  });
});
