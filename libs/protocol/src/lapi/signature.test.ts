import { createHmac } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { percentDecode, type RegisterValue, readRegisterQuery } from './register-query.ts';
import { resignFor, type SignedQuery, type VerifiedSign, verifySign } from './signature.ts';

const RANDOM_KEY = Buffer.alloc(32, 7);

function value(raw: string): RegisterValue {
  const bytes = Buffer.from(raw);
  return { raw: bytes, decoded: percentDecode(bytes) };
}

interface Vector {
  readonly name: string;
  readonly secret: string;
  readonly parts: readonly [vendor: string, type: string, code: string, algorithm: string | undefined, nonce: string];
  readonly sign: string;
  readonly mac?: string;
}

/** Vendor of C and G as the query carries it. */
const VECTORS: readonly Vector[] = [
  {
    name: 'A',
    secret: '123456',
    parts: ['Uniview', 'NVR', '210235TEST0000000001', 'HMAC-SHA256', '1234567890'],
    sign: 'zBeS2WxUhYZkmtf99a86uWPZhWn88ZOb5rLBMGSA92k=',
    mac: 'cc1792d96c548586649ad7fdf5af3ab963d98569fcf1939be6b2c1306480f769',
  },
  {
    name: 'B',
    secret: '123456',
    parts: ['Uniview', 'IPC', '210235TEST0000000002', 'HmacSHA256', 'A1b2C3d4E5f60018'],
    sign: 'W/WGyztdXsn7q+ocYH15sNWl+JRaZfbEzrkQgBX1boE=',
    mac: '5bf586cb3b5d5ec9fbabea1c607d79b0d5a5f8945a65f6c4ceb9108015f56e81',
  },
  {
    name: 'C',
    secret: 's3cr3t-密钥-ü',
    parts: ['宇视', '雷视一体机', '210235TEST0000000003', 'HMAC-SHA256', '0000000000000042'],
    sign: '6q+ggbtzm33vGHE3vC1Pd3+jA8dtO65nKGBXSWqlFOM=',
    mac: 'eaafa081bb739b7def187137bc2d4f777fa303c76d3bae67286057496aa514e3',
  },
  {
    name: 'C, percent-encoded',
    secret: 's3cr3t-密钥-ü',
    parts: [
      encodeURIComponent('宇视'),
      encodeURIComponent('雷视一体机'),
      '210235TEST0000000003',
      'HMAC-SHA256',
      '0000000000000042',
    ],
    sign: '6q+ggbtzm33vGHE3vC1Pd3+jA8dtO65nKGBXSWqlFOM=',
  },
  {
    name: 'D',
    secret: 'correct horse battery staple 2024',
    parts: ['UNV', 'IPC', '210235TEST0000000004', '', '837465920174'],
    sign: 'D4P/tymbfFTPqHnB+KyVPqyd422Pt+J3ZX5WQca246A=',
    mac: '0f83ffb7299b7c54cfa879c1f8ac953eac9de36d8fb7e277657e5641c6b6e3a0',
  },
  {
    name: 'D, Algorithm missing',
    secret: 'correct horse battery staple 2024',
    parts: ['UNV', 'IPC', '210235TEST0000000004', undefined, '837465920174'],
    sign: 'D4P/tymbfFTPqHnB+KyVPqyd422Pt+J3ZX5WQca246A=',
  },
  {
    name: 'D′',
    secret: 'correct horse battery staple 2024',
    parts: ['UNV', 'IPC', '210235TEST0000000004', undefined, '837465920174'],
    sign: 'h2Tclow3bBBvBJjK4cBOzhCrOTf7rk0wYMGv1kEl6PY=',
  },
  {
    name: 'E',
    secret: '123456',
    parts: ['Uniview', 'NVR', '210235TEST0000000001', 'SHA256', '1234567890'],
    sign: 'Anyhec15/ijsyRAFlhIgnaVqkD4n0opQBbmZKrgLYG0=',
    mac: '027ca179cd79fe28ecc910059612209da56a903e27d28a5005b9992ab80b606d',
  },
  {
    name: 'F',
    secret: 'k9!Zr7_pQ2wX4vLm',
    parts: ['Uniview', 'NVR', '210235TEST0000000001', 'HMAC-SHA256', '28gQiAb3Z6PJq9Jm'],
    sign: 'UtUw7ZZSBf2QEXJiGCKqNzE1Hw/0koM0dGECxoraE6Y=',
    mac: '52d530ed965205fd901172621822aa3731351f0ff4928334746102c68ada13a6',
  },
  {
    name: 'G',
    secret: 'k9!Zr7_pQ2wX4vLm',
    parts: ['%D3%EE%CA%D3', 'IPC', '210235TEST0000000005', 'HMAC-SHA256', '28gQiAb3Z6PJq9Jm'],
    sign: 'NcMX6hZgIL6b5E1URsiQPHgmsYCQSdR1vIxGVzMgTRk=',
    mac: '35c317ea166020be9be44d5446c8903c7826b1809049d475bc8c465733204d19',
  },
];

