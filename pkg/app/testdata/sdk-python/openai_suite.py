"""The official OpenAI library in every way that the table of the test names."""

import asyncio

import openai

from suite import BASE, FOREVER, SEATS, STATUS, TGI, FailingFirst, Reader, abort, run, seated


def connect(base, **more):
    return openai.AsyncOpenAI(base_url=f"{base}/v1", api_key="sk-client", timeout=30, **{"max_retries": 0} | more)


client, tgi, status = connect(BASE), connect(TGI), connect(STATUS)
reader = Reader(openai.APIError)
result, chunks = reader.result, reader.chunks

BODY = {"model": "mock-model", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
TOOLS = {
    "max_tokens": 100,
    "tool_choice": "required",
    "tools": [{"type": "function", "function": {"name": "weather", "parameters": CITY}}],
}


def ask(connection=client, extra=None, **more):
    return connection.chat.completions.create(**BODY | more, extra_body=extra)


def chat(*args, **more):
    return lambda: result(ask(*args, **more))


def stream(*args, **more):
    return lambda: chunks(ask(*args, stream=True, **more))


def options(**more):
    return {"stream_options": {"include_usage": True} | more}


async def helper():
    async with client.chat.completions.stream(**BODY | TOOLS) as s:
        message = (await s.get_final_completion()).choices[0].message
    call = message.tool_calls[0].function
    return {"role": message.role, "content": message.content, "name": call.name, "arguments": call.arguments}


CHATS = {
    "chat": chat(),
    "chat n=2": chat(max_tokens=4, n=2),
    "chat reasoning": chat(extra={"mock_reasoning": 2}),
    "chat tools": chat(**TOOLS),
    "chat tgi": chat(tgi, model="tgi-model"),
    "chat stream": stream(),
    "chat stream usage": stream(**options()),
    "chat stream continuous usage": stream(**options(continuous_usage_stats=True)),
    "chat stream n=2": stream(n=2),
    "chat stream tools": stream(**TOOLS),
    "chat stream tgi": stream(tgi, model="tgi-model"),
    "chat stream helper": helper,
}


def complete(**more):
    return client.completions.create(**{"model": "mock-model", "max_tokens": 4, "prompt": "once"} | more)


def embeddings(**more):
    return lambda: result(client.embeddings.create(model="mock-model", input=["one", "two"], **more))


async def models():
    return [model.id async for model in client.models.list()]


def model(name):
    return lambda: result(client.models.retrieve(name))


def head(response):
    return {"status": response.status_code, "content_type": response.headers["content-type"]}


async def headers():
    return head(await client.chat.completions.with_raw_response.create(**BODY))


async def stream_headers():
    async with client.chat.completions.with_streaming_response.create(**BODY, stream=True) as response:
        await response.read()
        return head(response)


async def request_id():
    return bool((await ask())._request_id)


async def error_request_id():
    try:
        return bool(await ask(n="many"))
    except openai.APIStatusError as e:
        return bool(e.request_id)


OTHERS = {
    "completion": lambda: result(complete(prompt=["once", "twice"])),
    "completion stream": lambda: chunks(complete(stream=True)),
    "completion stream usage": lambda: chunks(complete(stream=True, **options())),
    "embeddings": embeddings(),
    "embeddings float": embeddings(encoding_format="float"),
    "embeddings base64": embeddings(encoding_format="base64"),
    "models": models,
    "model": model("mock-model"),
    "model with a slash": model("org/mock-model"),
    "model unknown": model("no-model"),
    "headers": headers,
    "headers of a stream": stream_headers,
    "request id": request_id,
    "request id of an error": error_request_id,
}

ANSWER = {"model": "mock-model", "input": "hello", "max_output_tokens": 100}
CALL = {"tool_choice": "required", "tools": [{"type": "function", "name": "weather", "parameters": CITY, "strict": False}]}


def answer(extra=None, **more):
    return client.responses.create(**ANSWER | more, extra_body={"mock_tokens": 5} | (extra or {}))


def respond(extra=None, **more):
    return lambda: result(answer(extra, **more))


def respond_stream(extra=None, **more):
    return lambda: chunks(answer(extra, stream=True, **more))


async def made(**more):
    return (await answer(**more)).id


async def response_helper():
    async with client.responses.stream(**ANSWER, extra_body={"mock_tokens": 5}) as s:
        final = await s.get_final_response()
    return {"status": final.status, "output_text": final.output_text}


async def continued():
    return await result(answer(previous_response_id=await made()))


async def continued_stream():
    return await chunks(answer(previous_response_id=await made(), stream=True))


async def continued_thrice():
    return await result(answer(previous_response_id=await made(previous_response_id=await made())))


async def retrieved():
    return await result(client.responses.retrieve(await made()))


async def stream_retrieved():
    events = await chunks(answer(stream=True))
    return await result(client.responses.retrieve(events["chunks"][0]["response"]["id"]))


async def cancelled():
    queued = await answer(FOREVER, background=True)
    return {"created": queued.status, "cancelled": await result(client.responses.cancel(queued.id))}


async def deleted():
    made_id = await made()
    gone = await result(client.responses.delete(made_id))
    return {"deleted": gone, "after": await result(client.responses.retrieve(made_id))}


RESPONSES = {
    "response": respond(),
    "response items": respond(instructions="Be brief.", input=[{"role": "user", "content": [{"type": "input_text", "text": "hello"}]}]),
    "response incomplete": respond(max_output_tokens=3),
    "response tools": respond(**CALL),
    "response stream": respond_stream(),
    "response stream incomplete": respond_stream(max_output_tokens=3),
    "response stream tools": respond_stream(**CALL),
    "response stream helper": response_helper,
    "response continued": continued,
    "response continued stream": continued_stream,
    "response continued thrice": continued_thrice,
    "response retrieved": retrieved,
    "response of a stream retrieved": stream_retrieved,
    "response background cancelled": cancelled,
    "response deleted": deleted,
    "response unknown continued": respond(previous_response_id="resp_unknown"),
    "response unknown retrieved": lambda: result(client.responses.retrieve("resp_unknown")),
    "response unknown cancelled": lambda: result(client.responses.cancel("resp_unknown")),
    "response error 400 field": respond(max_output_tokens="many"),
    "response error 404 model": respond(model="no-model"),
    "response error 429": respond({"mock_fault": "429"}),
    "response error 500": respond({"mock_fault": "500-json"}),
    "response stream error event": respond_stream({"mock_fault": "error-event=4"}),
    "response stream broken": respond_stream({"mock_fault": "fin=5"}),
}

CLIP = {"model": "mock-model", "file": ("clip.wav", b"RIFF" * 2000, "audio/wav")}


def transcribe(fault=None, **more):
    extra = {"mock_fault": fault} if fault else None
    return lambda: result(client.audio.transcriptions.create(**CLIP | more, extra_body=extra))


AUDIO = {
    "transcription": transcribe(),
    "transcription text": transcribe(response_format="text"),
    "transcription verbose": transcribe(response_format="verbose_json"),
    "transcription error 400 format": transcribe(response_format="srt"),
    "transcription stream": lambda: chunks(client.audio.transcriptions.create(**CLIP, stream=True)),
    "translation": lambda: result(client.audio.translations.create(**CLIP)),
    "transcription error 404 model": transcribe(model="no-model"),
    "transcription error 429": transcribe("429"),
    "transcription error 500": transcribe("500-json"),
}

ERRORS = {
    "error 400 field": chat(n="many"),
    "error 400 context length": chat(max_tokens=200000),
    "error 400 stream": chat(extra={"stream": "yes"}),
    "error 404 model": chat(model="no-model"),
    "error 413": chat(messages=[{"role": "user", "content": "\0" * (300 << 10)}]),  # 6 bytes each in JSON
    "error 422": chat(tgi, model="tgi-model", max_tokens=200000),
    "stream error event": stream(extra={"mock_fault": "error-event=3"}),
    "stream error event first": stream(extra={"mock_fault": "error-event-first"}),
    "stream broken": stream(extra={"mock_fault": "fin=3"}),
} | {
    name: chat(extra={"mock_fault": fault})
    for name, fault in {
        "error 401": "401",
        "error 404 unloaded": "404",
        "error 429": "429",
        "error 429 retry-after": "429=2",
        "error 500": "500-json",
        "error 500 engine dead": "500-engine-dead",
        "error 500 empty": "500-empty",
        "error 503": "503",
    }.items()
} | {f"status {code}": chat(status, model=f"status-{code}") for code in (400, 401, 403, 404, 409, 422, 429, 500, 503)}


def retry(fault, tag):
    """An engine sees the fault at the library's first request, however often
    the gateway sends that; the second goes through."""
    http_client = openai.DefaultAsyncHttpxClient(transport=FailingFirst(fault, tag))
    return chat(connect(BASE, max_retries=1, http_client=http_client))


RETRIES = {"retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429")}


