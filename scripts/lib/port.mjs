/** Which ports can be listened on? Asked before anything is started, so that the answer can name the setting. */

import { createServer } from 'node:net';
import { Obstacle } from './stop.mjs';

/** @param {number} port 0 for any
 *  @param {string} host
 *  @returns {Promise<{ port: number } | { problem: string, wrong: 'port' | 'host' }>} */
export function tryPort(port, host) {
  return new Promise((resolve) => {
    const server = createServer();
    server.once('error', (error) => {
      const { code } = /** @type {NodeJS.ErrnoException} */ (error);
      if (code === 'EADDRINUSE') resolve({ problem: 'is taken', wrong: 'port' });
      else {
        const wrong = code === 'EACCES' ? 'port' : 'host';
        resolve({ problem: `cannot be used (${code ?? error.message})`, wrong });
      }
    });
    server.listen({ port, host, exclusive: true }, () => {
      const address = server.address();
      const taken = address !== null && typeof address === 'object' ? address.port : port;
      server.close(() => resolve({ port: taken }));
    });
  });
}

/** @returns {Promise<number>} a free loopback port */
export async function anyPort() {
  const result = await tryPort(0, '127.0.0.1');
  if ('problem' in result) throw new Obstacle(`No loopback port ${result.problem}.`);
  return result.port;
}

/** @param {import('./settings.mjs').StartSettings} settings */
export async function requirePorts({ apiPort, apiHost, devicePorts, deviceHost }) {
  const wanted = [
    { port: apiPort, host: apiHost, setting: 'LAPI_API', use: 'the platform API' },
    ...devicePorts.map((port, i) => ({
      port,
      host: deviceHost,
      setting: 'LAPI_DEVICE',
      use: `devices of edge-${i + 1}`,
    })),
  ];
  const problems = [];
  for (const { port, host, setting, use } of wanted) {
    const result = await tryPort(port, host);
    if ('problem' in result) {
      const remedy =
        result.wrong === 'port'
          ? `${setting}_PORT chooses another, e.g. ${setting}_PORT=${port + 100} npm start`
          : `${setting}_HOST names the address; it must be one of this machine`;
      problems.push(`  Port ${port} on ${host}, for ${use}, ${result.problem}. ${remedy}`);
    }
  }
  if (problems.length > 0) throw new Obstacle(`Nothing was started:\n${problems.join('\n')}`);
}