function vector(name: string): Vector {
  return VECTORS.find((other) => other.name === name) as Vector;
}

function signed({ parts, sign }: Vector): SignedQuery {
  const [vendor, deviceType, deviceCode, algorithm, nonce] = parts;
  return {
    vendor: value(vendor),
    deviceType: value(deviceType),
    deviceCode: value(deviceCode),
    algorithm: algorithm === undefined ? undefined : value(algorithm),
    nonce: value(nonce),
    sign,
  };
}

function verified(query: SignedQuery, ...secrets: (string | Buffer)[]): VerifiedSign {
  const verdict = verifySign(query, secrets, RANDOM_KEY);
  if (verdict.status !== 'verified') throw new Error(verdict.status);
  return verdict;
}

function status(query: SignedQuery, ...secrets: (string | Buffer)[]): string {
  return verifySign(query, secrets, RANDOM_KEY).status;
}

describe.each(VECTORS)('signature vector $name of 3.4 (L2)', (one) => {
  test('verifies and gives the recomputed signature in padded base64 (A4)', () => {
    const verdict = verified(signed(one), one.secret);
    expect(verdict.sign).toBe(one.sign);
    if (one.mac !== undefined) expect(Buffer.from(verdict.sign, 'base64').toString('hex')).toBe(one.mac);
    expect(verdict.algorithmLeftOut).toBe(one.name === 'D′');
  });

  test('does not verify after a change of any single bit', () => {
    const mac = Buffer.from(one.sign, 'base64');
    for (let bit = 0; bit < 256; bit++) {
      const other = Buffer.from(mac);
      other[bit >> 3] = (other[bit >> 3] as number) ^ (1 << (bit & 7));
      expect(status({ ...signed(one), sign: other.toString('base64') }, one.secret)).toBe('bad_sign');
    }
  });

  test('does not verify with another secret or another nonce', () => {
    expect(status(signed(one), `${one.secret}x`)).toBe('bad_sign');
    expect(status({ ...signed(one), nonce: value(`${one.parts[4]}0`) }, one.secret)).toBe('bad_sign');
  });
});

const ENCODINGS = [
  'W/WGyztdXsn7q+ocYH15sNWl+JRaZfbEzrkQgBX1boE=',
  'W%2FWGyztdXsn7q%2BocYH15sNWl%2BJRaZfbEzrkQgBX1boE%3D',
  'W%252FWGyztdXsn7q%252BocYH15sNWl%252BJRaZfbEzrkQgBX1boE%253D',
  'W/WGyztdXsn7q%20ocYH15sNWl%20JRaZfbEzrkQgBX1boE=',
  'W_WGyztdXsn7q-ocYH15sNWl-JRaZfbEzrkQgBX1boE',
];

test.each(ENCODINGS)('the encoding %s of Sign verifies, a changed character in it does not (3.3, G4, L2)', (sign) => {
  const b = signed(vector('B'));
  expect(status({ ...b, sign }, '123456')).toBe('verified');
  expect(status({ ...b, sign: sign.replace('Gyz', 'Gyy') }, '123456')).toBe('bad_sign');
});

test('line breaks inside Sign are dropped (G4)', () => {
  const b = signed(vector('B'));
  expect(status({ ...b, sign: `${ENCODINGS[0]}%0D%0A` }, '123456')).toBe('verified');
});

test('a Sign that does not decode to 32 bytes is told apart (F11)', () => {
  const b = signed(vector('B'));
  for (const sign of [
    'x',
    '=',
    '%',
    'AAAA',
    `${ENCODINGS[0]}=`,
    `${ENCODINGS[0]}AAAA`,
    `!${ENCODINGS[0]}`,
    'A'.repeat(256),
    'é',
  ]) {
    expect(status({ ...b, sign }, '123456')).toBe('bad_sign_format');
  }
});

