/** The side of a worker: answers the questions of the process that forked it, one message each. Ends itself when that process is gone,
 *  however it went, because the channel closes with it. */

/** What a worker can be asked. Arguments and results are what survives a structured clone. */
export type Verbs = Readonly<Record<string, (argument: never) => unknown>>;

export interface Question {
  readonly id: number;
  readonly verb: string;
  readonly argument: unknown;
}

export type Reply = { readonly id: number; readonly result: unknown } | { readonly id: number; readonly error: string };

export function answerAs<V extends Verbs>(verbs: V): void {
  process.on('message', (message) => void answer(verbs, message as Question));
  process.on('disconnect', () => process.exit(0));
  // The process that forked this one decides when it ends, also when Ctrl-C reaches both.
  process.on('SIGINT', () => undefined);
}

async function answer(verbs: Verbs, { id, verb, argument }: Question): Promise<void> {
  let reply: Reply;
  try {
    const act = verbs[verb];
    if (act === undefined) throw new RangeError(`no verb ${verb}`);
    reply = { id, result: await act(argument as never) };
  } catch (error) {
    reply = { id, error: error instanceof Error ? (error.stack ?? error.message) : String(error) };
  }
  process.send?.(reply);
}
