/** Turns environment variables into one frozen, typed object, and describes every variable for `--help` and the docs.
 *  The schema is a zod object whose keys are the variable names; only variables named there are looked at.
 *  All problems are reported together, before anything opens. Values of secrets, and credentials inside URLs, never reach a message.
 *  A variable set to the empty string counts as not set: compose files and charts pass `X=` for "no value".
 *  Reading `process.env` is the caller's business (one `config.ts` per service); this file gets it as a parameter. */
import { z } from 'zod';

export interface ConfigProblem {
  readonly variable: string;
  /** What was found, masked for secrets; undefined when the variable was not set. */
  readonly value: string | undefined;
  /** What would have been right. */
  readonly expectation: string;
}

export interface ConfigVariable {
  readonly name: string;
  readonly description: string;
  /** As it would be written in the environment; empty when there is none. */
  readonly default: string;
  readonly secret: boolean;
  /** Must be set: neither a default nor optional. */
  readonly required: boolean;
  /** Type and range in a few words; empty when the schema does not say. */
  readonly expects: string;
}

const MASK = '***';

/** The configuration is wrong; the message lists every problem, one line each. */
export class ConfigError extends Error {
  readonly problems: readonly ConfigProblem[];

  constructor(problems: readonly ConfigProblem[]) {
    super(`configuration refused:\n${problems.map((problem) => `  ${problemLine(problem)}`).join('\n')}`);
    this.name = 'ConfigError';
    this.problems = problems;
  }
}

function problemLine({ variable, value, expectation }: ConfigProblem): string {
  const found = value === undefined ? 'not set' : `is ${JSON.stringify(value)}`;
  return variable === '' ? expectation : `${variable} ${found}: ${expectation}`;
}

/** Marks a variable as secret: its value is masked in errors and its default is not shown. */
export function secret<S extends z.ZodType>(schema: S): S {
  return schema.meta({ ...schema.meta(), secret: true });
}

/** For a text that other code knows how to judge: `.superRefine(acceptedBy(parse))`. What `judge` throws becomes the expectation. */
export function acceptedBy(judge: (text: string) => unknown): (text: string, context: z.RefinementCtx) => void {
  return (text, context) => {
    try {
      judge(text);
    } catch (error) {
      context.addIssue({ code: 'custom', message: error instanceof Error ? error.message : String(error) });
    }
  };
}

/** Throws ConfigError with all problems. The result is frozen, arrays and nested objects included. */
export function readConfig<S extends z.ZodObject>(
  schema: S,
  env: Readonly<Record<string, string | undefined>>,
): Readonly<z.output<S>> {
  const given: Record<string, string> = {};
  for (const name of Object.keys(schema.shape)) {
    const value = env[name];
    if (value !== undefined && value !== '') given[name] = value;
  }
  const result = schema.safeParse(given);
  if (result.success) return deepFreeze(result.data);
  throw new ConfigError(result.error.issues.map((issue) => problemOf(schema, given, issue)));
}

function problemOf(schema: z.ZodObject, given: Record<string, string>, issue: z.core.$ZodIssue): ConfigProblem {
  const variable = typeof issue.path[0] === 'string' ? issue.path[0] : '';
  const field = schema.shape[variable] as z.ZodType | undefined;
  const value = given[variable];
  if (value === undefined && field !== undefined && issue.code === 'invalid_type') {
    const expects = expectationOf(field);
    return { variable, value, expectation: `required${expects === '' ? '' : `, ${expects}`}` };
  }
  return { variable, value: masked(value, field), expectation: masked(wordsOf(issue, field), undefined) ?? '' };
}

/** The library's own words speak of its types; ours of what may be written in the variable. */
function wordsOf(issue: z.core.$ZodIssue, field: z.ZodType | undefined): string {
  if (field === undefined || !/^(?:Invalid|Too )/.test(issue.message)) return issue.message;
  const expects = expectationOf(field);
  return expects === '' ? issue.message : `must be ${expects}`;
}

