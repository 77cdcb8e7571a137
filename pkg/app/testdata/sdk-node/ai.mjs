// The Vercel AI SDK over its package for OpenAI-compatible servers, in every
// way that the table of the test names.
import { createOpenAICompatible } from "@ai-sdk/openai-compatible";
import { APICallError, RetryError, embed, embedMany, generateText, jsonSchema, streamText, tool } from "ai";
import { BASE, STATUS, abort, failingFirst, reader, run, text } from "./lib.mjs";

globalThis.AI_SDK_LOG_WARNINGS = false;

const connect = (base, more) => createOpenAICompatible({ name: "engine", baseURL: `${base}/v1`, apiKey: "sk-client", ...more });
const engine = connect(BASE), counting = connect(BASE, { includeUsage: true }), status = connect(STATUS);

// failure is what the SDK tells of an error: it has one class for all answers.
function failure(e) {
  if (e?.name === "AbortError") return { class: "aborted" };
  const last = RetryError.isInstance(e) ? e.lastError : e;
  if (!APICallError.isInstance(last)) return { class: text(last?.name ?? typeof last), message: text(last?.message ?? last) };
  return {
    class: last.name,
    status: last.statusCode ?? 0,
    message: last.message,
    retryable: last.isRetryable,
    retry_after: text(last.responseHeaders?.["retry-after"]),
    data: last.data ?? null,
  };
}
const { result } = reader(failure);

const ask = (more) => ({ model: engine("mock-model"), prompt: "hello", maxOutputTokens: 5, maxRetries: 0, ...more });
const mock = (fields) => ({ providerOptions: { engine: fields } });
const pick = ({ text, reasoningText, toolCalls, finishReason, usage, response }) => ({
  text,
  reasoning: reasoningText ?? null,
  tool_calls: toolCalls.map(({ toolName, input }) => ({ toolName, input })),
  finish: finishReason,
  usage,
  model: response.modelId,
  content_type: response.headers["content-type"],
});
const generate = (more) => result(generateText(ask(more)).then(pick));

// stream is all that the SDK tells of a stream but its ids and headers.
async function stream(more, each = () => {}) {
  const parts = [];
  let error = null;
  try {
    for await (const part of streamText(ask({ onError() {}, ...more })).fullStream) {
      const { type, text, delta, input, finishReason } = part;
      if (type === "error") error = failure(part.error);
      else if (type === "abort") error = { class: "aborted" };
      else if (type !== "start-step") parts.push({ type, text, delta, input, finishReason, usage: part.usage ?? part.totalUsage });
      if (type === "text-delta") each(parts.filter((p) => p.type === type).length);
    }
  } catch (e) {
    error = failure(e);
  }
  return { parts, error };
}

const inputSchema = jsonSchema({ type: "object", properties: { city: { type: "string" } } });
const tools = { maxOutputTokens: 100, toolChoice: "required", tools: { weather: tool({ inputSchema }) } };
const completion = { model: engine.completionModel("mock-model"), maxOutputTokens: 4 };
const model = engine.embeddingModel("mock-model");

const answers = {
  "generate": () => generate(),
  "generate reasoning": () => generate(mock({ mock_reasoning: 2 })),
  "generate tools": () => generate(tools),
  "generate completion": () => generate(completion),
  "stream": () => stream(),
  "stream usage": () => stream({ model: counting("mock-model") }),
  "stream reasoning": () => stream(mock({ mock_reasoning: 2 })),
  "stream tools": () => stream(tools),
  "stream completion": () => stream(completion),
  "embed": () => result(embed({ model, value: "one", maxRetries: 0 }).then(({ embedding, usage }) => ({ embedding, usage }))),
  "embed many": () => result(embedMany({ model, values: ["one", "two"], maxRetries: 0 }).then(({ embeddings, usage }) => ({ embeddings, usage }))),
};

const errors = {
  "error 404 model": () => generate({ model: engine("no-model") }),
  "error 429 retry-after": () => generate(mock({ mock_fault: "429=2" })),
  "stream error 429": () => stream(mock({ mock_fault: "429=2" })),
  "stream error event": () => stream(mock({ mock_fault: "error-event=3" })),
  "stream error event first": () => stream(mock({ mock_fault: "error-event-first" })),
  "stream broken": () => stream(mock({ mock_fault: "fin=3" })),
};
for (const code of [400, 401, 403, 404, 409, 422, 429, 500, 503]) {
  errors[`status ${code}`] = () => generate({ model: status(`status-${code}`) });
}

const retry = (fault, tag) => () => generate({ model: connect(BASE, { fetch: failingFirst(fault, tag) })("mock-model"), maxRetries: 1 });
const retries = { "retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429") };

const aborts = {
  "abort whole": () => abort("whole", "queued", 0, (abortSignal) => generate({ abortSignal, ...mock({ mock_tag: "whole", mock_fault: "hang" }) })),
  "abort before the head": () => abort("head", "queued", 0, (abortSignal) => stream({ abortSignal, ...mock({ mock_tag: "head", mock_fault: "hang" }) })),
  "abort mid-stream": () =>
    abort("middle", "decode", 2, (abortSignal, each) => stream({ abortSignal, ...mock({ mock_tag: "middle", mock_fault: "stall=3" }) }, each)),
};

await run({ ...answers, ...errors, ...aborts }, retries);
