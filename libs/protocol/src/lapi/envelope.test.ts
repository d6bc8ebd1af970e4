import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  answerObject,
  type DeviceAnswer,
  type DeviceCall,
  type Envelope,
  looksUnmasked,
  readEnvelope,
} from './envelope.ts';
import { scanJson } from './scan.ts';

function read(text: string | Buffer): Envelope {
  return readEnvelope(typeof text === 'string' ? Buffer.from(text) : text);
}

function call(text: string | Buffer): DeviceCall {
  const envelope = read(text);
  if (envelope.type !== 'request') throw new Error(`${envelope.type}: ${text}`);
  return envelope;
}

function answer(text: string | Buffer): DeviceAnswer {
  const envelope = read(text);
  if (envelope.type !== 'response') throw new Error(`${envelope.type}: ${text}`);
  return envelope;
}

const REQUEST = '{"RequestURL":"/LAPI/V1.0/System/UpServer/Keepalive","Method":"PUT","Cseq":3,"Data":{}}';
const RESPONSE =
  '{"ResponseURL":"/LAPI/V1.0/System/DeviceInfo","ResponseCode":0,"ResponseString":"Succeed","Cseq":17,"Data":{"DeviceName":"demo"}}';

test('reads the request of 6.2', () => {
  const { data, ...rest } = call(REQUEST);
  expect(rest).toEqual({ type: 'request', url: '/LAPI/V1.0/System/UpServer/Keepalive', method: 'PUT', cseq: '3' });
  expect(String(data)).toBe('{}');
});

test('reads the response of 6.2', () => {
  const { data, text, cutStart, cutEnd, ...rest } = answer(RESPONSE);
  expect(rest).toEqual({
    type: 'response',
    url: '/LAPI/V1.0/System/DeviceInfo',
    cseq: 17,
    responseCode: 0,
    statusCode: undefined,
    success: true,
  });
  expect(String(data)).toBe('{"DeviceName":"demo"}');
  expect(String(answerObject({ text, cutStart, cutEnd }))).toBe(RESPONSE.replace('"Cseq":17,', ''));
});

test('classifies in the order of E9: answer without Method, then request, then stray', () => {
  expect(read('{"ResponseURL":"/a","RequestURL":"/b"}').type).toBe('response');
  expect(read('{"ResponseCode":0}').type).toBe('response');
  expect(read('{"ResponseURL":"/a","Method":"PUT","RequestURL":"/b"}').type).toBe('request');
  expect(read('{"ResponseURL":"/a","Method":"PUT"}').type).toBe('stray');
  expect(read('{"RequestURL":"/b"}').type).toBe('request');
  expect(read('{"RequestURL":5}').type).toBe('stray');
  expect(read('{"Cnonce":"x"}').type).toBe('stray');
  expect(read('{"ResponseURL":null,"RequestURL":"/b","Method":"GET"}').type).toBe('request');
  expect(read('{"ResponseURL":"/a","ResponseCode":0,"Method":null}').type).toBe('response');
  expect(read('[1]').type).toBe('stray');
  expect(read('7').type).toBe('stray');
});

test('Cseq of a request stays its raw token; object, array, boolean and null count as absent (E12, L15)', () => {
  const cseq = (token: string): string | undefined => call(`{"RequestURL":"/a","Cseq":${token}}`).cseq;
  for (const token of ['17', '"17"', '9007199254740993', '-1', '1.50', '1e3', '"a\\u0062\\"c"', '""', '"密"']) {
    expect(cseq(token)).toBe(token);
  }
  for (const token of ['{}', '[1]', 'true', 'false', 'null', `"${'1'.repeat(300)}"`])
    expect(cseq(token)).toBeUndefined();
  expect(call('{"RequestURL":"/a"}').cseq).toBeUndefined();
});

