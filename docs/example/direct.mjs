/** Calls a device now: `KEY=<api key> node direct.mjs http://127.0.0.1:8080 <DeviceCode>` */

const [api, code] = process.argv.slice(2);

const answer = await fetch(`${api}/v1/devices/${code}/commands`, {
  method: 'POST',
  headers: { authorization: `Bearer ${process.env.KEY}` },
  body: JSON.stringify({ method: 'GET', url: '/LAPI/V1.0/System/DeviceInfo', timeoutMs: 5000 }),
});
const body = await answer.json();

if (body.source === 'device') {
  console.log(`${code} answered ${body.response.ResponseCode}: ${JSON.stringify(body.response.Data)}`);
} else if (body.executed === 'maybe') {
  // Written, and no answer. Reading again is harmless; for anything else look at the device first.
  console.log(`nobody knows whether ${code} did it (${body.code})`);
} else {
  // Not a byte was written: whatever it was, it may be sent again.
  console.log(`not sent: ${body.code}, ${body.detail}; again in ${answer.headers.get('retry-after') ?? 'some'} s`);
}
