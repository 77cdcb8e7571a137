"""The official Anthropic library in every way that the table of the test
names."""

import asyncio

import anthropic

from suite import BASE, FOREVER, SEATS, STATUS, FailingFirst, Reader, abort, run, seated


def connect(base, **more):
    return anthropic.AsyncAnthropic(base_url=base, timeout=30, **{"api_key": "sk-client", "max_retries": 0} | more)


client, status = connect(BASE), connect(STATUS)
reader = Reader(anthropic.APIError)
result, chunks = reader.result, reader.chunks

BODY = {"model": "mock-model", "max_tokens": 5, "messages": [{"role": "user", "content": "hello"}]}
TOOLS = {
    "max_tokens": 100,
    "tool_choice": {"type": "any"},
    "tools": [{"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}],
}
BLOCKS = {
    "system": [{"type": "text", "text": "Be brief."}],
    "messages": [{"role": "user", "content": [{"type": "text", "text": "hello"}]}],
}


def ask(connection=client, extra=None, **more):
    return connection.messages.create(**BODY | more, extra_body=extra)


def message(*args, **more):
    return lambda: result(ask(*args, **more))


def stream(**more):
    return lambda: chunks(ask(stream=True, **more))


def count(**more):
    return lambda: result(client.messages.count_tokens(**{"model": "mock-model", "messages": BODY["messages"]} | more))


async def helper():
    async with client.messages.stream(**BODY | TOOLS) as s:
        final = (await s.get_final_message()).to_dict(mode="json")
    return {"role": final["role"], "content": final["content"], "stop_reason": final["stop_reason"]}


def head(response):
    return {"status": response.status_code, "content_type": response.headers["content-type"]}


async def headers():
    return head(await client.messages.with_raw_response.create(**BODY))


async def stream_headers():
    async with client.messages.with_streaming_response.create(**BODY, stream=True) as response:
        await response.read()
        return head(response)


async def request_id():
    return "x-request-id" in (await client.messages.with_raw_response.create(**BODY)).headers


MESSAGES = {
    "message": message(),
    "message system": message(system="Be brief."),
    "message blocks": message(**BLOCKS),
    "message end of turn": message(max_tokens=100, extra={"mock_tokens": 3}),
    "message tools": message(**TOOLS),
    "message thinking": message(extra={"mock_reasoning": 2}),
    "message of a bearer": message(connect(BASE, api_key=None, auth_token="sk-client")),
    "message stream": stream(),
    "message stream tools": stream(**TOOLS),
    "message stream thinking": stream(extra={"mock_reasoning": 2}),
    "message stream helper": helper,
    "count tokens": count(),
    "count tokens blocks": count(**BLOCKS),
    "headers": headers,
    "headers of a stream": stream_headers,
    "request id": request_id,
}

ERRORS = {
    "error 400 field": message(max_tokens="many"),
    "error 400 no max_tokens": message(extra={"max_tokens": None}),
    "error 400 context length": message(max_tokens=200000),
    "error 404 model": message(model="no-model"),
    "error 404 model of count tokens": count(model="no-model"),
    "error 413": message(messages=[{"role": "user", "content": "\0" * (300 << 10)}]),  # 6 bytes each in JSON
    "stream error event": stream(extra={"mock_fault": "error-event=4"}),
    "stream error event first": stream(extra={"mock_fault": "error-event-first"}),
    "stream broken": stream(extra={"mock_fault": "fin=4"}),
} | {
    name: message(extra={"mock_fault": fault})
    for name, fault in {
        "error 401": "401",
        "error 404 unloaded": "404",
        "error 429 retry-after": "429=2",
        "error 500": "500-json",
        "error 500 empty": "500-empty",
        "error 503": "503",
    }.items()
} | {f"status {code}": message(status, model=f"status-{code}") for code in (400, 401, 403, 404, 409, 413, 422, 429, 500, 503, 529)}


def retry(fault, tag):
    """An engine sees the fault at the library's first request, however often
    the gateway sends that; the second goes through."""
    http_client = anthropic.DefaultAsyncHttpxClient(transport=FailingFirst(fault, tag))
    return message(connect(BASE, max_retries=1, http_client=http_client))


RETRIES = {"retry after 503": retry("503", "retry-503"), "retry after 429": retry("429=1", "retry-429")}


def leave(tag, state, after, extra, **more):
    def go(each):
        sent = ask(extra=extra | {"mock_tag": tag}, **more)
        return chunks(sent, each) if more.get("stream") else result(sent)

    return lambda: abort(tag, state, after, go)


def abort_queued():
    seat = message(model="one-model", extra=FOREVER | {"mock_tag": "seated"})
    return seated(SEATS, seat, leave("queued", "queued", 0, {}, model="one-model", stream=True))


ABORTS = {
    "abort whole": leave("whole", "prefill", 0, FOREVER),
    "abort before the first token": leave("first", "prefill", 0, FOREVER, stream=True),
    "abort mid-stream": leave("middle", "decode", 4, {"mock_fault": "stall=4"}, stream=True),
    "abort queued": abort_queued,
}

asyncio.run(run(MESSAGES | ERRORS | ABORTS, RETRIES))
