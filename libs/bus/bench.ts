import { openConnection, ready, closeConnection } from '@lapi-broker/redis';
import { RedisPubSub } from '@lapi-broker/bus';
import { startRedis } from '@lapi-broker/fixture';
import { Redis } from 'ioredis';
import { readFileSync } from 'node:fs';
const server = await startRedis({args:['--appendonly','no']});
const cpuRedis = () => { const f = readFileSync(`/proc/${server.pid()}/stat`,'utf8').split(') ')[1]!.split(' '); return (Number(f[11])+Number(f[12]))*10000; };
const FRAME = Buffer.alloc(400, 65);
const N = 120_000;
const PER_TICK = Number(process.argv[2] ?? 20);
const state = openConnection({ url: server.url, commandTimeoutMs: 5000 }, 'state');
await ready(state, 5000);
const bus = new RedisPubSub({ state });
let got = 0, settled = 0;
await bus.subscribe('ours', f => { got++; }, () => {});
const anyState = state as any;
async function ours(attach = true, sock = 5500 as any, cmd = 5000 as any) { anyState.options.socketTimeout = sock; anyState.options.commandTimeout = cmd;
  got = 0; settled = 0; let sent = 0;
  await new Promise<void>(resolve => {
    const onResult = () => { settled++; };
    const tick = () => {
      if (sent - got < 4000) for (let i = 0; i < PER_TICK && sent < N; i++) { const p = bus.publish('ours', FRAME); if (attach) void p.then(onResult); sent++; }
      if (got >= N) return resolve();
      setImmediate(tick);
    };
    tick();
  });
}
const pub = new Redis(server.port, '127.0.0.1', {enableAutoPipelining:false}), sub = new Redis(server.port, '127.0.0.1');
await sub.subscribe('bare');
sub.on('messageBuffer', (_c: Buffer, m: Buffer) => { for (let at = 0; at < m.length;) { const n = m.readUInt32BE(at); const f = m.subarray(at+4, at+4+n); got++; at += 4 + n; } });
async function bare() {
  got = 0; let sent = 0; let frames: Buffer[] = [];
  await new Promise<void>(resolve => {
    const tick = () => {
      if (sent - got < 4000) for (let i = 0; i < PER_TICK && sent < N; i++) { const h = Buffer.allocUnsafe(4); h.writeUInt32BE(400); frames.push(h, FRAME); sent++; }
      if (frames.length) { void pub.publish('bare', Buffer.concat(frames)); frames = []; }
      if (got >= N) return resolve();
      setImmediate(tick);
    };
    tick();
  });
}
const out: Record<string, number[][]> = { ours: [], nosock: [], nocmd: [], bare: [] };
for (let r = 0; r < 12; r++) for (const [name, fn] of [['ours', ours], ['nosock', () => ours(true, undefined)], ['nocmd', () => ours(true, undefined, undefined)], ['bare', bare]] as const) {
  const c0 = process.cpuUsage(), r0 = cpuRedis(), t0 = performance.now();
  await fn();
  const dt = performance.now() - t0, c = process.cpuUsage(c0);
  if (r > 0) out[name]!.push([N / dt * 1000, (c.user + c.system) / N, (cpuRedis()-r0)/N]);
}
for (const name of ['ours','nosock','nocmd','bare']) { const rows = out[name]!; const med = (i:number)=> rows.map(x=>x[i]!).sort((a,b)=>a-b)[rows.length>>1]!; const mm=(i:number)=>[Math.min(...rows.map(x=>x[i]!)),Math.max(...rows.map(x=>x[i]!))].map(x=>x.toFixed(2)).join('–'); console.log(name, 'per tick', PER_TICK, Math.round(med(0)), 'frames/s', med(1).toFixed(2), 'µs/frame node', `(${mm(1)})`, med(2).toFixed(2), 'µs/frame redis'); }
await bus.stop(); await closeConnection(state); pub.disconnect(); sub.disconnect(); await server.stop();
process.exit(0);
