import { describe, expect, test } from 'vitest';
import { parseAddress } from './address.ts';

describe('an address', () => {
  test('holds code and kind as levels of their own, the dots of a kind as levels too', () => {
    const message = { code: 'cam-1', kind: 'alarm.MotionAlarmOn' };
    expect(parseAddress('lapi.events.{code}.{kind}', '.').of(message)).toBe('lapi.events.cam-1.alarm.MotionAlarmOn');
    expect(parseAddress('lapi/{code}/{kind}', '/').of(message)).toBe('lapi/cam-1/alarm/MotionAlarmOn');
    expect(parseAddress('all', '/').of(message)).toBe('all');
  });

  test('nothing that a device says adds a level, a wildcard or a blank', () => {
    const { of } = parseAddress('a.{code}.{kind}', '.');
    expect(of({ code: 'x.*.>', kind: 'a..b c.#+/$\r\nä' })).toBe('a.x____.a._.b_c._______');
    expect(of({ code: '', kind: '' })).toBe('a._._');
    expect(of({ code: '{kind}', kind: '{code}' })).toBe('a._kind_._code_');
    expect(of({ code: 'c'.repeat(500), kind: 'k'.repeat(500) })).toHaveLength(2 + 128 + 1 + 128);
  });

  test.each(['', 'a..b', 'a.>', 'a.*', 'a b', 'a.{id}', '.a', 'a.', 'ä', '{code', 'a'.repeat(201), 'a/b'])(
    'a template that is none is refused: %j',
    (template) => {
      expect(() => parseAddress(template, '.')).toThrow(RangeError);
    },
  );

  test('its prefix is what comes before the first placeholder', () => {
    expect(parseAddress('lapi.events.{code}.{kind}', '.').prefix).toBe('lapi.events');
    expect(parseAddress('{code}', '.').prefix).toBe('');
    expect(parseAddress('a.x{code}', '.').prefix).toBe('a');
    expect(parseAddress('a.b', '.').prefix).toBe('a.b');
  });
});
