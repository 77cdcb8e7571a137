// The official OpenAI SDK in every way that the table of the test names.
import OpenAI from "openai";
import { BASE, TGI, STATUS, SEATS, abort, failingFirst, failures, reader, run, seated } from "./lib.mjs";

const connect = (base, more) => new OpenAI({ baseURL: `${base}/v1`, apiKey: "sk-client", maxRetries: 0, timeout: 30_000, ...more });
const client = connect(BASE), tgi = connect(TGI), status = connect(STATUS);
const { result, chunks } = reader(failures(OpenAI));

const body = (more) => ({ model: "mock-model", max_tokens: 5, messages: [{ role: "user", content: "hello" }], ...more });
const chat = (more, options) => result(client.chat.completions.create(body(more), options));
const stream = (more) => chunks(client.chat.completions.create(body({ stream: true, ...more })));

const city = { type: "object", properties: { city: { type: "string" } } };
const tools = {
  max_tokens: 100,
  tool_choice: "required",
  tools: [{ type: "function", function: { name: "weather", parameters: city } }],
};

const chats = {
  "chat": () => chat(),
  "chat n=2": () => chat({ max_tokens: 4, n: 2 }),
  "chat reasoning": () => chat({ mock_reasoning: 2 }),
  "chat tools": () => chat(tools),
  "chat tgi": () => result(tgi.chat.completions.create(body({ model: "tgi-model" }))),
  "chat stream": () => stream(),
  "chat stream usage": () => stream({ stream_options: { include_usage: true } }),
  "chat stream continuous usage": () => stream({ stream_options: { include_usage: true, continuous_usage_stats: true } }),
  "chat stream n=2": () => stream({ n: 2 }),
  "chat stream tools": () => stream(tools),
  "chat stream tgi": () => chunks(tgi.chat.completions.create(body({ model: "tgi-model", stream: true }))),
  "chat stream helper": async () => {
    const message = await client.chat.completions.stream(body(tools)).finalMessage();
    return { role: message.role, content: message.content, ...message.tool_calls[0].function };
  },
};

const completion = { model: "mock-model", max_tokens: 4, prompt: "once" };
const embeddings = (more) => result(client.embeddings.create({ model: "mock-model", input: ["one", "two"], ...more }));
const head = ({ response }) => ({ status: response.status, content_type: response.headers.get("content-type") });

const others = {
  "completion": () => result(client.completions.create({ ...completion, prompt: ["once", "twice"] })),
  "completion stream": () => chunks(client.completions.create({ ...completion, stream: true })),
  "completion stream usage": () => chunks(client.completions.create({ ...completion, stream: true, stream_options: { include_usage: true } })),
  "embeddings": () => embeddings(),
  "embeddings float": () => embeddings({ encoding_format: "float" }),
  "embeddings base64": () => embeddings({ encoding_format: "base64" }),
  "models": async () => {
    const names = [];
    for await (const model of client.models.list()) names.push(model.id);
    return names;
  },
  "model": () => result(client.models.retrieve("mock-model")),
  "model with a slash": () => result(client.models.retrieve("org/mock-model")),
  "model unknown": () => result(client.models.retrieve("no-model")),
  "headers": async () => head(await client.chat.completions.create(body()).withResponse()),
  "headers of a stream": async () => {
    const streamed = await client.chat.completions.create(body({ stream: true })).withResponse();
    await chunks(streamed.data);
    return head(streamed);
  },
  "request id": async () => Boolean((await client.chat.completions.create(body()))._request_id),
  "request id of an error": () => client.chat.completions.create(body({ n: "many" })).catch((e) => Boolean(e.requestID)),
};

const answer = (more) => ({ model: "mock-model", input: "hello", max_output_tokens: 100, mock_tokens: 5, ...more });
const respond = (more) => result(client.responses.create(answer(more)));
const respondStream = (more) => chunks(client.responses.create(answer({ stream: true, ...more })));
const callTool = { tool_choice: "required", tools: [{ type: "function", name: "weather", parameters: city, strict: false }] };
const made = async (more) => (await client.responses.create(answer(more))).id;

