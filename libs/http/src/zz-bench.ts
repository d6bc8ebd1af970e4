import { createServer } from './index.ts';
const mode = process.argv[2];
const server = await createServer({ host: '127.0.0.1', port: 0, ...(mode?.includes('cap') ? { maxPlainConnectionsPerAddress: 100000 } : {}) , ...(mode?.includes('all')?{}:{headers:['upgrade']})})
  .webSocket<{id:number}>('/*', { maxMessageBytes: 1e6, maxBufferedBytes: 1e6, headers: mode?.includes('all')?undefined as never:['upgrade'],
    upgrade(request, handle) { if (request.query === undefined) handle.refuse(401, [['Content-Type','application/json']], '{"Nonce":"28gQiAb3Z6PJq9Jm"}'); else handle.accept({ id: 1 }); },
    open() {}, message() {}, closed() {} })
  .route('GET','/hello',(_r, s) => s.send(200, [], 'hello'))
  .listen();
console.log(server.port);
process.on('message', () => {});
process.on('SIGTERM', () => process.exit(0));