def leave(tag, state, after, extra, **more):
    def go(each):
        sent = ask(extra=extra | {"mock_tag": tag}, **more)
        return chunks(sent, each) if more.get("stream") else result(sent)

    return lambda: abort(tag, state, after, go)


def abort_queued():
    extra = FOREVER | {"mock_tag": "seated"}
    return seated(1, lambda: result(ask(extra=extra, model="one-model", n=SEATS)), leave("queued", "queued", 0, {}, model="one-model", stream=True))


def abort_stalled(tag, after, create, extra=None):
    extra = (extra or {}) | {"mock_tag": tag, "mock_fault": f"stall={after}"}
    return lambda: abort(tag, "decode", after, lambda each: chunks(create(stream=True, extra_body=extra), each))


def abort_transcription():
    extra = {"mock_tag": "transcription", "mock_fault": "hang"}
    return abort("transcription", "queued", 0, lambda each: result(client.audio.transcriptions.create(**CLIP, extra_body=extra)))


ABORTS = {
    "abort whole": leave("whole", "prefill", 0, FOREVER),
    "abort before the first token": leave("first", "prefill", 0, FOREVER, stream=True),
    "abort before the head": leave("head", "queued", 0, {"mock_fault": "hang"}, stream=True),
    "abort mid-stream": leave("middle", "decode", 3, {"mock_fault": "stall=3"}, stream=True),
    "abort queued": abort_queued,
    "abort completion": abort_stalled("completion", 2, lambda **more: complete(**more)),
    "abort response": abort_stalled("response", 5, lambda **more: client.responses.create(**ANSWER, **more), {"mock_tokens": 5}),
    "abort transcription": abort_transcription,
}

asyncio.run(run(CHATS | OTHERS | RESPONSES | AUDIO | ERRORS | ABORTS, RETRIES))
