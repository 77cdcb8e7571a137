"""A FastAPI application that speaks vLLM's format behind a real uvicorn, and
leaves rows of what became of each request.

    engine.py KEEP_ALIVE_SECONDS

It prints its address. Clients that leave are noticed the way vLLM does it: a
whole answer by with_cancellation, a stream by starlette's StreamingResponse.
"""

import asyncio
import functools
import json
import socket
import sys
import time
from typing import Optional

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import BaseModel
from uvicorn.protocols.http.auto import AutoHTTPProtocol

app = FastAPI()
rows = []
counts = {"connections": 0, "closed_idle": 0, "served": 0}


class Protocol(AutoHTTPProtocol):
    """uvicorn's own, which counts."""

    def connection_made(self, transport):
        counts["connections"] += 1
        super().connection_made(transport)

    def timeout_keep_alive_handler(self):
        counts["closed_idle"] += 1
        super().timeout_keep_alive_handler()


class ChatRequest(BaseModel):
    model: str
    messages: list
    stream: Optional[bool] = False
    max_tokens: int = 4
    tag: str = ""
    hold: str = ""  # the phase that never ends: "queue", "prefill" or "decode"

    class Config:
        extra = "allow"


async def listen_for_disconnect(request):
    while (await request.receive())["type"] != "http.disconnect":
        pass


def with_cancellation(handler):
    """Cancels the handler when its client leaves, as in vllm.entrypoints.utils."""

    @functools.wraps(handler)
    async def wrapper(request, raw_request):
        work = asyncio.create_task(handler(request, raw_request))
        left = asyncio.create_task(listen_for_disconnect(raw_request))
        done, pending = await asyncio.wait([work, left], return_when=asyncio.FIRST_COMPLETED)
        for task in pending:
            task.cancel()
        return work.result() if work in done else None

    return wrapper


async def enter(row, request, phase):
    row["phase"] = phase
    if request.hold == phase:
        await asyncio.Event().wait()
    await asyncio.sleep(0.001)


def end(row):
    if row["state"] == "running":
        row["state"] = "aborted"


@app.post("/v1/chat/completions")
@with_cancellation
async def chat(request: ChatRequest, raw_request: Request):
    row = {"tag": request.tag, "phase": "", "state": "running"}
    rows.append(row)
    streams = False
    try:
        await enter(row, request, "queue")
        if request.stream:
            streams = True
            return StreamingResponse(generate(row, request), media_type="text/event-stream")
        await enter(row, request, "prefill")
        await enter(row, request, "decode")
        row["state"] = "done"
        counts["served"] += 1
        return JSONResponse(whole(request))
    finally:
        if not streams:
            end(row)


async def generate(row, request):
    try:
        await enter(row, request, "prefill")
        for i in range(request.max_tokens):
            yield event(request, {"role": "assistant", "content": f" {i}"})
            await enter(row, request, "decode")
        yield "data: [DONE]\n\n"
        row["state"] = "done"
        counts["served"] += 1
    finally:
        end(row)


def head(request, kind):
    return {"id": f"chatcmpl-{request.tag}", "object": kind, "created": int(time.time()), "model": request.model}


def event(request, delta):
    chunk = head(request, "chat.completion.chunk")
    chunk["choices"] = [{"index": 0, "delta": delta, "logprobs": None, "finish_reason": None}]
    return f"data: {json.dumps(chunk)}\n\n"


def whole(request):
    text = "".join(f" {i}" for i in range(request.max_tokens))
    answer = head(request, "chat.completion")
    answer["choices"] = [{"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}]
    answer["usage"] = {"prompt_tokens": 1, "completion_tokens": request.max_tokens, "total_tokens": 1 + request.max_tokens}
    return answer


@app.get("/health")
async def health():
    return Response(status_code=200)


@app.get("/ledger")
async def ledger(tag: str):
    return [row for row in rows if row["tag"] == tag]


@app.get("/counts")
async def count():
    return counts


if __name__ == "__main__":
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(2048)
    print("listening on http://%s:%d" % sock.getsockname(), flush=True)
    config = uvicorn.Config(app, http=Protocol, timeout_keep_alive=float(sys.argv[1]), log_level="warning")
    uvicorn.Server(config).run(sockets=[sock])
