/** Sends three commands in order, now or when the device comes, and hears how they end:
 *  `KEY=<api key> node queue.mjs http://127.0.0.1:8080 <DeviceCode>` */

const [api, code] = process.argv.slice(2);
const headers = { authorization: `Bearer ${process.env.KEY}` };

// Listen first, so that no end is missed.
const events = await fetch(`${api}/v1/events?device=${code}&kind=command.*`, { headers });

const open = new Set();
for (const [n, name] of ['Gate', 'Yard', 'Road'].entries()) {
  const answer = await fetch(`${api}/v1/devices/${code}/commands`, {
    method: 'POST',
    // The same key again is the same command: safe to repeat when an answer gets lost.
    headers: { ...headers, 'Idempotency-Key': `presets-${process.pid}-${n}` },
    body: JSON.stringify({
      mode: 'queue',
      method: 'PUT',
      url: `/LAPI/V1.0/Channels/1/PTZ/Presets/${n + 1}`,
      data: { Name: name },
      // Naming a place twice does no harm.
      retrySafe: true,
      ttlMs: 600_000,
    }),
  });
  const command = await answer.json();
  if (!answer.ok) throw new Error(`${answer.status} ${command.code}: ${command.detail}`);
  console.log(`${command.id} ${command.state}: ${name}`);
  open.add(command.id);
}

let text = '';
for await (const piece of events.body.pipeThrough(new TextDecoderStream())) {
  text += piece;
  const lines = text.split('\n');
  text = lines.pop();
  for (const line of lines) {
    if (!line.startsWith('data: ')) continue;
    const { data } = JSON.parse(line.slice(6));
    if (!open.has(data?.id)) continue;
    console.log(`${data.id} ${data.state}${data.executed === undefined ? '' : `, executed: ${data.executed}`}`);
    if (data.executed !== undefined) open.delete(data.id);
  }
  if (open.size === 0) break;
}
