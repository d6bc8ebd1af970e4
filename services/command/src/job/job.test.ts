import { type DeviceCode, isCommandId, shardOfCommand } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { expect, it } from 'vitest';
import { commandIdOf, decodeTarget, encodeTarget, TARGET_STATES, type TargetStatus } from './job.ts';
import { RateMeter } from './rate-meter.ts';

const code = (text: string): DeviceCode => text as DeviceCode;

it('what is kept of a target comes back as it was', () => {
  const optional = <T>(arbitrary: fc.Arbitrary<T>) => fc.option(arbitrary, { nil: undefined });
  const statuses = fc
    .record({
      state: fc.constantFrom(...TARGET_STATES),
      tries: fc.nat(100),
      reason: fc.constantFrom('', 'device_error', 'timeout', 'recalled'),
      executed: optional(fc.constantFrom('yes' as const, 'no' as const, 'maybe' as const)),
      startedAtMs: optional(fc.nat()),
      endedAtMs: optional(fc.nat()),
      responseCode: optional(fc.integer()),
    })
    .map((status) => Object.fromEntries(Object.entries(status).filter(([, value]) => value !== undefined)));
  fc.assert(
    fc.property(statuses, (status) => {
      // Object.fromEntries forgets the names of its members.
      expect(decodeTarget(encodeTarget(status as unknown as TargetStatus))).toEqual(status);
    }),
  );
  expect(decodeTarget('')).toBeUndefined();
  expect(decodeTarget('nonsense,1,,,,,')).toBeUndefined();
});

it('the command of a try has one id, in the shard of its device, and no other try has it', () => {
  const id = commandIdOf('job1', code('A'), 1, 7);
  expect(isCommandId(id)).toBe(true);
  expect(shardOfCommand(id)).toBe(7);
  expect(commandIdOf('job1', code('A'), 1, 7)).toBe(id);
  const others = [
    commandIdOf('job1', code('A'), 2, 7),
    commandIdOf('job1', code('B'), 1, 7),
    commandIdOf('job2', code('A'), 1, 7),
  ];
  expect(new Set([id, ...others]).size).toBe(4);
});

it('the rate is that of the last seconds', () => {
  const meter = new RateMeter();
  expect(meter.perSecond(0)).toBe(0);
  for (let ms = 0; ms <= 30_000; ms += 100) meter.add(ms < 15_000 ? 1 : 5, ms);
  expect(meter.perSecond(30_000)).toBeGreaterThan(45);
  expect(meter.perSecond(30_000)).toBeLessThan(55);
});
