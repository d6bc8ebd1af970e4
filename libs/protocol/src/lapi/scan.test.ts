import fc from 'fast-check';
import { expect, test } from 'vitest';
import {
  decodeString,
  findMembers,
  JSON_DEPTH,
  JSON_KEYS,
  MemberNames,
  type Members,
  scanJson,
  tidyJson,
} from './scan.ts';

function parses(bytes: Buffer): boolean {
  try {
    JSON.parse(bytes.toString());
    return true;
  } catch {
    return false;
  }
}

function accepts(bytes: Buffer): boolean {
  return scanJson(bytes).status === 'ok';
}

const layouts = fc.constantFrom(undefined, 1, '\t', ' ');
const jsonText = fc
  .tuple(fc.jsonValue({ maxDepth: 6 }), layouts)
  .map(([value, layout]) => Buffer.from(JSON.stringify(value, undefined, layout)));

test('accepts every text that JSON.stringify writes', () => {
  fc.assert(
    fc.property(jsonText, (text) => accepts(text)),
    { numRuns: 500 },
  );
});

test('accepts exactly what JSON.parse accepts, also after bytes were changed, cut out or put in', () => {
  const change = fc.record({
    at: fc.nat(),
    kind: fc.constantFrom('set', 'cut', 'insert', 'end'),
    byte: fc.oneof(
      fc.constantFrom(...Buffer.from('{}[]:,"\\ntrue0123.eE+-u \n\t\0')),
      fc.integer({ min: 0, max: 255 }),
    ),
  });
  fc.assert(
    fc.property(jsonText, fc.array(change, { minLength: 1, maxLength: 4 }), (text, changes) => {
      let bytes = text;
      for (const { at, kind, byte } of changes) {
        const place = bytes.length === 0 ? 0 : at % bytes.length;
        const middle = kind === 'cut' || kind === 'end' ? [] : [byte];
        const rest = kind === 'end' ? [] : bytes.subarray(kind === 'insert' ? place : place + 1);
        bytes = Buffer.from([...bytes.subarray(0, place), ...middle, ...rest]);
      }
      expect(accepts(bytes)).toBe(parses(bytes));
    }),
    { numRuns: 4000 },
  );
});

test('accepts exactly what JSON.parse accepts of texts made of JSON fragments', () => {
  const fragment = fc.constantFrom(
    ...[
      '{',
      '}',
      '[',
      ']',
      ',',
      ':',
      '"a"',
      '""',
      '"\\u00e9"',
      '"\\u00g9"',
      '"\\x"',
      '"\n"',
      '0',
      '-',
      '01',
      '1.',
      '.5',
    ],
    ...[
      '1e',
      '1E+5',
      '-0',
      '2.50',
      'true',
      'tru',
      'null',
      'nulll',
      'false',
      ' ',
      '\n',
      '\r\n',
      '\t',
      '\v',
      '\ufeff',
      'é',
    ],
  );
  fc.assert(
    fc.property(fc.array(fragment, { maxLength: 7 }), (parts) => {
      const bytes = Buffer.from(parts.join(''));
      expect(accepts(bytes)).toBe(parses(bytes));
    }),
    { numRuns: 5000 },
  );
});

test.each([
  ...[
    '{"a":1,}',
    '[1,]',
    '[,1]',
    '[1 2]',
    '{"a" 1}',
    '{"a":}',
    '{"a":1 "b":2}',
    '{,}',
    '{"a":1]',
    '[1}',
    '{1:1}',
    '{"a"}',
  ],
  ...[
    '{}{}',
    '[]]',
    '1 2',
    '',
    ' ',
    '"a',
    '"a\\',
    '"\\u12',
    '{"a":1',
    '[',
    '-',
    '+1',
    '1.e1',
    '.1',
    '01',
    '-01',
    'NaN',
    'nul',
    "'a'",
  ],
  ...['{}', '[]', '[{}]', ' 1 ', '-0.0e-0', '"\\ud800"', '{"":{}}', '{"a":1,"a":2}', '[[],[]]', 'null', '1E400'],
])('agrees with JSON.parse on %j', (text) => {
  expect(accepts(Buffer.from(text))).toBe(parses(Buffer.from(text)));
});

test('64 nested containers are accepted, 65 are too deep, and a million do not overflow the stack (E16)', () => {
  const nested = (depth: number): Buffer => Buffer.from('['.repeat(depth) + ']'.repeat(depth));
  expect(scanJson(nested(JSON_DEPTH)).status).toBe('ok');
  expect(scanJson(nested(JSON_DEPTH + 1)).status).toBe('too_deep');
  expect(scanJson(Buffer.from('[{"a":'.repeat(500_000))).status).toBe('too_deep');
});

