// LangChain over its OpenAI package in every way that the table of the test
// names.
import { ChatOpenAI, OpenAI, OpenAIEmbeddings } from "@langchain/openai";
import { APIError } from "openai";
import { BASE, STATUS, abort, failingFirst, reader, run, text } from "./lib.mjs";

const options = (base, more) => ({
  model: "mock-model",
  apiKey: "sk-client",
  maxRetries: 0,
  timeout: 30_000,
  ...more,
  configuration: { baseURL: `${base}/v1`, ...more?.configuration },
});
const chat = (more, base = BASE) => new ChatOpenAI(options(base, { maxTokens: 5, ...more }));
const mock = (fields, more) => chat({ modelKwargs: fields, ...more });

// failure is OpenAI's error, to which LangChain adds a code of its own.
function failure(e) {
  if (e?.name === "AbortError" || e?.message === "Aborted" || e?.message === "Request was aborted.") return { class: "aborted" };
  if (!(e instanceof APIError)) return { class: "other", name: e?.name, message: text(e?.message) };
  return { class: e.constructor.name, status: e.status ?? 0, code: text(e?.code), lc: text(e?.lc_error_code), message: text(e?.message) };
}

const pick = (m) => ({
  content: m.content,
  tool_calls: m.tool_calls,
  tool_call_chunks: m.tool_call_chunks,
  additional_kwargs: m.additional_kwargs,
  usage_metadata: m.usage_metadata,
  response_metadata: m.response_metadata,
});
const { result, chunks } = reader(failure);
const invoke = (model, ...rest) => result(model.invoke("hello", ...rest).then(pick));
const stream = async (model, each, ...rest) => {
  const { chunks: all, error } = await chunks(model.stream("hello", ...rest), each);
  return { chunks: all.map(pick), error };
};

const weather = {
  type: "function",
  function: { name: "weather", description: "", parameters: { type: "object", properties: { city: { type: "string" } }, required: ["city"] } },
};
const tools = (model) => model.bindTools([weather], { tool_choice: "weather" });
const roomy = { maxTokens: 100 };
const embeddings = (more) => new OpenAIEmbeddings(options(BASE, more));
const responses = (more) => chat({ useResponsesApi: true, maxTokens: 100, modelKwargs: { mock_tokens: 5 }, ...more });

const answers = {
  "invoke": () => invoke(chat()),
  "invoke n=2": () => result(chat({ n: 2 }).generate([[["human", "hello"]]]).then((r) => r.generations[0].map((g) => g.text))),
  "invoke tools": () => invoke(tools(chat(roomy))),
  "structured output": () =>
    result(chat(roomy).withStructuredOutput(weather.function.parameters, { name: "weather", method: "functionCalling" }).invoke("hello")),
  "batch": () => result(chat().batch(["one", "two"]).then((all) => all.map(pick))),
  "stream": () => stream(chat()),
  "stream without usage": () => stream(chat({ streamUsage: false })),
  "stream tools": () => stream(tools(chat(roomy))),
  "completion": () => result(new OpenAI(options(BASE, { maxTokens: 4 })).invoke("once")),
  "completion stream": () => chunks(new OpenAI(options(BASE, { maxTokens: 4 })).stream("once")),
  "embeddings": () => result(embeddings().embedDocuments(["one", "two"])),
  "embeddings float": () => result(embeddings({ encodingFormat: "float" }).embedQuery("one")),
  "responses invoke": () => invoke(responses()),
  "responses stream": () => stream(responses()),
  "responses tools": () => invoke(tools(responses())),
  "responses continued": async () => {
    const first = await responses().invoke("hello");
    return invoke(responses(), { previous_response_id: first.response_metadata.id });
  },
};

const errors = {
  "error 404 model": () => invoke(chat({ model: "no-model" })),
  "stream error event": () => stream(mock({ mock_fault: "error-event=3" })),
  "stream broken": () => stream(mock({ mock_fault: "fin=3" })),
};
for (const code of [400, 401, 403, 404, 409, 422, 429, 500, 503]) {
  errors[`status ${code}`] = () => invoke(chat({ model: `status-${code}` }, STATUS));
}

const retry = (fault, tag) => () => invoke(chat({ maxRetries: 1, configuration: { fetch: failingFirst(fault, tag) } }));
const retries = { "retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429") };

const aborts = {
  "abort whole": () => abort("whole", "prefill", 0, (signal) => invoke(mock({ mock_tag: "whole", mock_prefill_ms: 2 ** 30 }), { signal })),
  "abort mid-stream": () =>
    abort("middle", "decode", 2, (signal, each) => stream(mock({ mock_tag: "middle", mock_fault: "stall=3" }), each, { signal })),
  "abort by leaving the loop": () =>
    abort("left", "decode", 1, async (signal, each) => {
      const left = new Promise((resolve) => signal.addEventListener("abort", resolve));
      for await (const _ of await mock({ mock_tag: "left", mock_fault: "stall=3" }).stream("hello")) {
        each(1);
        await left;
        break;
      }
      return { error: null };
    }),
};

await run({ ...answers, ...errors, ...aborts }, retries);
