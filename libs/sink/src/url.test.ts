import { describe, expect, test } from 'vitest';
import { MQTT_URL, NATS_URL, parseSinkUrl } from './url.ts';

describe('the URL of a sink', () => {
  test('names hosts, and who we are', () => {
    expect(parseSinkUrl('nats://u:p%40:x@a,[::1]:4000,b.c:1', NATS_URL)).toEqual({
      scheme: 'nats',
      hosts: ['a:4222', '[::1]:4000', 'b.c:1'],
      username: 'u',
      password: 'p@:x',
    });
    expect(parseSinkUrl('tls://token@a:1', NATS_URL)).toMatchObject({ username: 'token', password: undefined });
    expect(parseSinkUrl('mqtts://a', MQTT_URL)).toMatchObject({ hosts: ['a:8883'], username: undefined });
  });

  test.each([
    '',
    'a',
    'nats://',
    'http://a',
    'mqtt://a,b',
    'mqtt://a:x',
    'mqtt://a b',
    'mqtt://%zz:secret@a',
    'mqtt://u:secret@a/x',
  ])('one that is none is refused, and never repeated: %j', (text) => {
    const parse = () => parseSinkUrl(text, MQTT_URL);
    expect(parse).toThrow(RangeError);
    expect(parse).not.toThrow(/secret/);
  });
});
