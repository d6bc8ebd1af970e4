/** The named sets of what differs between kinds of devices (protocol 1.3), with the defaults and ranges of protocol 1.5.
 *  Operators override them by one JSON object: profile name → members to change. A new name starts from `default`. What is unknown or out of
 *  range is refused, all of it in one message, because a silently ignored setting shows only when a device misbehaves. */

import { BrokerError } from '@lapi-broker/protocol';
import { z } from 'zod';

const timeZone = z.string().refine(isTimeZone, 'must be an IANA time zone such as Europe/Berlin');

const subscription = z.union(
  [
    z.literal('off'),
    z.strictObject({
      /** `Data` of the create request; `Duration` is what a renewal repeats. */
      body: z.object({ Duration: z.int().min(30).max(3600) }).catchall(z.json()),
      renewBody: z.enum(['duration', 'full']).default('duration'),
    }),
  ],
  { error: "must be 'off' or an object with body and, if wanted, renewBody" },
);

const profile = z.strictObject({
  /** First message after the 101 (A1, A2). */
  registerAck: z.enum(['frame', 'none']),
  /** What the acknowledgement proves (A4–A6). */
  resign: z.enum(['echo', 'cnonce', 'none']),
  /** Answer an event after it is stored, or at once (V2). */
  ackMode: z.enum(['afterStore', 'immediate']),
  /** Calls outstanding at the device (C3). */
  inflight: z.int().min(1).max(32),
  /** Calls waiting behind them (C3). */
  waiting: z.int().min(0).max(1024),
  /** `Timeout` told to the device, before its jitter (K3). */
  keepaliveTimeoutS: z.int().min(10).max(300),
  /** No request to the device earlier than this after the 101 (C2). */
  firstRequestDelayMs: z.int().min(1000).max(10_000),
  /** Event subscription of each session (U1–U3). */
  subscription,
  /** For times in answers to PersonVerification (11.3, Q10). */
  timeZone,
});

export type Profile = Readonly<z.infer<typeof profile>>;
export type Subscription = Profile['subscription'];
/** By name; `default`, `nvr`, `ipc` and `radar` are always there. */
export type Profiles = ReadonlyMap<string, Profile>;

const DEFAULT: Profile = {
  registerAck: 'frame',
  resign: 'echo',
  ackMode: 'afterStore',
  inflight: 8,
  waiting: 64,
  keepaliveTimeoutS: 60,
  firstRequestDelayMs: 2000,
  subscription: { body: { Duration: 600, Type: 0 }, renewBody: 'duration' },
  timeZone: 'UTC',
};

/** What the built-in profiles change of `default`. */
const BUILT_IN: Readonly<Record<string, Partial<Profile>>> = {
  nvr: {},
  // Everything is 65535 for cameras, where it is 0 for recorders (10.2).
  ipc: { subscription: { body: { Duration: 600, Type: 65_535 }, renewBody: 'duration' } },
  radar: {},
};

const NAME = /^[A-Za-z0-9._-]{1,64}$/;

/** `overrides` as it came out of JSON.parse. Overriding `default` moves every profile that does not say otherwise. */
export function createProfiles(overrides: unknown = {}): Profiles {
  const changes = parse(overrides);
  const base: Profile = { ...DEFAULT, ...changes.get('default') };
  const names = new Set(['default', ...Object.keys(BUILT_IN), ...changes.keys()]);
  return new Map([...names].map((name) => [name, Object.freeze({ ...base, ...builtIn(name), ...changes.get(name) })]));
}

function builtIn(name: string): Partial<Profile> {
  return Object.hasOwn(BUILT_IN, name) ? (BUILT_IN[name] ?? {}) : {};
}

function parse(overrides: unknown): Map<string, Partial<Profile>> {
  if (typeof overrides !== 'object' || overrides === null || Array.isArray(overrides)) {
    throw new BrokerError('invalid_request', 'profiles: must be a JSON object of profile name → settings');
  }
  const changes = new Map<string, Partial<Profile>>();
  const problems: string[] = [];
  for (const [name, value] of Object.entries(overrides)) {
    if (!NAME.test(name))
      problems.push(`${JSON.stringify(name.slice(0, 80))}: a name has 1 to 64 letters, digits, '.', '_', '-'`);
    const result = profile.partial().safeParse(value);
    if (result.success) changes.set(name, definedOnly(result.data));
    else problems.push(...result.error.issues.flatMap((issue) => describe(issue, [name])));
  }
  if (problems.length > 0) throw new BrokerError('invalid_request', `profiles: ${problems.join('; ')}`);
  return changes;
}

function describe(issue: z.core.$ZodIssue, parents: readonly PropertyKey[]): readonly string[] {
  const path = [...parents, ...issue.path];
  const where = path.map(String).join('.');
  if (issue.code === 'unrecognized_keys')
    return issue.keys.map((key) => `${where}: unknown member ${JSON.stringify(key)}`);
  // The last form of a union is its object; what is wrong inside it says more than "no form fits".
  const inside = issue.code === 'invalid_union' ? (issue.errors.at(-1) ?? []) : [];
  const deeper = inside.filter((each) => each.path.length > 0 || each.code === 'unrecognized_keys');
  return deeper.length > 0 ? deeper.flatMap((each) => describe(each, path)) : [`${where}: ${issue.message}`];
}

/** JSON holds no undefined; this tells the compiler. */
function definedOnly(value: { readonly [K in keyof Profile]?: Profile[K] | undefined }): Partial<Profile> {
  return Object.fromEntries(Object.entries(value).filter(([, member]) => member !== undefined));
}

function isTimeZone(name: string): boolean {
  try {
    new Intl.DateTimeFormat('en', { timeZone: name });
    return true;
  } catch {
    return false; // RangeError: unknown to this runtime.
  }
}
