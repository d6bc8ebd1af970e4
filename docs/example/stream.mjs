// Events and calls over one WebSocket: subscribes to presence and alarms, asks every device that comes online for its name.
// Needs Node 22 or newer (its WebSocket can send headers): KEY=<api key> node docs/example/stream.mjs [ws://127.0.0.1:8080]

const url = `${process.argv[2] ?? 'ws://127.0.0.1:8080'}/v1/stream`;
let cursor = 'now';

function connect() {
  const socket = new WebSocket(url, { headers: { authorization: `Bearer ${process.env.KEY}` } });
  const say = (message) => socket.send(JSON.stringify(message));
  socket.onopen = () =>
    say({ type: 'subscribe', id: 'main', filter: { kinds: ['presence.*', 'alarm.*'] }, from: cursor });
  socket.onmessage = ({ data }) => {
    const message = JSON.parse(data);
    cursor = message.cursor ?? message.cursors?.main ?? cursor;
    if (message.type === 'event') {
      const { code, kind } = message.event;
      console.log(message.event.at, code, kind);
      if (kind === 'presence.online')
        say({ type: 'command', id: code, code, method: 'GET', url: '/LAPI/V1.0/System/DeviceInfo' });
    } else if (message.type === 'reply') {
      const { DeviceName } = message.response?.Data ?? {};
      console.log(message.id, message.status, DeviceName ?? message.problem?.code ?? message.response?.ResponseString);
    } else if (message.type === 'gap' || message.type === 'error' || message.type === 'closing') console.log(data);
  };
  let over = false;
  const goOn = () => {
    if (!over) setTimeout(connect, 2_000);
    over = true;
  };
  socket.onerror = goOn; // A connection that never opened may say only this.
  socket.onclose = goOn;
}

connect();
