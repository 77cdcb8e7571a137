"""A library with its own idea of when to try again, as the user of keys with
limits. The arguments are which library, what a big answer has at most in
tokens, and the cases. Nothing here says how often a request is tried: that is
left to the library."""

import asyncio
import sys

import anthropic
import openai

from suite import BASE, Reader, run

library, most, *wanted = sys.argv[1:]
MESSAGES = [{"role": "user", "content": "hi there"}]


def openai_user():
    """Returns ask, which sends one request with a key and tells how the answer
    ended."""
    client = openai.AsyncOpenAI(base_url=f"{BASE}/v1", api_key="none")

    async def ask(key, **body):
        answer = await client.with_options(api_key=key).chat.completions.create(messages=MESSAGES, **body)
        if not body.get("stream"):
            return answer.choices[0].finish_reason
        return [c.choices[0].finish_reason async for c in answer if c.choices][-1]

    return ask


def anthropic_user():
    client = anthropic.AsyncAnthropic(base_url=BASE, api_key="none")

    async def ask(key, **body):
        answer = await client.with_options(api_key=key).messages.create(messages=MESSAGES, **body)
        if not body.get("stream"):
            return answer.stop_reason
        return [e.delta.stop_reason async for e in answer if e.type == "message_delta"][-1]

    return ask


user, errors = {
    "openai": (openai_user, openai.APIError),
    "anthropic": (anthropic_user, anthropic.APIError),
}[library]
ask, result = user(), Reader(errors).result


def one(name, n, **more):
    """A request of a case, which has a key and a model of its own; the header
    tells the requests of a key apart."""
    body = {"model": name, "max_tokens": 5, "extra_headers": {"X-Number": str(n)}} | more
    return result(ask(f"sk-limits-{name}", **body))


def in_turn(name, **more):
    async def go():
        return [await one(name, n, **more) for n in range(3)]

    return go


def at_once(name, **more):
    return lambda: asyncio.gather(*(one(name, n, **more) for n in range(3)))


def refused(name):
    return lambda: asyncio.gather(one(name, 0))


BIG = int(most)
CASES = {
    "second": in_turn("second"),
    "second-at-once": at_once("second-at-once"),
    "streams-at-once": at_once("streams-at-once", stream=True),
    "minute": in_turn("minute"),
    "minute-at-once": at_once("minute-at-once"),
    "tokens": in_turn("tokens", max_tokens=BIG),
    "tokens-at-once": at_once("tokens-at-once", max_tokens=BIG),
} | {name: refused(name) for name in ("quota", "debt", "unknown", "address", "model")}

asyncio.run(run({}, {name: CASES[name] for name in wanted}))