test('Cseq of an answer is our number, also as a string; anything else matches no call (6.3 row 2)', () => {
  const cseq = (token: string): number | undefined => answer(`{"ResponseCode":0,"Cseq":${token}}`).cseq;
  expect(cseq('17')).toBe(17);
  expect(cseq('"17"')).toBe(17);
  expect(cseq('17.0')).toBe(17);
  expect(cseq('2147483647')).toBe(2147483647);
  for (const token of [
    '2147483648',
    '9007199254740993',
    '1.5',
    '"0x11"',
    '"1e1"',
    '""',
    '" "',
    'null',
    '{}',
    'true',
    `0.${'0'.repeat(40)}1`,
  ]) {
    expect(cseq(token)).toBeUndefined();
  }
});

test('success is ResponseCode 0 with StatusCode absent or 0, as number or string; a missing code is not success (E17, L21)', () => {
  const success = (members: string): boolean => answer(`{"ResponseURL":"/a"${members}}`).success;
  for (const members of [
    '"ResponseCode":0',
    '"ResponseCode":"0"',
    '"ResponseCode":0,"StatusCode":0',
    '"ResponseCode":0,"StatusCode":"0"',
    '"ResponseCode":0,"StatusCode":null',
  ]) {
    expect(success(`,${members}`)).toBe(true);
  }
  for (const members of [
    '',
    ',"ResponseCode":1',
    ',"ResponseCode":0,"StatusCode":401',
    ',"ResponseCode":0,"StatusCode":"401"',
    ',"ResponseCode":null',
    ',"ResponseCode":"x"',
    ',"ResponseCode":0,"StatusCode":"x"',
    ',"StatusCode":0',
  ]) {
    expect(success(members)).toBe(false);
  }
});

test('codes outside 32 bits read as absent, never as another code', () => {
  expect(answer('{"ResponseCode":4294967296}')).toMatchObject({ responseCode: undefined, success: false });
  expect(answer('{"ResponseCode":"-5","StatusCode":401}')).toMatchObject({ responseCode: -5, statusCode: 401 });
});

test('Data: object as it came; null, "null", "" and absence are nothing; JSON inside a string is unpacked (6.3 row 1, L21)', () => {
  const data = (token: string): string | undefined => call(`{"RequestURL":"/a","Data":${token}}`).data?.toString();
  expect(data('{"a":1.50,"b":9007199254740993}')).toBe('{"a":1.50,"b":9007199254740993}');
  expect(data('{}')).toBe('{}');
  expect(data('[1]')).toBe('[1]');
  expect(data('null')).toBeUndefined();
  expect(data('"null"')).toBeUndefined();
  expect(data('""')).toBeUndefined();
  expect(data('"{\\"a\\":1}"')).toBe('{"a":1}');
  expect(data('" {\\n\\"a\\": [1]}\\r\\n"')).toBe('{ "a": [1]}');
  expect(data('"{broken"')).toBe('"{broken"');
  expect(data('"text"')).toBe('"text"');
  expect(call('{"RequestURL":"/a"}').data).toBeUndefined();
});

test('JSON inside a string is unpacked whatever stands before it: blanks, escapes of blanks, a BOM, escaped letters', () => {
  const data = (token: string): string | undefined => call(`{"RequestURL":"/a","Data":"${token}"}`).data?.toString();
  for (const before of ['', ' ', '\\n', '\\r\\t ', '\\u0020', '\\n\\u000a', '\ufeff', '\\ufeff']) {
    expect(data(`${before}[1]`), before).toBe('[1]');
    expect(data(`${before}null`), before).toBeUndefined();
  }
  expect(data('\\u005b1]')).toBe('[1]');
  expect(data('\\u006eull')).toBeUndefined();
  for (const none of ['\\"[1]', '\\\\[1]', '\\b[1]', 'x[1]', ' ', '\\n']) expect(data(none), none).toBe(`"${none}"`);
});

test('a string of megabytes that is no JSON inside is searched for its end and not decoded: the loop stalls no longer than for that', () => {
  const cpuMs = (work: () => void): number => {
    let least = Number.POSITIVE_INFINITY;
    for (let run = 0; run < 5; run++) {
      const before = process.threadCpuUsage();
      work();
      const { user, system } = process.threadCpuUsage(before);
      least = Math.min(least, (user + system) / 1_000);
    }
    return least;
  };
  for (const unit of ['\\"', '\\\\']) {
    const message = Buffer.from(`{"RequestURL":"/a","Data":"${unit.repeat(4 * 1024 * 1024)}"}`);
    // Decoded it would take three times as long.
    expect(cpuMs(() => void read(message)) / cpuMs(() => void scanJson(message)), unit).toBeLessThan(2);
  }
});