test('10,000 keys are accepted, one more is refused, wherever they stand', () => {
  const objects = (keys: number): Buffer => Buffer.from(JSON.stringify(Array.from({ length: keys }, () => ({ a: 1 }))));
  expect(scanJson(objects(JSON_KEYS)).status).toBe('ok');
  expect(scanJson(objects(JSON_KEYS + 1)).status).toBe('too_many_keys');
  expect(scanJson(Buffer.from('{"a":{"b":1}}'), undefined, 1).status).toBe('too_many_keys');
});

test('a raw control character is found at every place of a long string, at every alignment', () => {
  const backing = Buffer.alloc(600);
  for (let offset = 0; offset < 8; offset++) {
    for (let place = 0; place < 300; place++) {
      const text = backing.subarray(offset, offset + 302).fill('A');
      text[0] = 0x22;
      text[301] = 0x22;
      expect(scanJson(text).status).toBe('ok');
      text[1 + place] = 0x1f;
      expect(scanJson(text).status).toBe('control_in_string');
      text[1 + place] = 0x80 + (place % 128);
      expect(scanJson(text).status).toBe('ok');
    }
  }
});

test('escapes far inside long strings are checked and passed over', () => {
  const long = 'A'.repeat(500);
  for (const [inside, status] of [
    ['\\"', 'ok'],
    ['\\\\', 'ok'],
    ['\\u00e9', 'ok'],
    ['\\u00g9', 'syntax'],
    ['\\', 'syntax'],
    ['\\x', 'syntax'],
  ] as const) {
    expect(scanJson(Buffer.from(`["${long}${inside}${long}"]`)).status).toBe(inside === '\\' ? 'syntax' : status);
  }
});

test('hostile text costs the same per byte as honest text', () => {
  const size = 12 * 1024 * 1024;
  const far = 'x'.repeat(100);
  const texts = [
    `"${`${far}\\n`.repeat(size / 102)}"`,
    `"${'\\"'.repeat(size / 2)}"`,
    `"${`${far}\\"`.repeat(size / 102)}`,
    `[${`"${far}",`.repeat(size / 103)}1]`,
    `"${'\\\\'.repeat(size / 2)}"`,
  ].map((text) => Buffer.from(text));
  let scanMs = 0;
  let parseMs = 0;
  for (const text of texts) {
    const message = Buffer.concat([Buffer.from('{"a":'), text, Buffer.from('}')]);
    const started = performance.now();
    if (scanJson(message).status === 'ok') findMembers(message, 0, MIXED);
    const scanned = performance.now();
    parses(message);
    scanMs += scanned - started;
    parseMs += performance.now() - scanned;
  }
  // Linear work takes about as long as JSON.parse; searching the far end once per escape takes 50 times as long and more.
  expect(scanMs).toBeLessThan(10 * parseMs);
}, 120_000);

const MIXED = new MemberNames(['Data', 'Cseq', 'TimeStamp'], 'folded');

function texts(bytes: Buffer, members: Members): (string | undefined)[] {
  return members.map((member) => (member === undefined ? undefined : bytes.toString('utf8', member.start, member.end)));
}

function scanned(text: string, names = MIXED): (string | undefined)[] {
  const bytes = Buffer.from(text);
  const scan = scanJson(bytes, names);
  return scan.status === 'ok' ? texts(bytes, scan.members) : [];
}

test('member ranges cover the raw value, whatever its kind and the blanks around it', () => {
  expect(scanned('{"Data":{"Cseq":5},"Cseq" : 9007199254740993 ,"TimeStamp":"a\\"}"}')).toEqual([
    '{"Cseq":5}',
    '9007199254740993',
    '"a\\"}"',
  ]);
  expect(scanned(' { "Data" : [ 1 , 2 ] } ')).toEqual(['[ 1 , 2 ]', undefined, undefined]);
  expect(scanned('[{"Data":1}]')).toEqual([undefined, undefined, undefined]);
  expect(scanned('{}')).toEqual([undefined, undefined, undefined]);
});

