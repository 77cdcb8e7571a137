// Uses the official Node SDK in every way that the table of the test names, and
// prints what its user gets as one JSON object.
import OpenAI from "openai";

const { BASE, TGI, ADMIN } = process.env;
const ATTEMPTS = Number(process.env.ATTEMPTS), SEATS = Number(process.env.SEATS);

const connect = (baseURL) => new OpenAI({ baseURL, apiKey: "sk-client", maxRetries: 0, timeout: 30_000 });
const client = connect(BASE), tgi = connect(TGI);
const record = {};

const text = (v) => (v === undefined || v === null ? "" : String(v));

function failure(e) {
  if (e instanceof OpenAI.APIUserAbortError) return { class: "aborted" };
  if (!(e instanceof OpenAI.APIError)) return { class: "other", name: e?.name, message: text(e?.message) };
  return {
    class: e.constructor.name,
    status: e.status ?? 0,
    type: text(e.type),
    code: text(e.code),
    param: text(e.param),
    message: text(e.error?.message ?? e.message),
    retry_after: text(e.headers?.get("retry-after")),
    retry_after_ms: text(e.headers?.get("retry-after-ms")),
  };
}

async function result(promise) {
  try {
    return await promise;
  } catch (e) {
    return { error: failure(e) };
  }
}

async function chunks(promise, each = () => {}) {
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
}

const body = (more) => ({ model: "mock-model", max_tokens: 5, messages: [{ role: "user", content: "hello" }], ...more });
const chat = (more, options) => result(client.chat.completions.create(body(more), options));
const stream = (more, options) => chunks(client.chat.completions.create(body({ stream: true, ...more }), options));

const tools = {
  max_tokens: 100,
  tool_choice: "required",
  tools: [{ type: "function", function: { name: "weather", parameters: { type: "object", properties: { city: { type: "string" } } } } }],
};

async function answers() {
  record["chat"] = await chat();
  record["chat n=2"] = await chat({ max_tokens: 4, n: 2 });
  record["chat reasoning"] = await chat({ mock_reasoning: 2 });
  record["chat tools"] = await chat(tools);
  record["chat tgi"] = await result(tgi.chat.completions.create(body({ model: "tgi-model" })));

  record["chat stream"] = await stream();
  record["chat stream usage"] = await stream({ stream_options: { include_usage: true } });
  record["chat stream continuous usage"] = await stream({ stream_options: { include_usage: true, continuous_usage_stats: true } });
  record["chat stream n=2"] = await stream({ n: 2 });
  record["chat stream tools"] = await stream(tools);
  record["chat stream tgi"] = await chunks(tgi.chat.completions.create(body({ model: "tgi-model", stream: true })));

  const message = await client.chat.completions.stream(body(tools)).finalMessage();
  record["chat stream helper"] = { role: message.role, content: message.content, ...message.tool_calls[0].function };
}

async function otherAPIs() {
  const completions = client.completions;
  record["completion"] = await result(completions.create({ model: "mock-model", max_tokens: 4, prompt: ["once", "twice"] }));
  record["completion stream"] = await chunks(
    completions.create({ model: "mock-model", max_tokens: 4, prompt: "once", stream: true, stream_options: { include_usage: true } }),
  );

  const embeddings = (more) => result(client.embeddings.create({ model: "mock-model", input: ["one", "two"], ...more }));
  record["embeddings"] = await embeddings();
  record["embeddings float"] = await embeddings({ encoding_format: "float" });
  record["embeddings base64"] = await embeddings({ encoding_format: "base64" });

  record["models"] = [];
  for await (const model of client.models.list()) record["models"].push(model.id);
  record["model"] = await result(client.models.retrieve("mock-model"));
  record["model with a slash"] = await result(client.models.retrieve("org/mock-model"));
  record["model unknown"] = await result(client.models.retrieve("no-model"));

  const head = ({ response }) => ({ status: response.status, content_type: response.headers.get("content-type") });
  record["headers"] = head(await client.chat.completions.create(body()).withResponse());
  record["request id"] = Boolean((await client.chat.completions.create(body()))._request_id);
  record["request id of an error"] = await client.chat.completions.create(body({ n: "many" })).catch((e) => Boolean(e.requestID));
  const streamed = await client.chat.completions.create(body({ stream: true })).withResponse();
  record["headers of a stream"] = head(streamed);
  await chunks(streamed.data);
}

