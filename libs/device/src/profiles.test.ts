import { expect, test } from 'vitest';
import { createProfiles } from './profiles.ts';

test('the defaults are those of the protocol (1.5, H3, A1, A4, V2, U1)', () => {
  expect(createProfiles().get('default')).toEqual({
    registerAck: 'frame',
    resign: 'echo',
    ackMode: 'afterStore',
    inflight: 8,
    waiting: 64,
    keepaliveTimeoutS: 60,
    firstRequestDelayMs: 2000,
    subscription: { body: { Duration: 600, Type: 0 }, renewBody: 'duration' },
    timeZone: 'UTC',
  });
});

test('the built-in profiles are there; cameras subscribe with Type 65535 (U1), radars get the wrapped challenge (H3)', () => {
  const profiles = createProfiles();
  expect([...profiles.keys()]).toEqual(['default', 'nvr', 'ipc', 'radar']);
  expect(profiles.get('ipc')?.subscription).toMatchObject({ body: { Duration: 600, Type: 65_535 } });
  expect(profiles.get('nvr')).toEqual(profiles.get('default'));
});

test('an override changes what it names; a new name starts from default, and default moves the others', () => {
  const profiles = createProfiles({
    default: { keepaliveTimeoutS: 30, inflight: 4 },
    ipc: { inflight: 1 },
    lobby: { subscription: 'off', timeZone: 'Europe/Berlin' },
  });
  expect(profiles.get('ipc')).toMatchObject({
    keepaliveTimeoutS: 30,
    inflight: 1,
    subscription: { body: { Type: 65_535 } },
  });
  expect(profiles.get('lobby')).toMatchObject({
    keepaliveTimeoutS: 30,
    inflight: 4,
    subscription: 'off',
    timeZone: 'Europe/Berlin',
  });
  expect(profiles.get('radar')).toMatchObject({ keepaliveTimeoutS: 30, registerAck: 'frame' });
});

test('a subscription body is passed as it is, and renewBody is duration unless said', () => {
  const body = { Duration: 3600, Type: 2080, SubscribeVehicleCondition: { Type: 124 }, List: [{ ID: '0' }] };
  expect(createProfiles({ radar: { subscription: { body } } }).get('radar')?.subscription).toEqual({
    body,
    renewBody: 'duration',
  });
});

test('everything that is wrong is named in one message', () => {
  const wrong = {
    nvr: { inflght: 4, inflight: 33, waiting: -1 },
    ipc: { subscription: { body: { Duration: 5 }, renew: 'full' } },
    radar: { timeZone: 'Mars/Olympus', subscription: 'on' },
    'a b': { ackMode: 'never' },
    lobby: [],
  };
  const run = (): unknown => createProfiles(wrong);
  for (const part of [
    'nvr: unknown member "inflght"',
    'nvr.inflight: ',
    'nvr.waiting: ',
    'ipc.subscription.body.Duration: ',
    'ipc.subscription: unknown member "renew"',
    'radar.timeZone: must be an IANA time zone',
    "radar.subscription: must be 'off' or",
    '"a b": a name has',
    'a b.ackMode: ',
    'lobby: ',
  ]) {
    expect(run).toThrow(part);
  }
  expect(run).toThrow(expect.objectContaining({ code: 'invalid_request' }) as Error);
});

test.each([[null], [[]], ['nvr'], [3]])('overrides that are no object are refused: %j', (overrides) => {
  expect(() => createProfiles(overrides)).toThrow(/must be a JSON object/);
});

test('names from Object.prototype are ordinary names (protocol S14)', () => {
  const profiles = createProfiles(JSON.parse('{"__proto__": {"inflight": 2}, "constructor": {"inflight": 3}}'));
  expect(profiles.get('__proto__')).toMatchObject({ inflight: 2, waiting: 64 });
  expect(profiles.get('constructor')).toMatchObject({ inflight: 3, waiting: 64 });
  expect(profiles.get('nvr')?.inflight).toBe(8);
});
