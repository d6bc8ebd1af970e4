import { describe, expect, test } from 'vitest';
import { z } from 'zod';
import { acceptedBy, ConfigError, configHelp, describeConfig, readConfig, secret } from './config.ts';

const schema = z.object({
  PORT: z.coerce.number().int().min(1).max(65535).default(8080).describe('Port of the listener.'),
  REDIS_URL: z.string().min(1).describe('Where the state lives.'),
  MODE: z.enum(['fast', 'safe']).default('safe').describe('How careful to be.'),
  API_KEY: secret(z.string().min(12).describe('Key of the first platform.')),
  TAGS: z
    .string()
    .default('')
    .transform((text) => text.split(',').filter((tag) => tag !== ''))
    .describe('Tags of this node.'),
  NAME: z.string().optional().describe('Name of this node.'),
});

const complete = { REDIS_URL: 'redis://localhost', API_KEY: 'a-very-long-key' };

function problemsOf(env: Record<string, string | undefined>, of: z.ZodObject = schema): ConfigError {
  try {
    readConfig(of, env);
  } catch (error) {
    if (error instanceof ConfigError) return error;
    throw error;
  }
  throw new Error('accepted');
}

describe('reading', () => {
  test('values are typed, defaults filled in, variables of others ignored', () => {
    const config = readConfig(schema, { ...complete, PORT: '9000', TAGS: 'a,b', HOME: '/root' });
    const port: number = config.PORT;
    expect({ ...config, PORT: port }).toEqual({ ...complete, PORT: 9000, MODE: 'safe', TAGS: ['a', 'b'] });
  });

  test('the result cannot be changed, lists included', () => {
    const config = readConfig(schema, complete);
    expect(Object.isFrozen(config) && Object.isFrozen(config.TAGS)).toBe(true);
  });

  test('a variable set to nothing counts as not set', () => {
    expect(readConfig(schema, { ...complete, PORT: '' }).PORT).toBe(8080);
    expect(problemsOf({ ...complete, REDIS_URL: '' }).problems).toEqual([
      { variable: 'REDIS_URL', value: undefined, expectation: 'required' },
    ]);
  });

  test('all problems are reported together, with variable, value and expectation', () => {
    const { problems, message } = problemsOf({ PORT: '70000', MODE: 'quick', API_KEY: 'short' });
    expect(problems).toEqual([
      { variable: 'PORT', value: '70000', expectation: expect.stringContaining('65535') },
      { variable: 'REDIS_URL', value: undefined, expectation: 'required' },
      { variable: 'MODE', value: 'quick', expectation: expect.stringContaining('fast') },
      { variable: 'API_KEY', value: '***', expectation: expect.stringContaining('12') },
    ]);
    expect(message.split('\n')).toHaveLength(5);
    expect(message).toContain('PORT is "70000"');
    expect(message).toContain('REDIS_URL not set: required');
  });

  test('no secret and no credential of a URL reaches the error', () => {
    const of = z.object({
      TOKEN: secret(z.string().regex(/^tok-/)),
      INNER: secret(z.string().min(99)).optional(),
      URL: z.string().regex(/^rediss:/),
    });
    const error = problemsOf(
      { TOKEN: 'canary-one', INNER: 'canary-two', URL: 'redis://user:canary-three@host:1/0' },
      of,
    );
    expect(`${error.message}${JSON.stringify(error.problems)}${error.stack}`).not.toContain('canary');
    expect(error.problems).toHaveLength(3);
    expect(error.message).toContain('redis://***@host:1/0');
  });

  test('what is expected is said in words for people: range, choice, or the reason of the code that judges', () => {
    const of = z.object({
      COUNT: z.coerce.number().int().min(1).max(9),
      MODE: z.enum(['fast', 'safe']),
      KEY: z.base64(),
      FILE: z
        .string()
        .superRefine(
          acceptedBy((text) => {
            throw new Error(`cannot read ${text}`);
          }),
        )
        .optional(),
    });
    const wrong = problemsOf({ COUNT: 'x', MODE: 'quick', KEY: '!', FILE: '/nope' }, of).problems;
    expect(wrong.map(({ expectation }) => expectation)).toEqual([
      'must be integer 1…9',
      'must be one of fast, safe',
      'must be base64',
      'cannot read /nope',
    ]);
    expect(problemsOf({ COUNT: '0', MODE: 'fast', KEY: 'aaaa' }, of).problems[0]?.expectation).toBe(
      'must be integer 1…9',
    );
    expect(describeConfig(of).map(({ required }) => required)).toEqual([true, true, true, false]);
  });

  test('a rule over several variables is reported without a variable', () => {
    const of = z
      .object({ LOW: z.coerce.number(), HIGH: z.coerce.number() })
      .refine(({ LOW, HIGH }) => LOW < HIGH, 'LOW must be below HIGH');
    expect(problemsOf({ LOW: '2', HIGH: '1' }, of).problems).toEqual([
      { variable: '', value: undefined, expectation: 'LOW must be below HIGH' },
    ]);
  });
});

describe('describing', () => {
  test('name, description, default, secrecy, need and range of each variable, in order', () => {
    expect(describeConfig(schema)).toEqual([
      {
        name: 'PORT',
        description: 'Port of the listener.',
        default: '8080',
        secret: false,
        required: false,
        expects: 'integer 1…65535',
      },
      {
        name: 'REDIS_URL',
        description: 'Where the state lives.',
        default: '',
        secret: false,
        required: true,
        expects: '',
      },
      {
        name: 'MODE',
        description: 'How careful to be.',
        default: 'safe',
        secret: false,
        required: false,
        expects: 'one of fast, safe',
      },
      {
        name: 'API_KEY',
        description: 'Key of the first platform.',
        default: '',
        secret: true,
        required: true,
        expects: '',
      },
      { name: 'TAGS', description: 'Tags of this node.', default: '', secret: false, required: false, expects: '' },
      { name: 'NAME', description: 'Name of this node.', default: '', secret: false, required: false, expects: '' },
    ]);
  });

  test('marks are found below default, optional and transform, in any order', () => {
    const of = z.object({
      A: secret(z.string().describe('one')).default('canary'),
      B: z.string().describe('two').default('x').transform(Number),
      C: secret(z.string()).describe('three').optional(),
      D: z.stringbool().default(false).describe('four'),
    });
    expect(
      describeConfig(of).map(({ description, secret: hidden, default: value }) => [description, hidden, value]),
    ).toEqual([
      ['one', true, ''],
      ['two', false, 'x'],
      ['three', true, ''],
      ['four', false, 'false'],
    ]);
  });

  test('help names every variable with what it needs', () => {
    const help = configHelp('Usage: edge', schema);
    expect(help).toContain('Usage: edge');
    expect(help).toContain('PORT  (integer 1…65535; default 8080)\n      Port of the listener.');
    expect(help).toContain('API_KEY  (required; secret)');
  });
});
