import fc from 'fast-check';
import { expect, it } from 'vitest';
import { withSource } from './call.ts';

const splice = (text: string): string => withSource(Buffer.from(text)).toString();

it("the device's bytes stay as they are and `source` is added (13.2)", () => {
  expect(splice('{"ResponseCode":0,"Data":{"Big":9007199254740993}}')).toBe(
    '{"ResponseCode":0,"Data":{"Big":9007199254740993},"source":"device"}',
  );
  expect(splice('{}')).toBe('{"source":"device"}');
  expect(splice(' { }\r\n')).toBe('{ "source":"device"}');
  expect(splice('{"a":1 }')).toBe('{"a":1 ,"source":"device"}');
});

it('a device that sends a `source` of its own cannot pass for the broker (S6)', () => {
  expect(JSON.parse(splice('{"source":"broker","error":"timeout"}')).source).toBe('device');
});

it('any object stays itself beside `source`', () => {
  fc.assert(
    fc.property(fc.dictionary(fc.string(), fc.jsonValue()), fc.constantFrom('', ' ', '\n'), (object, blank) => {
      const text = `${blank}${JSON.stringify(object)}${blank}`;
      expect(JSON.parse(splice(text))).toEqual({ ...JSON.parse(text), source: 'device' });
    }),
  );
});

it.each(['', ' ', '[]', '"x"', '{', 'null', '}'])('%j is not an answer of a node', (text) => {
  expect(() => splice(text)).toThrow('not one JSON object');
});