test('a wrapped answer is unwrapped one level, and its Cseq is found inside or beside the wrapper (6.3 row 3, L21)', () => {
  expect(String(answerObject(answer(`{"Response":${RESPONSE}}`)))).toBe(RESPONSE.replace('"Cseq":17,', ''));
  expect(answer(`{"Response":${RESPONSE}}`).cseq).toBe(17);
  const beside = answer('{"Cseq":5,"Response":{"ResponseURL":"/a","ResponseCode":0,"Data":{"x":1}}}');
  expect(beside).toMatchObject({ cseq: 5, success: true });
  expect(String(answerObject(beside))).toBe('{"ResponseURL":"/a","ResponseCode":0,"Data":{"x":1}}');
  expect(read('{"Response":{"Response":{"ResponseCode":0}}}').type).toBe('stray');
  expect(read('{"Response":{}}').type).toBe('stray');
  expect(answer('{"ResponseCode":2,"Response":{"ResponseCode":0}}').responseCode).toBe(2);
});

test('top-level names in other letter case are understood, exact spelling wins, nested names are left alone (6.3 row 4, L21)', () => {
  expect(call('{"requestURL":"/a","METHOD":"put","cseq":1,"data":{"x":1}}')).toMatchObject({
    url: '/a',
    method: 'put',
    cseq: '1',
  });
  expect(call('{"requesturl":"/wrong","RequestURL":"/right"}').url).toBe('/right');
  expect(read('{"Data":{"RequestURL":"/a"}}').type).toBe('stray');
});

test('BOM, trailing NUL, line breaks and blanks are stripped (6.3 row 5, L21)', () => {
  for (const around of ['\ufeff#', '#\0', '#\r\n', ' \t\r\n# \0\r\n\0', '\ufeff \n#\0\0']) {
    expect(answer(around.replace('#', () => RESPONSE)).success).toBe(true);
    expect(String(answerObject(answer(around.replace('#', () => '{"ResponseCode":0}'))))).toBe('{"ResponseCode":0}');
  }
  expect(read('\0{}').type).toBe('malformed');
  expect(read('').type).toBe('malformed');
  expect(read('\ufeff\0\n').type).toBe('malformed');
});

test('raw control characters inside strings are escaped and the message is read (6.3 row 5)', () => {
  const read = answer('{"ResponseCode":0,"ResponseString":"a\tb","Data":{"Name":"x\u0001\r\ny"}}');
  expect(JSON.parse(String(read.data))).toEqual({ Name: 'x\u0001\r\ny' });
  expect(JSON.parse(String(answerObject(read)))).toMatchObject({ ResponseString: 'a\tb' });
});

test('what leaves holds no byte below 0x20 and means the same, however the message is laid out', () => {
  const message = fc.record({ ResponseURL: fc.string(), ResponseCode: fc.nat(), Cseq: fc.nat(), Data: fc.jsonValue() });
  fc.assert(
    fc.property(message, fc.constantFrom(undefined, 2, '\t'), fc.boolean(), (value, layout, wrapped) => {
      const text = JSON.stringify(wrapped ? { Response: value } : value, undefined, layout);
      const read = answer(text.replaceAll('\n', '\r\n'));
      const { data } = read;
      const object = answerObject(read);
      const { Cseq: _, ...expected } = value;
      expect(JSON.parse(String(object))).toEqual(JSON.parse(JSON.stringify(expected)));
      for (const bytes of [object, data ?? Buffer.alloc(0)]) expect(bytes.some((byte) => byte < 0x20)).toBe(false);
    }),
    { numRuns: 500 },
  );
});

