// The official Anthropic SDK in every way that the table of the test names.
import Anthropic from "@anthropic-ai/sdk";
import { BASE, SEATS, STATUS, abort, failingFirst, failures, reader, run, seated } from "./lib.mjs";

const connect = (baseURL, more) => new Anthropic({ baseURL, apiKey: "sk-client", authToken: null, maxRetries: 0, timeout: 30_000, ...more });
const client = connect(BASE), status = connect(STATUS);
const { result, chunks } = reader(failures(Anthropic));

const body = (more) => ({ model: "mock-model", max_tokens: 5, messages: [{ role: "user", content: "hello" }], ...more });
const message = (more, options) => result(client.messages.create(body(more), options));
const stream = (more) => chunks(client.messages.create(body({ stream: true, ...more })));
const tools = {
  max_tokens: 100,
  tool_choice: { type: "any" },
  tools: [{ name: "weather", input_schema: { type: "object", properties: { city: { type: "string" } } } }],
};
const blocks = { system: [{ type: "text", text: "Be brief." }], messages: [{ role: "user", content: [{ type: "text", text: "hello" }] }] };
const head = ({ response }) => ({ status: response.status, content_type: response.headers.get("content-type") });

const messages = {
  "message": () => message(),
  "message system": () => message({ system: "Be brief." }),
  "message blocks": () => message(blocks),
  "message end of turn": () => message({ max_tokens: 100, mock_tokens: 3 }),
  "message tools": () => message(tools),
  "message thinking": () => message({ mock_reasoning: 2 }),
  "message of a bearer": () => result(connect(BASE, { apiKey: null, authToken: "sk-client" }).messages.create(body())),
  "message stream": () => stream(),
  "message stream tools": () => stream(tools),
  "message stream thinking": () => stream({ mock_reasoning: 2 }),
  "message stream helper": async () => {
    const { role, content, stop_reason } = await client.messages.stream(body(tools)).finalMessage();
    return { role, content, stop_reason };
  },
  "count tokens": () => result(client.messages.countTokens({ model: "mock-model", messages: body().messages })),
  "count tokens blocks": () => result(client.messages.countTokens({ model: "mock-model", ...blocks })),
  "headers": async () => head(await client.messages.create(body()).withResponse()),
  "headers of a stream": async () => {
    const streamed = await client.messages.create(body({ stream: true })).withResponse();
    await chunks(streamed.data);
    return head(streamed);
  },
  "request id": async () => Boolean((await client.messages.create(body()).withResponse()).response.headers.get("x-request-id")),
};

const errors = {
  "error 400 field": () => message({ max_tokens: "many" }),
  "error 400 no max_tokens": () => message({ max_tokens: undefined }),
  "error 400 context length": () => message({ max_tokens: 200000 }),
  "error 404 model": () => message({ model: "no-model" }),
  "error 404 model of count tokens": () => result(client.messages.countTokens({ model: "no-model", messages: body().messages })),
  "error 413": () => message({ messages: [{ role: "user", content: "\0".repeat(300 << 10) }] }), // 6 bytes each in JSON
  "stream error event": () => stream({ mock_fault: "error-event=4" }),
  "stream error event first": () => stream({ mock_fault: "error-event-first" }),
  "stream broken": () => stream({ mock_fault: "fin=4" }),
};
for (const [name, mock_fault] of Object.entries({
  "error 401": "401",
  "error 404 unloaded": "404",
  "error 429 retry-after": "429=2",
  "error 500": "500-json",
  "error 500 empty": "500-empty",
  "error 503": "503",
})) {
  errors[name] = () => message({ mock_fault });
}
for (const code of [400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 529]) {
  errors[`status ${code}`] = () => result(status.messages.create(body({ model: `status-${code}` })));
}

const retry = (fault, tag) => () => result(connect(BASE, { maxRetries: 1, fetch: failingFirst(fault, tag) }).messages.create(body()));
const retries = { "retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429") };

const forever = { mock_prefill_ms: 2 ** 30 };
const leave = (tag, state, after, more) =>
  abort(tag, state, after, (signal, each) => {
    const request = body({ mock_tag: tag, ...more });
    const sent = client.messages.create(request, { signal });
    return request.stream ? chunks(sent, each) : result(sent);
  });
const seat = (tag, signal) => message({ model: "one-model", mock_tag: tag, ...forever }, { signal });

const aborts = {
  "abort whole": () => leave("whole", "prefill", 0, forever),
  "abort before the first token": () => leave("first", "prefill", 0, { stream: true, ...forever }),
  "abort mid-stream": () => leave("middle", "decode", 4, { stream: true, mock_fault: "stall=4" }),
  "abort queued": () =>
    seated(
      SEATS,
      (signal) => Promise.all(Array.from({ length: SEATS }, () => seat("seated", signal))),
      () => leave("queued", "queued", 0, { model: "one-model", stream: true }),
    ),
};

await run({ ...messages, ...errors, ...aborts }, retries);
