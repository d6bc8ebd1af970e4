// A small platform: calls every device that is online, then follows their alarms and goes on where it was after every interruption.
// Needs Node 20 or newer and nothing else: KEY=<api key> node docs/example/platform.mjs [http://127.0.0.1:8080]

const api = process.argv[2] ?? 'http://127.0.0.1:8080';
const headers = { authorization: `Bearer ${process.env.KEY}` };

async function call(code, method, path, data) {
  const url = `${api}/v1/devices/${code}${path}`;
  const body = data === undefined ? undefined : JSON.stringify(data);
  const response = await fetch(url, { method, body, headers: { ...headers, 'X-LAPI-Connect-Timeout': '10000' } });
  const answer = await response.json();
  if (response.ok) return answer.Data;
  if (answer.source === 'device') throw new Error(`the device says ${answer.ResponseCode} ${answer.ResponseString}`);
  throw new Error(
    `the broker says ${answer.code}; ${answer.written ? 'the device may have acted' : 'nothing was sent'}`,
  );
}

async function* events(query) {
  for (let cursor = 'now'; ; await new Promise((resolve) => setTimeout(resolve, 2_000))) {
    try {
      const stream = await fetch(`${api}/v1/events?${query}`, { headers: { ...headers, 'Last-Event-ID': cursor } });
      if (!stream.ok) throw new Error((await stream.json()).code);
      let rest = '';
      for await (const text of stream.body.pipeThrough(new TextDecoderStream())) {
        const messages = (rest + text).split('\n\n');
        rest = messages.pop();
        for (const message of messages) {
          const {
            event = 'event',
            data,
            id,
          } = Object.fromEntries(message.split('\n').map((line) => line.split(/: (.*)/)));
          if (data !== undefined) yield { type: event, ...JSON.parse(data) };
          cursor = id ?? cursor; // After the event was dealt with: what was not is sent again.
        }
      }
    } catch (error) {
      console.error(`events: ${error.message}; going on in 2 s`);
    }
  }
}

const { items } = await (await fetch(`${api}/v1/devices?online=true`, { headers })).json();
for (const { code } of items) {
  const { DeviceModel } = await call(code, 'GET', '/LAPI/V1.0/System/DeviceInfo');
  console.log(`${code} is a ${DeviceModel}`);
}
for await (const { type, kind, code, at } of events('kind=alarm.*')) console.log(at ?? '', code ?? '', kind ?? type);
