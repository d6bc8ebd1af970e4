import { expect, test } from 'vitest';
import type { DeviceCode } from '../id.ts';
import { keepaliveText, keepaliveTimeoutS, registerAckText, requestText, responseText } from './write.ts';

const NOTHING = new Uint8Array();

test('a request has the keys of 6.2 in their order', () => {
  expect(String(requestText({ url: '/LAPI/V1.0/System/DeviceInfo', method: 'GET', cseq: 17, data: NOTHING }))).toBe(
    '{"RequestURL":"/LAPI/V1.0/System/DeviceInfo","Method":"GET","Cseq":17,"Data":{}}',
  );
});

test('Data of a request is put in byte for byte, the URL is escaped (C1, E18)', () => {
  const data = Buffer.from('{"n":9007199254740993,"s":"密"}');
  const text = String(requestText({ url: '/LAPI/密?a="b"', method: 'PUT', cseq: 1, data }));
  expect(text).toBe(
    '{"RequestURL":"/LAPI/密?a=\\"b\\"","Method":"PUT","Cseq":1,"Data":{"n":9007199254740993,"s":"密"}}',
  );
});

test('an answer has the keys of 6.2 in their order', () => {
  const url = '/LAPI/V1.0/System/DeviceInfo';
  expect(String(responseText({ url, code: 0, cseq: '17', data: '{"DeviceName":"demo"}' }))).toBe(
    '{"ResponseURL":"/LAPI/V1.0/System/DeviceInfo","ResponseCode":0,"ResponseString":"Succeed","Cseq":17,"Data":{"DeviceName":"demo"}}',
  );
  expect(String(responseText({ url: '/x', code: 4, cseq: undefined }))).toBe(
    '{"ResponseURL":"/x","ResponseCode":4,"ResponseString":"Not Supported","Data":{}}',
  );
  expect(JSON.parse(String(responseText({ url: '/x', code: 0, cseq: '1', pacsCode: true })))).toMatchObject({
    Code: 0,
  });
});

test('a keepalive is answered as in section 7, with the Cseq token as it came (K1, K2, E12, L15)', () => {
  const url = '/LAPI/V1.0/System/UpServer/Keepalive';
  expect(String(keepaliveText(url, '3', 1735689600_999, 60))).toBe(
    '{"ResponseURL":"/LAPI/V1.0/System/UpServer/Keepalive","ResponseCode":0,"ResponseString":"Succeed","Cseq":3,"Data":{"Timestamp":1735689600,"Timeout":60}}',
  );
  for (const token of ['"3"', '9007199254740993']) {
    expect(String(keepaliveText(url, token, 0, 60))).toContain(`"Cseq":${token},`);
  }
  expect(String(keepaliveText(url, undefined, 0, 60))).not.toContain('Cseq');
});

test('keepalive jitter is fixed per device (K3, L15)', () => {
  const timeouts = ['1', '2', '3'].map((n) => keepaliveTimeoutS(`210235TEST000000000${n}` as DeviceCode, 60));
  expect(timeouts).toEqual([64, 55, 57]);
});

test('the acknowledgement is {"Cnonce","Resign"}; resign=none leaves the member out (A1, A6, L13)', () => {
  expect(String(registerAckText('zY9xW8vU7tS6rQ5p', 'UtUw='))).toBe('{"Cnonce":"zY9xW8vU7tS6rQ5p","Resign":"UtUw="}');
  expect(String(registerAckText('', undefined))).toBe('{"Cnonce":""}');
  expect(JSON.parse(String(registerAckText('"\\', 'x')))).toEqual({ Cnonce: '"\\', Resign: 'x' });
});
