const { startRedisCluster } = await import('@lapi-broker/fixture');
const { openConnection, ready, closeConnection, createKeyspace, guarded, isCluster } = await import('./src/index.ts');
  const server = await startRedisCluster();
  for (let i=0;i<4;i++) {
  const c = openConnection({ url: server.url, commandTimeoutMs: 1000 }, 'state') as any;
  await ready(c, 5000);
  const watch=(early:any,n:string)=>{const set = early.setStatus.bind(early); early.setStatus=(s:string)=>{console.log(Math.round(performance.now()),n,'status',s, early.nodes().length, early.nodes().map((n:any)=>n.status).join()); set(s)};};
  watch(c,'c');
  const early = openConnection({ url: server.url, commandTimeoutMs: 1000 }, 'state') as any;
  watch(early,'early');
  const t=performance.now();
  await Promise.all([closeConnection(c).then(()=>console.log('c',performance.now()-t, c.status)),
   closeConnection(early).then(()=>console.log('early',performance.now()-t, early.status))]);
   await closeConnection(c); console.log('all', performance.now()-t);
  }
  await server.stop();
