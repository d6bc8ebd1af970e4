import fc from 'fast-check';
import { describe, expect, test } from 'vitest';
import { isSensitiveName, redact, redactFacts, redactText, redactUrl } from './redact.ts';

const CANARY = 'cAnArY7x';

const SENSITIVE = [
  'sign',
  'Sign',
  'Nonce',
  'Cnonce',
  'Resign',
  'PIN',
  'LoginName',
  'secret',
  'deviceSecret',
  'nextSecret',
  'token',
  'access_token',
  'authorization',
  'Proxy-Authorization',
  'apiKey',
  'api-key',
  'X-Api-Key',
  'nonceKey',
  'password',
  'cookie',
  'set-cookie',
];

describe('fields', () => {
  test.each(SENSITIVE)(
    '%s is censored at any depth, in lists and maps, whatever the type of its value (S5)',
    (name) => {
      const facts = {
        [name]: CANARY,
        deep: [{ inner: { [name]: { [CANARY]: CANARY } } }, new Map([[name, CANARY]])],
        number: { [name]: 123_454_321 },
      };
      const text = JSON.stringify(redactFacts(facts));
      expect(text).not.toContain(CANARY);
      expect(text).not.toContain('123454321');
      expect(facts.deep).toHaveLength(2);
    },
  );

  test.each(['code', 'signal', 'design', 'assigned', 'reason', 'nodeId', 'epoch', 'pinned', 'shard', 'key'])(
    '%s is an ordinary field',
    (name) => {
      expect(isSensitiveName(name)).toBe(false);
    },
  );

  test('bytes are never printed, long texts are cut, depth and width are bounded', () => {
    const wide = Object.fromEntries(Array.from({ length: 1000 }, (_, index) => [`f${index}`, index]));
    let deep: unknown = CANARY;
    for (let level = 0; level < 1000; level += 1) deep = { deep };
    const copy = redactFacts({
      image: Buffer.from(CANARY),
      base64: 'A'.repeat(100_000),
      wide,
      deep,
      list: Array.from({ length: 500 }).fill(1),
    });
    const text = JSON.stringify(copy);
    expect(text.length).toBeLessThan(10_000);
    expect(text).not.toContain(CANARY);
    expect(copy).toMatchObject({ image: '[8 bytes]' });
  });

  test('a circle ends', () => {
    const circle: Record<string, unknown> = { name: 'a' };
    circle.self = circle;
    expect(JSON.stringify(redact(circle))).toContain('[deep]');
  });

  test('a foreign __proto__ stays an ordinary key (S14)', () => {
    const copy = redactFacts(JSON.parse('{"__proto__": {"polluted": true}}') as Record<string, unknown>);
    expect(Object.keys(copy)).toEqual(['__proto__']);
    expect(Object.getPrototypeOf(copy)).toBe(Object.prototype);
  });

  test('an error keeps type, message, code, stack and causes, but not its secrets', () => {
    const cause = Object.assign(new Error('inner'), { code: 'ECONNREFUSED', token: CANARY });
    const copy = redact(Object.assign(new TypeError('outer', { cause }), { command: { args: ['a'], apiKey: CANARY } }));
    expect(copy).toMatchObject({
      type: 'TypeError',
      message: 'outer',
      command: { args: ['a'] },
      stack: expect.stringContaining('redact.test'),
      cause: { type: 'Error', message: 'inner', code: 'ECONNREFUSED' },
    });
    expect(JSON.stringify(copy)).not.toContain(CANARY);
  });

  test('what JSON cannot say does not break a line', () => {
    const facts = {
      big: 10n,
      fn: () => 1,
      symbol: Symbol('s'),
      date: new Date(Number.NaN),
      url: new URL('http://a/'),
      set: new Set([1]),
    };
    expect(JSON.parse(JSON.stringify(redactFacts(facts)))).toEqual({
      big: '10',
      date: null,
      url: 'http://a/',
      set: [1],
    });
  });
});

describe('URLs', () => {
  test('a Register URL keeps path and device, and loses Nonce, Cnonce, Sign (S5, T10)', () => {
    const url = `/LAPI/V1.0/System/UpServer/Register?Vendor=Uniview&DeviceType=NVR&DeviceCode=210235TEST0000000001&Algorithm=HMAC-SHA256&Nonce=${CANARY}&Cnonce=${CANARY}&Sign=${CANARY}%2F%3D`;
    expect(redactUrl(url)).toBe(
      '/LAPI/V1.0/System/UpServer/Register?Vendor=Uniview&DeviceType=NVR&DeviceCode=210235TEST0000000001&Algorithm=HMAC-SHA256&Nonce=[redacted]&Cnonce=[redacted]&Sign=[redacted]',
    );
  });

  test('only values of known harmless parameters are shown, whatever the case and the name', () => {
    for (const url of [
      `/r?sIgN=${CANARY}`,
      `/r?S%69gn=${CANARY}`,
      `/r?x=${CANARY}`,
      `/r?${CANARY}==`,
      `/r?Sign==${CANARY}`,
      `/r?a&&=${CANARY}`,
      `https://user:${CANARY}@host/p?code=1`,
      `redis://:${CANARY}@host:6379/0`,
    ]) {
      expect(redactUrl(url)).not.toContain(CANARY);
    }
  });

  test('a URL without query is unchanged, a huge one is cut', () => {
    expect(redactUrl('/v1/devices/a')).toBe('/v1/devices/a');
    expect(redactUrl(`/p?${'code=1&'.repeat(5000)}`).length).toBeLessThan(1100);
  });
});

describe('texts', () => {
  test.each([
    `GET /Register?DeviceCode=1&Nonce=${CANARY}&Sign=${CANARY} failed`,
    `body {"Cnonce":"${CANARY}","Resign" : "${CANARY}"}`,
    `body {\\"Sign\\":\\"${CANARY}\\"}`,
    `body {\\\\\\"Sign\\\\\\":\\\\\\"${CANARY}\\\\\\"}`,
    `{"PIN":"${CANARY}","LoginName":"${CANARY}"}`,
    `Authorization: Bearer ${CANARY}.${CANARY}`,
    `cannot reach rediss://default:${CANARY}@host:1/0`,
    `api_key=${CANARY}; token=${CANARY}`,
  ])('%s', (text) => {
    expect(redactText(text)).not.toContain(CANARY);
  });

  test('a JSON line stays valid JSON and keeps everything else', () => {
    fc.assert(
      fc.property(fc.string({ unit: fc.constantFrom('a', '"', '\\', '=', '&', ':', ' ', ',', '{', '\n') }), (noise) => {
        const line = JSON.stringify({
          event: 'x',
          noise,
          url: `?Sign=${CANARY}${noise}`,
          inner: JSON.stringify({ Sign: CANARY, noise }),
        });
        const redacted = redactText(line);
        expect(redacted).not.toContain(CANARY);
        expect(JSON.parse(redacted)).toMatchObject({ event: 'x' });
      }),
      { numRuns: 2000 },
    );
  });

  test('ordinary words are left alone', () => {
    const text =
      'session.opened signal=SIGTERM design=ok assigned=1 {"signal":"SIGTERM","reason":"nonce_expired"} ping=3';
    expect(redactText(text)).toBe(text);
  });
});