async function errors() {
  record["error 400 field"] = await chat({ n: "many" });
  record["error 400 context length"] = await chat({ max_tokens: 200000 });
  record["error 400 stream"] = await chat({ stream: "yes" });
  record["error 404 model"] = await chat({ model: "no-model" });
  record["error 413"] = await chat({ messages: [{ role: "user", content: "\0".repeat(300 << 10) }] }); // 6 bytes each in JSON
  record["error 422"] = await result(tgi.chat.completions.create(body({ model: "tgi-model", max_tokens: 200000 })));
  for (const [name, mock_fault] of Object.entries({
    "error 401": "401",
    "error 404 unloaded": "404",
    "error 429": "429",
    "error 429 retry-after": "429=2",
    "error 500": "500-json",
    "error 500 engine dead": "500-engine-dead",
    "error 500 empty": "500-empty",
    "error 503": "503",
  })) {
    record[name] = await chat({ mock_fault });
  }
  record["stream error event"] = await stream({ mock_fault: "error-event=3" });
  record["stream error event first"] = await stream({ mock_fault: "error-event-first" });
  record["stream broken"] = await stream({ mock_fault: "fin=3" });
}

// The gateway gives up first, at once when the engine asks for more patience
// than it has; the SDK does not.
async function retries() {
  for (const [fault, count] of [["503", ATTEMPTS], ["429=1", 1]]) {
    const rule = await fetch(`${ADMIN}/fault`, { method: "POST", body: JSON.stringify({ fault, count }) });
    if (!rule.ok) throw new Error(await rule.text());
    const name = fault.slice(0, 3);
    record[`retry after ${name}`] = await chat({ mock_tag: `retry-${name}` }, { maxRetries: 2 });
  }
}

// seen waits until the engine has the tagged request in that state.
async function seen(tag, state) {
  for (const end = Date.now() + 20_000; Date.now() < end; ) {
    const rows = await (await fetch(`${ADMIN}/ledger?tag=${tag}&state=${state}`)).json();
    if (rows.length > 0) return rows[0];
  }
  throw new Error(`${tag} never came to be ${state}`);
}

// abort cancels a request once the engine has it in that state and the client
// that many chunks, and tells what the engine knows of it then.
async function abort(mock_tag, state, after, more) {
  const controller = new AbortController();
  const signal = { signal: controller.signal };
  let reached;
  const read = new Promise((resolve) => (reached = resolve));
  const request = body({ mock_tag, ...more });
  const ended = request.stream
    ? chunks(client.chat.completions.create(request, signal), (n) => n === after && reached())
    : result(client.chat.completions.create(request, signal));
  if (after === 0) reached();
  await read;
  await seen(mock_tag, state);
  controller.abort();
  const { error } = await ended;
  const row = await seen(mock_tag, "aborted");
  return { error, state: row.state, phase: row.abort_phase };
}

async function aborts() {
  const mock_prefill_ms = 2 ** 30;
  record["abort whole"] = await abort("whole", "prefill", 0, { mock_prefill_ms });
  record["abort before the first token"] = await abort("first", "prefill", 0, { stream: true, mock_prefill_ms });
  record["abort before the head"] = await abort("head", "queued", 0, { stream: true, mock_fault: "hang" });
  record["abort mid-stream"] = await abort("middle", "decode", 3, { stream: true, mock_fault: "stall=3" });

  const controller = new AbortController();
  const seated = chat({ mock_tag: "seated", mock_prefill_ms, n: SEATS }, { signal: controller.signal });
  await seen("seated", "prefill");
  record["abort queued"] = await abort("queued", "queued", 0, { stream: true });
  controller.abort();
  await seated;
  await seen("seated", "aborted");
}

for (const part of [answers, otherAPIs, errors, retries, aborts]) await part();
console.log(JSON.stringify(record));