test('names match in any letter case, the exact spelling wins, of equals the last one, escaped names count (6.3 row 4)', () => {
  expect(scanned('{"cseq":1,"CSEQ":2}')[1]).toBe('2');
  expect(scanned('{"Cseq":1,"cseq":2}')[1]).toBe('1');
  expect(scanned('{"cseq":1,"Cseq":2}')[1]).toBe('2');
  expect(scanned('{"Cseq":1,"Cseq":2}')[1]).toBe('2');
  expect(scanned('{"Cs\\u0065q":3}')[1]).toBe('3');
  expect(scanned('{"cs\\u0065q":1,"Cseq":2,"c\\u0073eq":3}')[1]).toBe('2');
  expect(scanned('{"Cse\\\\q":3,"Cse":1,"Cseqq":2}')[1]).toBeUndefined();
  expect(scanned('{"cseq":1}', new MemberNames(['Cseq'], 'exact'))).toEqual([undefined]);
  expect(scanned('{"\u0003seq":1,"#seq":1}')).not.toContain('1');
});

test('the scan and the trusting walk find the members that JSON.parse finds', () => {
  const names = ['a', 'b', 'Data', 'Ã©'];
  const object = fc.dictionary(fc.constantFrom(...names, 'c', 'Data2', '"', '\\'), fc.jsonValue({ maxDepth: 3 }));
  const wanted = new MemberNames(names, 'exact');
  fc.assert(
    fc.property(object, layouts, (value, layout) => {
      const bytes = Buffer.from(JSON.stringify(value, undefined, layout));
      const scan = scanJson(bytes, wanted);
      if (scan.status !== 'ok') throw new Error(scan.status);
      const expected = names.map((name) => (Object.hasOwn(value, name) ? JSON.stringify(value[name]) : undefined));
      const found = texts(bytes, scan.members).map((text) =>
        text === undefined ? text : JSON.stringify(JSON.parse(text)),
      );
      expect(found).toEqual(expected);
      expect(findMembers(bytes, 0, wanted)).toEqual(scan.members);
    }),
    { numRuns: 1000 },
  );
});

test('the trusting walk passes over quotes and backslashes escaped far inside long strings', () => {
  for (let run = 0; run <= 5; run++) {
    for (const length of [0, 70, 78, 79, 80, 81, 300]) {
      const text = `${'A'.repeat(length)}${'\\'.repeat(run)}","Cseq":"wrong`;
      const bytes = Buffer.from(JSON.stringify({ x: text, y: [text, { Cseq: text }], Cseq: length }));
      expect(texts(bytes, findMembers(bytes, 0, MIXED))[1]).toBe(String(length));
    }
  }
});

test('tidied text says the same on one line', () => {
  fc.assert(
    fc.property(fc.jsonValue({ maxDepth: 4 }), fc.constantFrom(1, '\t', '\t\t'), (value, layout) => {
      const bytes = Buffer.from(JSON.stringify(value, undefined, layout).replaceAll('\n', '\r\n'));
      const tidy = tidyJson(bytes) as Buffer;
      expect(tidy.some((byte) => byte < 0x20)).toBe(false);
      expect(tidy.length).toBe(bytes.length);
      expect(JSON.parse(tidy.toString())).toEqual(JSON.parse(bytes.toString()));
    }),
    { numRuns: 500 },
  );
});

test('tidying escapes every raw control character inside strings and invents no JSON from what is none (6.3 row 5)', () => {
  const controls = String.fromCharCode(...Array.from({ length: 32 }, (_, control) => control));
  const tidy = tidyJson(Buffer.from(`{"a\n":"${controls}x\\"\n"}`)) as Buffer;
  expect(JSON.parse(tidy.toString())).toEqual({ 'a\n': `${controls}x"\n` });
  for (const text of ['{"a":"\n","b":1\n2}', '{"a":"\n","b":tr\nue}', '{"a":"\\\n"}', '{"a":"\n"\u0001}']) {
    expect(scanJson(tidyJson(Buffer.from(text)) as Buffer).status).not.toBe('ok');
  }
});

test('tidying is refused when the escapes would add more than 1 MiB', () => {
  const quoted = (controls: number, filler: number): Buffer =>
    Buffer.from(`"${'\u0001'.repeat(controls)}${'x'.repeat(filler)}"`);
  const limit = Math.floor((1024 * 1024) / 5);
  expect(tidyJson(quoted(limit, 100))?.length).toBe(limit * 6 + 102);
  expect(tidyJson(quoted(limit + 1, 100))).toBeUndefined();
});

test('strings are decoded as JSON.parse decodes them', () => {
  fc.assert(
    fc.property(fc.string({ unit: 'binary' }), (text) => {
      const token = Buffer.from(JSON.stringify(text));
      expect(decodeString(token, 0, token.length)).toBe(JSON.parse(token.toString()));
    }),
  );
});