test('the broker’s own Cseq is taken out of the answer wherever it stands; all else stays byte for byte (E11, E18)', () => {
  const object = (text: string): string => String(answerObject(answer(text)));
  expect(object('{"Cseq":1,"ResponseCode":0}')).toBe('{"ResponseCode":0}');
  expect(object('{"ResponseCode":0,"Cseq":1}')).toBe('{"ResponseCode":0}');
  expect(object('{"ResponseCode":0 , "cseq" : "1" }')).toBe('{"ResponseCode":0 }');
  expect(object('{"ResponseCode":0, "Cseq": 1 , "Data":{"n":9007199254740993,"f":1.50,"Cseq":4}}')).toBe(
    '{"ResponseCode":0,  "Data":{"n":9007199254740993,"f":1.50,"Cseq":4}}',
  );
  expect(object('{"ResponseCode":0}')).toBe('{"ResponseCode":0}');
});

test('malformed text, nesting below 64, too many keys and endless URLs are told apart (E16)', () => {
  const reason = (text: string): string => {
    const envelope = read(text);
    return envelope.type === 'malformed' ? envelope.reason : envelope.type;
  };
  expect(reason('{"RequestURL":"/a"')).toBe('syntax');
  expect(reason('{"RequestURL":"/a\u0001\\\u0001"}')).toBe('syntax');
  expect(reason(`{"RequestURL":"/a","Data":${'['.repeat(64)}${']'.repeat(64)}}`)).toBe('too_deep');
  expect(reason(`{"RequestURL":"/a","Data":${'['.repeat(63)}${']'.repeat(63)}}`)).toBe('request');
  expect(reason(`{"RequestURL":"/a",${'"a":1,'.repeat(10_000)}"b":2}`)).toBe('too_many_keys');
  expect(reason(`{"RequestURL":"/${'a'.repeat(4095)}"}`)).toBe('request');
  expect(reason(`{"RequestURL":"/${'a'.repeat(4096)}"}`)).toBe('url_too_long');
});

test('an escaped URL is decoded, a foreign Method reads as empty', () => {
  expect(call('{"RequestURL":"\\/LAPI\\/V1.0\\/\\u5bc6","Method":7}')).toMatchObject({
    url: '/LAPI/V1.0/密',
    method: '',
  });
});

test('`__proto__` and `constructor` are ordinary members (S14)', () => {
  const text = '{"__proto__":{"Method":"GET"},"constructor":1,"ResponseCode":0}';
  expect(String(answerObject(answer(text)))).toBe(text);
});

test('never throws, whatever bytes come', () => {
  const bytes = fc.uint8Array({ maxLength: 80 }).map((array) => Buffer.from(array));
  const fragments = fc
    .array(
      fc.constantFrom(
        '{',
        '}',
        '"Cseq"',
        '"Response"',
        '"ResponseCode"',
        '"RequestURL"',
        ':',
        ',',
        '"/a"',
        '0',
        'null',
        '"',
        '\\',
        '\n',
        '\0',
      ),
      { maxLength: 14 },
    )
    .map((parts) => Buffer.from(parts.join('')));
  fc.assert(
    fc.property(fc.oneof(bytes, fragments), (message) => {
      readEnvelope(message);
      looksUnmasked(message);
    }),
    { numRuns: 5000 },
  );
});

test('text of an unmasked frame is recognised, masked text and JSON are not (E5, L24)', () => {
  const unmasked = (payload: string): Buffer => {
    const bytes = Buffer.from(payload);
    return Buffer.from(bytes.subarray(4).map((byte, i) => byte ^ (bytes[i & 3] as number)));
  };
  expect(looksUnmasked(unmasked(RESPONSE))).toBe(true);
  expect(looksUnmasked(unmasked(REQUEST))).toBe(true);
  expect(looksUnmasked(unmasked('{"Reference":"x"}'))).toBe(false);
  expect(looksUnmasked(Buffer.from(RESPONSE))).toBe(false);
  expect(looksUnmasked(unmasked(RESPONSE).subarray(0, 9))).toBe(false);
  expect(looksUnmasked(Buffer.alloc(0))).toBe(false);
});
