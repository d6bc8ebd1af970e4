/** Handles every alarm, also those that came while it was away. Start it twice, on two command services, and they share the work:
 *  `KEY=<api key> node consumer.mjs http://127.0.0.1:8080 <name of the subscription>` */

const [api, name] = process.argv.slice(2);
const headers = { authorization: `Bearer ${process.env.KEY}` };

// Ctrl-C ends a pull that waits, but not the work on what was taken: others would have to wait for its ack deadline.
const leaving = new AbortController();
for (const signal of ['SIGINT', 'SIGTERM']) process.once(signal, () => leaving.abort());

async function post(path, body, signal) {
  const answer = await fetch(`${api}/v1/subscriptions${path}`, {
    method: 'POST',
    headers,
    body: JSON.stringify(body),
    signal,
  });
  const result = await answer.json();
  if (!answer.ok) throw new Error(`${result.code}, ${result.detail}`);
  return result;
}

async function handle({ code, kind, at }) {
  console.log(`${at} ${code} ${kind}`);
}

while (!leaving.signal.aborted) {
  try {
    // Made once; the same request finds it, and it keeps its place.
    await post('', { name, filter: { kinds: ['alarm.*'] } });
    const { deliveries } = await post(`/${name}/pull`, { max: 50, waitSeconds: 20 }, leaving.signal);
    const done = [];
    const failed = [];
    for (const { ackId, attempt, event, gap } of deliveries) {
      try {
        if (gap === undefined) await handle(event);
        else console.log(`gone: ${gap.count ?? 'nobody knows how many'} events after ${gap.from} and before ${gap.to}`);
        done.push(ackId);
      } catch (error) {
        console.error(`attempt ${attempt} with ${event.id} failed: ${error.message}`);
        failed.push(ackId);
      }
    }
    if (done.length > 0) await post(`/${name}/ack`, { ackIds: done });
    if (failed.length > 0) await post(`/${name}/nack`, { ackIds: failed, delaySeconds: 30 });
  } catch (error) {
    if (leaving.signal.aborted) break;
    // What was not acknowledged comes again.
    console.error(`${error.message}; going on in 2 s`);
    await new Promise((resolve) => setTimeout(resolve, 2_000));
  }
}
