// Takes events from a webhook: verifies the signature, drops repeats, answers fast.
// Run: SECRET=whsec_… node webhook-receiver.mjs 8090        (Node 20 or later, no packages)
// The broker wants https and a public address; put a proxy with a certificate in front, or allow others (LAPI_WEBHOOK_ALLOW…).

import { createHmac, timingSafeEqual } from 'node:crypto';
import { createServer } from 'node:http';

const key = Buffer.from((process.env.SECRET ?? '').replace('whsec_', ''), 'base64');
const port = Number(process.argv[2] ?? 8090);
const TOLERANCE_S = 300;
const MAX_BYTES = 20 * 1024 * 1024;

/** True when whoever has the secret wrote exactly these bytes, lately. */
function verify(headers, body) {
  const id = headers['webhook-id'];
  const timestamp = headers['webhook-timestamp'];
  if (!(Math.abs(Date.now() / 1000 - Number(timestamp)) < TOLERANCE_S)) return false;
  const expected = createHmac('sha256', key).update(`${id}.${timestamp}.`).update(body).digest();
  // One signature per active secret: two while a secret is being changed.
  return String(headers['webhook-signature'])
    .split(' ')
    .some((each) => {
      const given = Buffer.from(each.replace('v1,', ''), 'base64');
      return each.startsWith('v1,') && given.length === expected.length && timingSafeEqual(given, expected);
    });
}

// Events come at least once. A real receiver keeps their ids where it keeps the events, in one transaction.
const seen = new Set();

function take(event) {
  if (seen.has(event.id)) return;
  seen.add(event.id);
  if (seen.size > 100_000) seen.delete(seen.values().next().value);
  console.log(event.receivedAt, event.code, event.kind);
}

createServer(async (request, response) => {
  const chunks = [];
  let bytes = 0;
  try {
    for await (const chunk of request) {
      bytes += chunk.length;
      if (bytes > MAX_BYTES) return response.writeHead(413).end();
      chunks.push(chunk);
    }
  } catch {
    return; // The sender broke off; it sends again.
  }
  // The bytes as they came: JSON that was parsed and written again has another signature.
  const body = Buffer.concat(chunks);
  if (!verify(request.headers, body)) return response.writeHead(401).end();
  const { type, data } = JSON.parse(body.toString());
  if (type === 'webhook.test') console.log('test received');
  for (const gap of data.gaps ?? [])
    console.log('missing:', gap.count ?? 'some', 'events between', gap.from, 'and', gap.to);
  for (const event of data.events ?? []) take(event);
  // 2xx means "it is in safe hands". Work that takes longer is done after the answer.
  response.writeHead(204).end();
}).listen(port, () => console.log(`listening on port ${port}`));
