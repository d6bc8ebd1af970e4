import { execFileSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { request } from 'node:https';
import { tmpdir } from 'node:os';
import path from 'node:path';
import { connect } from 'node:tls';
import { afterAll, beforeAll, expect, test } from 'vitest';
import { createServer } from './server.ts';

let directory = '';
const certFile = (): string => path.join(directory, 'cert.pem');
const keyFile = (): string => path.join(directory, 'key.pem');

beforeAll(() => {
  directory = mkdtempSync(path.join(tmpdir(), 'lapi-tls-'));
  const options = [
    '-newkey',
    'ec',
    '-pkeyopt',
    'ec_paramgen_curve:prime256v1',
    '-nodes',
    '-subj',
    '/CN=broker.test',
    '-days',
    '1',
  ];
  execFileSync('openssl', ['req', '-x509', ...options, '-keyout', keyFile(), '-out', certFile()], { stdio: 'ignore' });
});

afterAll(() => rmSync(directory, { recursive: true, force: true }));

function statusOf(port: number): Promise<number | undefined> {
  return new Promise((resolve, reject) => {
    const sent = request({ host: '127.0.0.1', port, path: '/', rejectUnauthorized: false, agent: false }, (answer) => {
      answer.resume();
      answer.on('end', () => resolve(answer.statusCode));
    });
    sent.on('error', reject);
    sent.end();
  });
}

test('serves over TLS 1.2 or later when given certificate and key (S8)', async () => {
  const server = await createServer({ host: '127.0.0.1', port: 0, tls: { certFile: certFile(), keyFile: keyFile() } })
    .route('GET', '/', (_request, response) => response.send(200, [], 'secure', { close: true }))
    .listen();
  try {
    expect(await statusOf(server.port)).toBe(200);
    const old = connect({
      host: '127.0.0.1',
      port: server.port,
      rejectUnauthorized: false,
      minVersion: 'TLSv1',
      maxVersion: 'TLSv1.1',
    });
    const outcome = await new Promise<string>((resolve) => {
      old.on('secureConnect', () => resolve('connected'));
      old.on('error', () => resolve('refused'));
    });
    old.destroy();
    expect(outcome).toBe('refused');
  } finally {
    server.close();
  }
});

test('unreadable files are named when the server is made', () => {
  const missing = path.join(directory, 'missing.pem');
  expect(() => createServer({ host: '127.0.0.1', port: 0, tls: { certFile: missing, keyFile: keyFile() } })).toThrow(
    missing,
  );
});
