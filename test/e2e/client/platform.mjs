// An HTTP LAPI client as it was before there was a broker: base URL + LAPI path, plain fetch, ResponseCode in the body.
// Written from docs/protocol.md alone. Against a camera: BASE=http://camera. Against the broker: BASE=http://broker/v1/devices/<code>.
// Usage: BASE=… [TOKEN=…] node platform.mjs

const base = process.env.BASE;
const headers = process.env.TOKEN ? { authorization: `Bearer ${process.env.TOKEN}` } : {};

async function lapi(method, path, data) {
  const response = await fetch(`${base}/LAPI/V1.0${path}`, {
    method,
    headers,
    ...(data === undefined ? {} : { body: JSON.stringify(data) }),
  });
  const answer = await response.json();
  if (answer.ResponseCode !== 0) throw new Error(`${method} ${path}: ${answer.ResponseCode} ${answer.ResponseString}`);
  return answer.Data;
}

const info = await lapi('GET', '/System/DeviceInfo');
await lapi('PUT', '/Channels/1/PTZ/Presets/3', { ID: 3, Name: 'Gate' });
const presets = await lapi('GET', '/Channels/1/PTZ/Presets?Limit=16&Offset=0');
await lapi('PUT', '/Channels/1/PTZ/PTZCtrl', { PTZCmd: 1026, Para1: 5, Para2: 5, Para3: 0 });
let refusal = '';
try {
  await lapi('GET', '/No/Such/Resource');
} catch (error) {
  refusal = error.message;
}
console.log(
  JSON.stringify({ model: info.DeviceModel, presets: presets.PresetInfos.map((preset) => preset.Name), refusal }),
);
