/** Guards what is said about ports and addresses that cannot be used, before anything is started. */

import { createServer } from 'node:net';
import { afterEach, expect, test } from 'vitest';
import { requirePorts } from './port.mjs';
import { readSettings } from './settings.mjs';

const server = createServer();
afterEach(() => new Promise((resolve) => server.close(resolve)));

test('a taken port names the setting of the port, an address of another machine the setting of the address', async () => {
  const port = await new Promise<number>((resolve) => {
    server.listen(0, '127.0.0.1', () => {
      const address = server.address();
      resolve(typeof address === 'object' && address !== null ? address.port : 0);
    });
  });
  const settings = { ...readSettings({}), apiPort: port, deviceHost: '192.0.2.1', devicePorts: [port + 1] };
  const refusal = expect(requirePorts(settings)).rejects;
  await refusal.toThrow(`Port ${port} on 127.0.0.1, for the platform API, is taken. LAPI_API_PORT chooses another`);
  await expect(requirePorts(settings)).rejects.toThrow('LAPI_DEVICE_HOST names the address');
});
