import type { DeviceCode, EventRecord } from '@lapi-broker/protocol';
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import { record } from '../testing/event-record.ts';
import { type EventFilter, FILTER_LIMITS, type FilterTerms, parseFilter } from './filter.ts';
import { SubscriberIndex } from './subscriber-index.ts';

function filterOf(terms: FilterTerms): EventFilter {
  const parsed = parseFilter(terms);
  if (parsed.status === 'invalid') throw new Error(parsed.detail);
  return parsed.filter;
}

/** What the words of the API say, by regular expression. */
function matchesNaively(terms: FilterTerms, event: EventRecord): boolean {
  const any = (list: readonly string[] | undefined, text: string): boolean =>
    list === undefined ||
    list.length === 0 ||
    list.some((term) =>
      new RegExp(
        `^${term
          .split('*')
          .map((part) => part.replace(/[.+?^${}()|[\]\\]/g, '\\$&'))
          .join('.*')}$`,
        's',
      ).test(text),
    );
  const kinds = terms.kinds?.flatMap((term) => (term.endsWith('.*') ? [term, term.slice(0, -2)] : [term]));
  const tags = terms.tags ?? [];
  return (
    any(terms.devices, event.code) &&
    any(kinds, event.kind) &&
    (tags.length === 0 || event.tags.some((tag) => tags.includes(tag)))
  );
}

const deviceTerm = fc.constantFrom('a', 'b', 'ab', 'ba', 'a.b', '*', 'a*', '*b', 'a*b', 'a*b*a', '*a*', 'abab');
const kindTerm = fc.constantFrom(
  'alarm.On',
  'alarm.*',
  'alarm',
  'structure',
  'structure.*',
  '*',
  '*.On',
  'a*.On',
  'al*',
  'presence.*',
);
const terms: fc.Arbitrary<FilterTerms> = fc.record({
  devices: fc.array(deviceTerm, { maxLength: 3 }),
  kinds: fc.array(kindTerm, { maxLength: 3 }),
  tags: fc.array(fc.constantFrom('x', 'y', 'z'), { maxLength: 2 }),
});
const event: fc.Arbitrary<EventRecord> = fc
  .record({
    code: fc.constantFrom('a', 'b', 'ab', 'ba', 'aab', 'abab', 'aba', 'a.b') as fc.Arbitrary<DeviceCode>,
    kind: fc.constantFrom(
      'alarm.On',
      'alarm.Off',
      'alarm',
      'structure',
      'structure.face',
      'presence.online',
      'alarmed.On',
      '',
    ),
    tags: fc.array(fc.constantFrom('x', 'y', 'w'), { maxLength: 2 }),
  })
  .map(record);

describe('EventFilter', () => {
  it('matches exactly what its words say', () => {
    fc.assert(
      fc.property(terms, event, (words, each) => {
        expect(filterOf(words).matches(each)).toBe(matchesNaively(words, each));
      }),
      { numRuns: 3000 },
    );
  });

  it('takes `family.*` for the bare family too, and keeps case apart', () => {
    const filter = filterOf({ kinds: ['structure.*'] });
    expect(filter.matches(record({ kind: 'structure' }))).toBe(true);
    expect(filter.matches(record({ kind: 'structure.face' }))).toBe(true);
    expect(filter.matches(record({ kind: 'structured' }))).toBe(false);
    expect(filter.matches(record({ kind: 'Structure' }))).toBe(false);
  });

  it.each<[string, FilterTerms]>([
    ['a device with a slash', { devices: ['a/b'] }],
    ['a device that is too long', { devices: ['a'.repeat(65)] }],
    ['an empty device', { devices: [''] }],
    ['more stars than allowed', { devices: ['*a*a*a*a*'] }],
    ['a kind with a line break', { kinds: ['alarm\n'] }],
    ['a kind that is too long', { kinds: ['k'.repeat(FILTER_LIMITS.kindLength + 1)] }],
    ['a tag with a comma', { tags: ['a,b'] }],
    ['too many devices', { devices: Array.from({ length: FILTER_LIMITS.devices + 1 }, (_, i) => `d${i}`) }],
    ['too many patterns', { devices: Array.from({ length: FILTER_LIMITS.devicePatterns + 1 }, (_, i) => `d${i}*`) }],
    ['too many kinds', { kinds: Array.from({ length: 2 * FILTER_LIMITS.kinds + 1 }, (_, i) => `k${i}`) }],
    ['too many tags', { tags: Array.from({ length: FILTER_LIMITS.tags + 1 }, (_, i) => `t${i}`) }],
  ])('refuses %s', (_, words) => expect(parseFilter(words).status).toBe('invalid'));

  it('takes as many devices as allowed', () => {
    const devices = Array.from({ length: FILTER_LIMITS.devices }, (_, i) => `d${i}`);
    expect(filterOf({ devices }).exactDevices?.size).toBe(FILTER_LIMITS.devices);
  });
});

describe('SubscriberIndex', () => {
  it('visits every subscriber whose filter matches, each at most once, also after others left', () => {
    fc.assert(
      fc.property(
        fc.array(fc.tuple(terms, fc.boolean()), { maxLength: 20 }),
        fc.array(event, { minLength: 1, maxLength: 10 }),
        (all, events) => {
          const index = new SubscriberIndex<{ readonly filter: EventFilter }>();
          const subscribers = all.map(([words, stays]) => ({ filter: filterOf(words), words, stays }));
          for (const subscriber of subscribers) index.add(subscriber);
          for (const subscriber of subscribers) if (!subscriber.stays) index.remove(subscriber);
          for (const each of events) {
            const visited: unknown[] = [];
            index.visit(each, (subscriber) => visited.push(subscriber));
            expect(new Set(visited).size).toBe(visited.length);
            const wanted = subscribers.filter(({ words, stays }) => stays && matchesNaively(words, each));
            const matching = visited.filter((subscriber) =>
              (subscriber as { filter: EventFilter }).filter.matches(each),
            );
            expect(new Set(matching)).toEqual(new Set(wanted));
          }
        },
      ),
      { numRuns: 500 },
    );
  });

  it('does not visit subscribers of other devices or other families', () => {
    const index = new SubscriberIndex<{ readonly filter: EventFilter }>();
    for (let i = 0; i < 100; i++) index.add({ filter: filterOf({ devices: [`d${i}`] }) });
    for (let i = 0; i < 100; i++) index.add({ filter: filterOf({ kinds: [`family${i}.*`] }) });
    let visits = 0;
    index.visit(record({ code: 'd7' as DeviceCode, kind: 'family3.x' }), () => {
      visits += 1;
    });
    expect(visits).toBe(2);
  });
});
