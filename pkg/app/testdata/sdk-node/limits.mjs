// A library with its own idea of when to try again, as the user of keys with
// limits. The arguments are which library, what a big answer has at most in tokens,
// and the cases.
import { BASE, failures, reader, run, text } from "./lib.mjs";

// Each returns ask, which sends one request with a key and tells how the answer
// ended. Nothing says how often a request is tried: that is left to the library.
const libraries = {
  async openai() {
    const { default: OpenAI } = await import("openai");
    const ask = async ({ key, headers, model, max_tokens, stream }) => {
      const client = new OpenAI({ baseURL: `${BASE}/v1`, apiKey: key, defaultHeaders: headers });
      const answer = await client.chat.completions.create({ model, max_tokens, stream, messages: [{ role: "user", content: "hi there" }] });
      if (!stream) return answer.choices[0].finish_reason;
      let reason;
      for await (const { choices } of answer) reason = choices[0]?.finish_reason ?? reason;
      return reason;
    };
    return { ask, failure: failures(OpenAI) };
  },
  async anthropic() {
    const { default: Anthropic } = await import("@anthropic-ai/sdk");
    const ask = async ({ key, headers, model, max_tokens, stream }) => {
      const client = new Anthropic({ baseURL: BASE, apiKey: key, authToken: null, defaultHeaders: headers });
      const answer = await client.messages.create({ model, max_tokens, stream, messages: [{ role: "user", content: "hi there" }] });
      if (!stream) return answer.stop_reason;
      let reason;
      for await (const { delta } of answer) reason = delta?.stop_reason ?? reason;
      return reason;
    };
    return { ask, failure: failures(Anthropic) };
  },
  async langchain() {
    const { ChatOpenAI } = await import("@langchain/openai");
    const ask = async ({ key, headers, model, max_tokens }) => {
      const configuration = { baseURL: `${BASE}/v1`, defaultHeaders: headers };
      const answer = await new ChatOpenAI({ model, apiKey: key, maxTokens: max_tokens, configuration }).invoke("hi there");
      return answer.response_metadata.finish_reason;
    };
    return { ask, failure: (e) => ({ class: e.name, status: e.status ?? 0, code: text(e.code) }) };
  },
  async ai() {
    const { createOpenAICompatible } = await import("@ai-sdk/openai-compatible");
    const { RetryError, generateText } = await import("ai");
    const ask = async ({ key, headers, model, max_tokens }) => {
      const engine = createOpenAICompatible({ name: "engine", baseURL: `${BASE}/v1`, apiKey: key, headers });
      return (await generateText({ model: engine(model), prompt: "hi there", maxOutputTokens: max_tokens })).finishReason;
    };
    const failure = (e) => {
      const last = RetryError.isInstance(e) ? e.lastError : e;
      return { class: last.name, status: last.statusCode ?? 0, code: text(last.data?.error?.code) };
    };
    return { ask, failure };
  },
};

const [library, most, ...wanted] = process.argv.slice(2);
const { ask, failure } = await libraries[library]();
const { result } = reader(failure);

// one is a request of a case, which has a key and a model of its own; the header tells the
// requests of a key apart.
const one = (name, n, more) =>
  result(ask({ key: `sk-limits-${name}`, headers: { "X-Number": String(n) }, model: name, max_tokens: 5, ...more }));
const inTurn = (name, more) => async () => [await one(name, 0, more), await one(name, 1, more), await one(name, 2, more)];
const atOnce = (name, more) => () => Promise.all([0, 1, 2].map((n) => one(name, n, more)));

const big = { max_tokens: Number(most) };
const cases = {
  "second": inTurn("second"),
  "second-at-once": atOnce("second-at-once"),
  "streams-at-once": atOnce("streams-at-once", { stream: true }),
  "minute": inTurn("minute"),
  "minute-at-once": atOnce("minute-at-once"),
  "tokens": inTurn("tokens", big),
  "tokens-at-once": atOnce("tokens-at-once", big),
};
for (const name of ["quota", "debt", "unknown", "address", "model"]) cases[name] = async () => [await one(name, 0)];

await run({}, Object.fromEntries(wanted.map((name) => [name, cases[name]])));