test('either of two secrets verifies and the index says which (G7, L12)', () => {
  const f = vector('F');
  expect(verified(signed(f), f.secret, 'other-secret-0000').secret).toBe(0);
  expect(verified(signed(f), 'other-secret-0000', f.secret).secret).toBe(1);
  expect(verified(signed(f), Buffer.from(f.secret)).secret).toBe(0);
});

test('an unknown device, an empty secret and the random key itself never verify (F10, S4)', () => {
  const f = signed(vector('F'));
  expect(status(f)).toBe('bad_sign');
  const text = Buffer.concat(
    [...vector('F').parts.map((part) => Buffer.from(part ?? ''))].flatMap((part, i) =>
      i === 0 ? [part] : [Buffer.from('/'), part],
    ),
  );
  const signedWith = (key: string | Buffer): string => createHmac('sha256', key).update(text).digest('base64');
  expect(status({ ...f, sign: signedWith('real') }, 'real')).toBe('verified');
  expect(status({ ...f, sign: signedWith('') }, '')).toBe('bad_sign');
  expect(status({ ...f, sign: signedWith(RANDOM_KEY) })).toBe('bad_sign');
  expect(status({ ...f, sign: signedWith(RANDOM_KEY) }, 'one')).toBe('bad_sign');
});

test('values signed undecoded, or with + read as a blank, verify at the second look (G2)', () => {
  const query = { ...signed(vector('F')), vendor: value('Uni%20view+x'), deviceType: value('N%2BR') };
  const sign = (vendor: string, type: string): SignedQuery => ({
    ...query,
    sign: createHmac('sha256', 'secret')
      .update(`${vendor}/${type}/210235TEST0000000001/HMAC-SHA256/28gQiAb3Z6PJq9Jm`)
      .digest('base64'),
  });
  expect(verified(sign('Uni view+x', 'N+R'), 'secret').reading).toBe('decoded');
  expect(verified(sign('Uni%20view+x', 'N%2BR'), 'secret').reading).toBe('raw');
  expect(verified(sign('Uni view x', 'N+R'), 'secret').reading).toBe('plus_as_blank');
  expect(status(sign('Uni view x', 'N R'), 'secret')).toBe('bad_sign');
  expect(status(sign('Uni view+x', 'N%2BR'), 'secret')).toBe('bad_sign');
});

test('resign=cnonce has the values of A5, an absent Cnonce counting as empty', () => {
  const resign = (name: string, cnonce: string): string => {
    const one = vector(name);
    return resignFor(verified(signed(one), one.secret), one.secret, cnonce);
  };
  expect(resign('B', 'zY9xW8vU7tS6rQ5p')).toBe('TMdUfDFg6VmXQzyUujjoElGzAN8j0kGK2A2MAeZqrTk=');
  expect(resign('C', 'Q1w2E3r4T5y6U7i8')).toBe('IEyc4mhueOf1np2E5VAEuJZ0U9u8TvRnhiFxBfO1W+Q=');
  expect(resign('F', 'zY9xW8vU7tS6rQ5p')).toBe('4A0a25BWHLPxA6RkjGJ2YrNK7vlbFdDxhsptDwrTeiY=');
  const empty = createHmac('sha256', vector('F').secret).update('Uniview/NVR/210235TEST0000000001/HMAC-SHA256/');
  expect(resign('F', '')).toBe(empty.digest('base64'));
});

test('the step 2 request of 2.3 verifies end to end', () => {
  const query = readRegisterQuery(
    'Vendor=Uniview&DeviceType=NVR&DeviceCode=210235TEST0000000001&Algorithm=HMAC-SHA256&Nonce=28gQiAb3Z6PJq9Jm&Cnonce=zY9xW8vU7tS6rQ5p&Sign=UtUw7ZZSBf2QEXJiGCKqNzE1Hw%2F0koM0dGECxoraE6Y%3D',
  );
  if (query.status !== 'step2') throw new Error(query.status);
  expect(verified(query, 'k9!Zr7_pQ2wX4vLm')).toMatchObject({ secret: 0, reading: 'decoded' });
});
