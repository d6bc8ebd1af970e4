import { describe, expect, test } from 'vitest';
import { createLog, type Log, type LogLevel } from './log.ts';

const CANARY = 'cAnArY7x';

function capture(
  level: LogLevel = 'debug',
  base: Record<string, unknown> = {},
): { log: Log; text(): string; lines(): Record<string, unknown>[] } {
  const written: string[] = [];
  const log = createLog({ service: 'edge', level, base, destination: { write: (line) => void written.push(line) } });
  return {
    log,
    text: () => written.join(''),
    lines: () => written.map((line) => JSON.parse(line) as Record<string, unknown>),
  };
}

describe('log', () => {
  test('a line has level, time, service, event name and facts', () => {
    const { log, lines } = capture('info', { node: 'edge-1' });
    log.child({ code: 'D1' }).info({ epoch: 7 }, 'session.opened');
    log.debug({}, 'not written');
    expect(lines()).toEqual([
      {
        level: 'info',
        at: expect.stringMatching(/^\d{4}-\d\d-\d\dT[\d:.]+Z$/),
        service: 'edge',
        node: 'edge-1',
        code: 'D1',
        epoch: 7,
        event: 'session.opened',
      },
    ]);
  });

  test('no way of passing a secret to the log shows it (T10, S5)', () => {
    const { log, text, lines } = capture('debug', { deviceSecret: [CANARY] });
    const url = `/Register?DeviceCode=1&Nonce=${CANARY}&Cnonce=${CANARY}&Sign=${CANARY}`;
    log.info({ Sign: CANARY, headers: { authorization: `Bearer ${CANARY}` } }, 'fields');
    log.info({ a: { b: { c: [{ Nonce: CANARY }, { token: CANARY }] } } }, 'nested');
    log.child({ apiKey: CANARY, request: { secret: CANARY } }).info({}, 'child');
    log
      .child({ a: 1 })
      .child({ inner: { PIN: CANARY } })
      .info('grandchild');
    log
      .child({ secret: { current: CANARY }, image: Buffer.from(CANARY) })
      .info({}, 'child with values that are no text');
    log.info({ url, path: { target: url } }, 'url');
    log.info(`message with ${url}`);
    log.info({}, `event with ${url}`);
    log.info({ text: '%s' }, 'format %s', url);
    log.error(new Error(`failed at ${url}`));
    log.error(
      { err: new Error('outer', { cause: Object.assign(new Error(`inner ${url}`), { secret: CANARY }) }) },
      'error',
    );
    log.error({ error: new Error(`redis://x:${CANARY}@host`) }, 'other name');
    log.info({ body: JSON.stringify({ Cnonce: CANARY, Resign: CANARY }) }, 'json in text');
    log.info({ bytes: Buffer.from(CANARY), view: new Uint8Array(Buffer.from(CANARY)) }, 'bytes');
    log
      .child({})
      .child({ token: [CANARY] })
      .info({}, 'grandchild with values that are no text');
    log.setBindings({ Resign: { echo: CANARY } });
    log.info({}, 'bound later');
    expect(text()).not.toContain(CANARY);
    expect(text()).not.toContain(Buffer.from(CANARY).toString('base64'));
    expect(lines()).toHaveLength(16);
  });

  test('an error keeps message, stack and cause', () => {
    const { log, lines } = capture();
    log.error({ err: new Error('outer', { cause: new Error('inner') }) }, 'part.failed');
    expect(lines()[0]).toMatchObject({
      level: 'error',
      event: 'part.failed',
      err: { type: 'Error', message: 'outer', stack: expect.stringContaining('log.test'), cause: { message: 'inner' } },
    });
  });

  test('device text cannot forge a line (S14)', () => {
    const { log, text, lines } = capture();
    log.info({ vendor: 'x"}\n{"event":"forged"}\u2028\u001b[31m' }, 'session.opened');
    expect(text().trimEnd().split('\n')).toHaveLength(1);
    expect(lines()[0]).toMatchObject({ event: 'session.opened' });
    expect(text()).not.toContain('\u001b');
  });
});
