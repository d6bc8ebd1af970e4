import { openConnection, ready, closeConnection, createKeyspace } from '@lapi-broker/redis';
import { RedisEventStream } from '@lapi-broker/bus';
import { startRedis } from '@lapi-broker/fixture';
import { readFileSync } from 'node:fs';
const server = await startRedis({args:['--appendonly','no']});
const cpuRedis = () => { const f = readFileSync(`/proc/${server.pid()}/stat`,'utf8').split(') ')[1]!.split(' '); return (Number(f[11])+Number(f[12]))*10000; };
const state = openConnection({ url: server.url, commandTimeoutMs: 5000 }, 'state');
await ready(state, 5000);
const ks = createKeyspace('b');
const st = new RedisEventStream({ state, keyspace: ks, maxLength: 10000 });
const ev = (i:number)=>({code:`dev-${i%5000}` as any,kind:'alarm.MotionAlarmOn',url:'/LAPI/V1.0/System/Event/Notification/Alarm',at:1,epoch:1 as any,session:'abcdefghijk' as any ,seq:i,tags:['a','b'],dedupKey:'xyz',data:Buffer.alloc(400,65)});
let heard=0;
async function run(N:number, per:number, tail:boolean){ const t = tail? await st.tail(new Map(),(_,e)=>{heard+=e.length}):undefined; await new Promise(r=>setTimeout(r,100)); heard=0; let sent=0,done=0; const c0=process.cpuUsage(),r0=cpuRedis(),t0=performance.now();
 await new Promise<void>(res=>{ const tick=()=>{ if(sent-done<2000) for(let i=0;i<per&&sent<N;i++){ st.append(ev(sent)).then(()=>{done++}); sent++; } if(done>=N && (!tail||heard>=N)) return res(); setImmediate(tick)}; tick(); });
 const c=process.cpuUsage(c0); console.log('append', tail?'+tail':'', 'per tick',per, Math.round(N/(performance.now()-t0)*1000)+'/s', ((c.user+c.system)/N).toFixed(2),'µs node', ((cpuRedis()-r0)/N).toFixed(2),'µs redis'); await t?.close(); }
await run(20000,20,false);
for (const per of [2,10,50]) await run(40000,per,false);
for (const per of [2,10,50]) await run(40000,per,true);
await st.stop(); await closeConnection(state); await server.stop(); process.exit(0);