const responses = {
  "response": () => respond(),
  "response items": () => respond({ instructions: "Be brief.", input: [{ role: "user", content: [{ type: "input_text", text: "hello" }] }] }),
  "response incomplete": () => respond({ max_output_tokens: 3 }),
  "response tools": () => respond(callTool),
  "response stream": () => respondStream(),
  "response stream incomplete": () => respondStream({ max_output_tokens: 3 }),
  "response stream tools": () => respondStream(callTool),
  "response stream helper": async () => {
    const { status, output_text } = await client.responses.stream(answer()).finalResponse();
    return { status, output_text };
  },
  "response continued": async () => respond({ previous_response_id: await made() }),
  "response continued stream": async () => respondStream({ previous_response_id: await made() }),
  "response continued thrice": async () => respond({ previous_response_id: await made({ previous_response_id: await made() }) }),
  "response retrieved": async () => result(client.responses.retrieve(await made())),
  "response of a stream retrieved": async () => {
    const events = await respondStream();
    return result(client.responses.retrieve(events.chunks[0].response.id));
  },
  "response background cancelled": async () => {
    const queued = await client.responses.create(answer({ background: true, mock_prefill_ms: 2 ** 30 }));
    return { created: queued.status, cancelled: await result(client.responses.cancel(queued.id)) };
  },
  "response deleted": async () => {
    const id = await made();
    const deleted = (await result(client.responses.delete(id))) ?? null;
    return { deleted, after: await result(client.responses.retrieve(id)) };
  },
  "response unknown continued": () => respond({ previous_response_id: "resp_unknown" }),
  "response unknown retrieved": () => result(client.responses.retrieve("resp_unknown")),
  "response unknown cancelled": () => result(client.responses.cancel("resp_unknown")),
  "response error 400 field": () => respond({ max_output_tokens: "many" }),
  "response error 404 model": () => respond({ model: "no-model" }),
  "response error 429": () => respond({ mock_fault: "429" }),
  "response error 500": () => respond({ mock_fault: "500-json" }),
  "response stream error event": () => respondStream({ mock_fault: "error-event=4" }),
  "response stream broken": () => respondStream({ mock_fault: "fin=5" }),
};

const clip = () => new File(["RIFF".repeat(2000)], "clip.wav", { type: "audio/wav" });
const audio = (more) => ({ model: "mock-model", file: clip(), ...more });
const transcribe = (more) => result(client.audio.transcriptions.create(audio(more)));

const audios = {
  "transcription": () => transcribe(),
  "transcription text": () => transcribe({ response_format: "text" }),
  "transcription verbose": () => transcribe({ response_format: "verbose_json" }),
  "transcription error 400 format": () => transcribe({ response_format: "srt" }),
  "transcription stream": () => chunks(client.audio.transcriptions.create(audio({ stream: true }))),
  "translation": () => result(client.audio.translations.create(audio())),
  "transcription error 404 model": () => transcribe({ model: "no-model" }),
  "transcription error 429": () => transcribe({ mock_fault: "429" }),
  "transcription error 500": () => transcribe({ mock_fault: "500-json" }),
};

const errors = {
  "error 400 field": () => chat({ n: "many" }),
  "error 400 context length": () => chat({ max_tokens: 200000 }),
  "error 400 stream": () => chat({ stream: "yes" }),
  "error 404 model": () => chat({ model: "no-model" }),
  "error 413": () => chat({ messages: [{ role: "user", content: "\0".repeat(300 << 10) }] }), // 6 bytes each in JSON
  "error 422": () => result(tgi.chat.completions.create(body({ model: "tgi-model", max_tokens: 200000 }))),
  "stream error event": () => stream({ mock_fault: "error-event=3" }),
  "stream error event first": () => stream({ mock_fault: "error-event-first" }),
  "stream broken": () => stream({ mock_fault: "fin=3" }),
};
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
  errors[name] = () => chat({ mock_fault });
}
for (const code of [400, 401, 403, 404, 409, 422, 429, 500, 503]) {
  errors[`status ${code}`] = () => result(status.chat.completions.create(body({ model: `status-${code}` })));
}

// The engine sees the fault at the first request of the SDK and however often
// the gateway sends that; the SDK's next one goes through.
const retry = (fault, tag) => () => result(connect(BASE, { maxRetries: 1, fetch: failingFirst(fault, tag) }).chat.completions.create(body()));
const retries = { "retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429") };

const forever = { mock_prefill_ms: 2 ** 30 };
const leave = (tag, state, after, more) =>
  abort(tag, state, after, (signal, each) => {
    const request = body({ mock_tag: tag, ...more });
    const sent = client.chat.completions.create(request, { signal });
    return request.stream ? chunks(sent, each) : result(sent);
  });

const aborts = {
  "abort whole": () => leave("whole", "prefill", 0, forever),
  "abort before the first token": () => leave("first", "prefill", 0, { stream: true, ...forever }),
  "abort before the head": () => leave("head", "queued", 0, { stream: true, mock_fault: "hang" }),
  "abort mid-stream": () => leave("middle", "decode", 3, { stream: true, mock_fault: "stall=3" }),
  "abort queued": () =>
    seated(
      1,
      (signal) => result(client.chat.completions.create(body({ model: "one-model", mock_tag: "seated", n: SEATS, ...forever }), { signal })),
      () => leave("queued", "queued", 0, { model: "one-model", stream: true }),
    ),
  "abort completion": () =>
    abort("completion", "decode", 2, (signal, each) =>
      chunks(client.completions.create({ ...completion, stream: true, mock_tag: "completion", mock_fault: "stall=2" }, { signal }), each)),
  "abort response": () =>
    abort("response", "decode", 5, (signal, each) =>
      chunks(client.responses.create(answer({ stream: true, mock_tag: "response", mock_fault: "stall=5" }), { signal }), each)),
  "abort transcription": () =>
    abort("transcription", "queued", 0, (signal) =>
      result(client.audio.transcriptions.create(audio({ mock_tag: "transcription", mock_fault: "hang" }), { signal }))),
};

await run({ ...chats, ...others, ...responses, ...audios, ...errors, ...aborts }, retries);
