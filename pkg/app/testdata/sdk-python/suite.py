"""What the suites of this directory share. A suite is a dict of cases: each
returns what the user of a library gets, and all are printed as one JSON
object."""

import asyncio
import json
import os
import time
import traceback
import urllib.request

import httpx2

BASE, TGI, STATUS = (os.environ[name] for name in ("BASE", "TGI", "STATUS"))
SEATS = int(os.environ["SEATS"])
FOREVER = {"mock_prefill_ms": 2**30}


def text(value):
    """A field of an error that may be missing, for comparing."""
    return "" if value is None else str(value)


def plain(value):
    """An answer as it came: fields that were not sent are left out."""
    if isinstance(value, list):
        return [plain(v) for v in value]
    return value.to_dict(mode="json") if hasattr(value, "to_dict") else value


def failure(error):
    """What an APIError of either library tells."""
    body = getattr(error, "body", None)
    if isinstance(body, dict):
        body = body.get("error", body)  # Anthropic's keeps the whole
    response = getattr(error, "response", None)
    headers = {} if response is None else response.headers
    return {
        "class": type(error).__name__,
        "status": getattr(error, "status_code", 0),
        "type": text(getattr(error, "type", None)),
        "code": text(getattr(error, "code", None)),
        "param": text(getattr(error, "param", None)),
        "message": text(body.get("message") if isinstance(body, dict) else str(error)),
        "retry_after": headers.get("retry-after", ""),
        "retry_after_ms": headers.get("retry-after-ms", ""),
    }


class Reader:
    """Reads answers of a library, which has these errors and lets its HTTP
    client's through."""

    def __init__(self, errors):
        self.errors = errors

    async def result(self, answer):
        try:
            return plain(await answer)
        except self.errors as e:
            return {"error": failure(e)}
        except asyncio.CancelledError:
            return {"error": {"class": "aborted"}}

    async def chunks(self, answer, each=lambda n: None):
        """A stream's events as far as they come; each is told the number of
        every one."""
        got, error = [], None
        try:
            async for chunk in await answer:
                got.append(plain(chunk))
                each(len(got))
        except self.errors as e:
            error = failure(e)
        except httpx2.HTTPError as e:
            error = {"class": "other", "name": type(e).__name__}
        except asyncio.CancelledError:
            error = {"class": "aborted"}
        return {"chunks": got, "error": error}


class FailingFirst(httpx2.AsyncHTTPTransport):
    """Marks requests, the first of which meets a fault at every engine."""

    def __init__(self, fault, tag):
        super().__init__()
        self.fields = [{"mock_fault": fault, "mock_tag": tag}, {"mock_tag": tag}]

    async def handle_async_request(self, request):
        fields = self.fields.pop(0)
        headers = [(k, v) for k, v in request.headers.items() if k != "content-length"]
        content = json.dumps(json.loads(request.content) | fields)
        marked = httpx2.Request(request.method, request.url, headers=headers, content=content, extensions=request.extensions)
        return await super().handle_async_request(marked)


def ledger(tag, state):
    with urllib.request.urlopen(f"{os.environ['ADMIN']}/ledger?tag={tag}&state={state}") as r:
        return json.load(r)


async def seen(tag, state, requests=1):
    """Waits until an engine has the tagged request in that state, or several."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        rows = await asyncio.to_thread(ledger, tag, state)
        if len(rows) >= requests:
            return rows[0]
    raise TimeoutError(f"{tag} never came to be {state}")


async def abort(tag, state, after, ask):
    """Cancels a request once an engine has it in that state and the client that
    many chunks, and tells what the engine knows of it then. ask does it, and
    tells each the number of every chunk."""
    reached = asyncio.Event()
    task = asyncio.create_task(ask(lambda n: reached.set() if n == after else None))
    if after > 0:
        read = asyncio.create_task(reached.wait())
        await asyncio.wait([task, read], return_when=asyncio.FIRST_COMPLETED)
        read.cancel()
    await seen(tag, state)
    task.cancel()
    got = await task
    found = await seen(tag, "aborted")
    return {"error": got.get("error"), "state": found["state"], "phase": found["abort_phase"]}


async def seated(requests, ask, during):
    """Takes all of the engine's seats, by so many requests, for as long as
    during takes."""
    tasks = [asyncio.create_task(ask()) for _ in range(requests)]
    await seen("seated", "prefill", requests)
    got = await during()
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)
    await seen("seated", "aborted")
    return got


async def outcome(ask):
    try:
        return await asyncio.wait_for(ask(), 20)
    except Exception:
        return {"thrown": traceback.format_exc()}


async def run(cases, slow):
    """Does the cases one after the other, the slow ones beside them, and prints
    what they returned. What a case throws fails the test."""
    beside = {name: asyncio.create_task(outcome(ask)) for name, ask in slow.items()}
    record = {name: await outcome(ask) for name, ask in cases.items()}
    record |= {name: await task for name, task in beside.items()}
    print(json.dumps(record))
