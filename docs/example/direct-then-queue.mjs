/** Now if the device is there, else when it comes: `KEY=<api key> node direct-then-queue.mjs http://127.0.0.1:8080 <DeviceCode>` */

import { randomUUID } from 'node:crypto';

const [api, code] = process.argv.slice(2);
const headers = { authorization: `Bearer ${process.env.KEY}`, 'Idempotency-Key': randomUUID() };
const body = JSON.stringify({
  mode: 'direct-then-queue',
  method: 'PUT',
  url: '/LAPI/V1.0/Channels/1/PTZ/Presets/1',
  data: { Name: 'Gate south' },
  timeoutMs: 5000,
});

async function send() {
  for (let attempt = 1; attempt <= 5; attempt++) {
    const answer = await fetch(`${api}/v1/devices/${code}/commands`, { method: 'POST', headers, body }).catch(
      () => undefined,
    );
    // Lost on the way, or refused for the moment: the key makes it safe to send again.
    if (answer !== undefined && answer.status !== 429 && answer.status !== 503) return answer;
    const seconds = Number(answer?.headers.get('retry-after') ?? attempt);
    await new Promise((resolve) => setTimeout(resolve, seconds * 1000));
  }
  throw new Error('the broker does not take it');
}

const answer = await send();
let command = await answer.json();
if (answer.status === 202) {
  console.log(`${code} is not there; ${command.id} waits for it`);
  while (command.executed === undefined) {
    await new Promise((resolve) => setTimeout(resolve, 1000));
    command = await (
      await fetch(`${api}/v1/commands/${command.id}`, { headers: { authorization: headers.authorization } })
    ).json();
  }
}
console.log(`${command.id}: ${command.state ?? command.code}, executed: ${command.executed}`);
