/** Asks every camera of a kind for its name, first two, then four, then eight, and stops when more than a tenth fails:
 *  `KEY=<api key> node job.mjs http://127.0.0.1:8080 <type>` */

const [api, type] = process.argv.slice(2);
const headers = { authorization: `Bearer ${process.env.KEY}` };

async function request(method, path, body) {
  const answer = await fetch(`${api}${path}`, { method, headers, body: body && JSON.stringify(body) });
  if (!answer.ok) throw new Error(`${answer.status} ${await answer.text()}`);
  return answer;
}

const plan = {
  name: 'names',
  command: { method: 'GET', url: '/LAPI/V1.0/System/DeviceInfo', timeoutMs: 5000 },
  targets: { filter: { type } },
  concurrency: 20,
  waves: { first: 2, growth: 2 },
  abort: { failurePercent: 10 },
  offline: 'fail',
};

const { total, online } = await (await request('POST', '/v1/jobs', { ...plan, dryRun: true })).json();
console.log(`${total} devices, ${online} of them online`);

let job = await (await request('POST', '/v1/jobs', plan)).json();
while (job.endedAt === undefined) {
  await new Promise((resolve) => setTimeout(resolve, 500));
  job = await (await request('GET', `/v1/jobs/${job.id}`)).json();
  console.log(`${job.state}: ${job.counts.succeeded} of ${job.total} succeeded, wave ${job.wave?.number ?? '-'}`);
}
console.log(await (await request('GET', `/v1/jobs/${job.id}/targets.csv`)).text());