function masked(value: string | undefined, field: z.ZodType | undefined): string | undefined {
  if (value === undefined) return undefined;
  if (field !== undefined && metaOf(field, 'secret') === true) return MASK;
  return value.replace(/:\/\/[^\s/@]*@/g, `://${MASK}@`);
}

/** One entry per variable, in the order of the schema. */
export function describeConfig(schema: z.ZodObject): readonly ConfigVariable[] {
  return Object.entries(schema.shape).map(([name, field]) => {
    const type = field as z.ZodType;
    const isSecret = metaOf(type, 'secret') === true;
    const description = metaOf(type, 'description');
    const withoutValue = type.safeParse(undefined);
    return {
      name,
      description: typeof description === 'string' ? description : '',
      default: isSecret ? '' : defaultText(type),
      secret: isSecret,
      required: !withoutValue.success,
      expects: expectationOf(type),
    };
  });
}

/** The text of `--help`: usage line, then one block per variable. */
export function configHelp(usage: string, schema: z.ZodObject): string {
  const blocks = describeConfig(schema).map((variable) => {
    const notes = [
      variable.required ? 'required' : '',
      variable.expects,
      variable.default === '' ? '' : `default ${variable.default}`,
      variable.secret ? 'secret' : '',
    ].filter((note) => note !== '');
    return `  ${variable.name}${notes.length === 0 ? '' : `  (${notes.join('; ')})`}\n      ${variable.description}`;
  });
  return `${usage}\n\nEnvironment:\n${blocks.join('\n')}\n`;
}

/** A wrapper (default, optional, pipe) hides what its inner schema was marked with, so all layers are asked, outermost first. */
function metaOf(schema: z.ZodType, key: string): unknown {
  for (const layer of layers(schema)) {
    const value = layer.meta()?.[key];
    if (value !== undefined) return value;
  }
  return undefined;
}

function layers(schema: z.ZodType): z.ZodType[] {
  const found: z.ZodType[] = [];
  let layer: unknown = schema;
  // Real schemas nest a handful deep; the bound keeps a recursive one from spinning.
  while (layer instanceof z.ZodType && found.length < 16) {
    found.push(layer);
    const definition = layer.def as { innerType?: unknown; in?: unknown };
    layer = definition.innerType ?? definition.in;
  }
  return found;
}

function defaultText(schema: z.ZodType): string {
  for (const layer of layers(schema)) {
    if (!(layer instanceof z.ZodDefault || layer instanceof z.ZodPrefault)) continue;
    const value: unknown = layer.def.defaultValue;
    if (Array.isArray(value)) return value.join(',');
    if (value === undefined || value === null) return '';
    return typeof value === 'object' ? JSON.stringify(value) : String(value);
  }
  return '';
}

function expectationOf(schema: z.ZodType): string {
  const json = z.toJSONSchema(schema, { io: 'input', unrepresentable: 'any' });
  if (Array.isArray(json.enum)) return `one of ${json.enum.join(', ')}`;
  const { type, minimum, maximum } = json;
  if (type === 'integer' || type === 'number') {
    const low = typeof minimum === 'number' && minimum > Number.MIN_SAFE_INTEGER ? String(minimum) : '';
    const high = typeof maximum === 'number' && maximum < Number.MAX_SAFE_INTEGER ? String(maximum) : '';
    return low === '' && high === '' ? type : `${type} ${low}…${high}`;
  }
  return typeof json.format === 'string' ? json.format : '';
}

function deepFreeze<T>(value: T): T {
  if (Array.isArray(value) || (typeof value === 'object' && value !== null && isPlain(value))) {
    for (const inner of Object.values(value)) deepFreeze(inner);
    Object.freeze(value);
  }
  return value;
}

function isPlain(value: object): boolean {
  const prototype: unknown = Object.getPrototypeOf(value);
  return prototype === Object.prototype || prototype === null;
}
