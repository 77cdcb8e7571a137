// What the suites of this directory share. A suite is a map of cases: each
// returns what the user of an SDK gets, and all are printed as one JSON object.
export const { BASE, TGI, STATUS } = process.env; // of the engine or the gateway; the last two serve other models
const { ADMIN } = process.env;
export const SEATS = Number(process.env.SEATS);

// text is a field of an error that may be missing, for comparing.
export const text = (v) => (v === undefined || v === null ? "" : String(v));

// failures tells errors of an SDK that OpenAI's generator made.
export const failures = (sdk) => (e) => {
  if (e instanceof sdk.APIUserAbortError) return { class: "aborted" };
  if (!(e instanceof sdk.APIError)) return { class: "other", name: e?.name, message: text(e?.message) };
  const body = e.error?.error ?? e.error; // Anthropic's keeps the whole
  return {
    class: e.constructor.name,
    status: e.status ?? 0,
    type: text(e.type),
    code: text(e.code),
    param: text(e.param),
    message: text(body?.message ?? e.message),
    retry_after: text(e.headers?.get("retry-after")),
    retry_after_ms: text(e.headers?.get("retry-after-ms")),
  };
};

// reader reads answers: one whole, or a stream's events as far as they come.
export const reader = (failure) => ({
  async result(promise) {
    try {
      return await promise;
    } catch (e) {
      return { error: failure(e) };
    }
  },
  async chunks(promise, each = () => {}) {
    const all = [];
    try {
      for await (const chunk of await promise) {
        all.push(chunk);
        each(all.length);
      }
      return { chunks: all, error: null };
    } catch (e) {
      return { chunks: all, error: failure(e) };
    }
  },
});

// failingFirst is a fetch that marks requests, the first of which meets a fault
// at every engine.
export function failingFirst(mock_fault, mock_tag) {
  let sent = 0;
  return (url, init) => {
    const first = sent++ === 0 ? { mock_fault } : {};
    const headers = new Headers(init.headers);
    headers.delete("content-length");
    return fetch(url, { ...init, headers, body: JSON.stringify({ ...JSON.parse(init.body), mock_tag, ...first }) });
  };
}

// seen waits until an engine has the tagged request in that state, or several.
export async function seen(tag, state, requests = 1) {
  for (const end = Date.now() + 10_000; Date.now() < end; ) {
    const rows = await (await fetch(`${ADMIN}/ledger?tag=${tag}&state=${state}`)).json();
    if (rows.length >= requests) return rows[0];
  }
  throw new Error(`${tag} never came to be ${state}`);
}

// abort cancels a request once an engine has it in that state and the client
// that many chunks, and tells what the engine knows of it then. ask starts it
// and calls each with the number of every chunk.
export async function abort(tag, state, after, ask) {
  const controller = new AbortController();
  let reached;
  const read = new Promise((resolve) => (reached = resolve));
  const ended = ask(controller.signal, (n) => n === after && reached());
  if (after > 0) await Promise.race([read, ended]);
  await seen(tag, state);
  controller.abort();
  const { error } = await ended;
  const row = await seen(tag, "aborted");
  return { error: error ?? null, state: row.state, phase: row.abort_phase };
}

// seated takes all of the engine's seats, by so many requests, for as long as
// during takes.
export async function seated(requests, ask, during) {
  const controller = new AbortController();
  const ended = ask(controller.signal);
  await seen("seated", "prefill", requests);
  const outcome = await during();
  controller.abort();
  await ended;
  await seen("seated", "aborted");
  return outcome;
}

// late ends a case that hangs.
const late = () => new Promise((_, reject) => setTimeout(() => reject(new Error("no end after 20 s")), 20_000).unref());

// run does the cases one after the other, the slow ones beside them, and
// prints what they returned. What a case throws fails the test.
export async function run(cases, slow = {}) {
  const record = {};
  const one = async (name, ask) => {
    try {
      record[name] = await Promise.race([ask(), late()]);
    } catch (e) {
      record[name] = { thrown: text(e?.stack ?? e) };
    }
  };
  const beside = Promise.all(Object.entries(slow).map(([name, ask]) => one(name, ask)));
  for (const [name, ask] of Object.entries(cases)) await one(name, ask);
  await beside;
  await new Promise((written) => process.stdout.write(JSON.stringify(record), written));
  process.exit(); // whatever a case that hangs still waits for
}
