#!/usr/bin/env python3
"""Calls everything that OpenAI's Python client supports on a server, and stops at the first unexpected result.

    openai_client.py LAPIDARY MODEL

It starts `LAPIDARY serve MODEL` itself. Needs the package `openai`.
"""

import contextlib
import json
import sys
import time

import openai
from openai import OpenAI

from running_server import running_server

KEY = "secret"
MESSAGES = [{"role": "user", "content": "And David said unto"}]
PROMPT = "And it came to pass, when David was come to"


@contextlib.contextmanager
def server(binary, model, *options):
    """Runs a server while the context is open; yields a client that does not retry."""
    with running_server(binary, model, *options, variables={"LAPIDARY_API_KEY": KEY}) as url:
        yield OpenAI(base_url=url + "/v1", api_key=KEY, max_retries=0, timeout=60)


def raises(kind, code, ask):
    """Asserts that a call fails with this exception and code."""
    try:
        ask()
    except kind as error:
        assert error.code == code, (error.code, error)
        return error
    raise AssertionError(f"{kind.__name__} was not raised")


def models(client):
    listed = client.models.list().data
    assert len(listed) == 1 and listed[0].object == "model", listed
    assert client.models.retrieve(listed[0].id).id == listed[0].id
    raises(openai.NotFoundError, "model_not_found", lambda: client.models.retrieve("gpt-4"))
    raises(openai.NotFoundError, "not_found", lambda: client.embeddings.create(model="x", input="y"))


def chat(client):
    ask = dict(model="any", messages=MESSAGES, max_completion_tokens=8, temperature=0)
    whole = client.chat.completions.create(**ask)
    choice = whole.choices[0]
    assert whole.object == "chat.completion" and whole.id.startswith("chatcmpl-"), whole
    assert choice.message.role == "assistant" and choice.message.content, choice
    assert choice.finish_reason == "length" and choice.message.tool_calls is None, choice
    assert whole.usage.total_tokens == whole.usage.prompt_tokens + 8, whole.usage
    assert whole.usage.prompt_tokens_details.cached_tokens is not None, whole.usage

    chunks = list(client.chat.completions.create(**ask, stream=True, stream_options={"include_usage": True}))
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert text == choice.message.content, (text, choice)
    assert chunks[0].choices[0].delta.role == "assistant", chunks[0]
    assert chunks[-2].choices[0].finish_reason == "length", chunks[-2]
    assert chunks[-1].choices == [] and chunks[-1].usage.completion_tokens == 8, chunks[-1]

    # The client's helper that assembles a stream; it accepts complete answers only.
    ended = {**ask, "max_completion_tokens": 200}
    with client.chat.completions.stream(**ended) as stream:
        for _ in stream:
            pass
        found = stream.get_final_completion().choices[0]
    expected = client.chat.completions.create(**ended).choices[0]
    assert found.message.content == expected.message.content, (found, expected)
    assert found.finish_reason == expected.finish_reason == "stop", (found, expected)

    likely = client.chat.completions.create(**ask, logprobs=True, top_logprobs=2).choices[0].logprobs
    assert len(likely.content) == 8 and all(len(t.top_logprobs) == 2 for t in likely.content), likely
    assert all(t.logprob <= 0 for t in likely.content), likely
    assert bytes(b for t in likely.content for b in t.bytes).decode() == text, likely

    several = {**ask, "n": 3, "temperature": 1.5, "seed": 7, "top_p": 0.9, "presence_penalty": 0.5}
    first, second = (client.chat.completions.create(**several) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) > 1 and [c.index for c in first.choices] == [0, 1, 2], texts
    assert texts == [choice.message.content for choice in second.choices], texts
    parts = [{"type": "text", "text": "Speak."}]
    roles = [{"role": "developer", "content": "Be brief."}, {"role": "user", "content": parts}]
    assert client.chat.completions.create(**{**ask, "messages": roles}).choices[0].message.content
    stopped = client.chat.completions.create(**ask, stop=text[3:6]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == (text[:3], "stop"), stopped


def formats(client):
    properties = {"name": {"enum": ["David", "Saul"]}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": ["name", "age"], "additionalProperties": False}
    kind = {"type": "json_schema", "json_schema": {"name": "person", "strict": True, "schema": schema}}
    ask = dict(model="any", messages=MESSAGES, max_completion_tokens=200, temperature=1, seed=3)
    answer = client.chat.completions.create(**ask, response_format=kind).choices[0]
    person = json.loads(answer.message.content)
    assert person["name"] in ("David", "Saul") and isinstance(person["age"], int), answer
    assert answer.finish_reason == "stop", answer
    begun = client.chat.completions.create(**ask, response_format={"type": "json_object"}).choices[0]
    assert begun.message.content.lstrip().startswith("{"), begun


def completions(client):
    ask = dict(model="any", prompt=PROMPT, max_tokens=8, temperature=0)
    whole = client.completions.create(**ask)
    assert whole.object == "text_completion" and whole.choices[0].finish_reason == "length", whole
    text = whole.choices[0].text
    streamed = client.completions.create(**ask, stream=True)
    assert "".join(chunk.choices[0].text for chunk in streamed) == text

    echo = client.completions.create(**ask, echo=True, logprobs=2).choices[0]
    assert echo.text == PROMPT + text, echo
    likely = echo.logprobs
    lists = (likely.tokens, likely.token_logprobs, likely.top_logprobs, likely.text_offset)
    assert len({len(one) for one in lists}) == 1 and likely.token_logprobs[0] is None, likely
    assert all(logprob <= 0 for logprob in likely.token_logprobs[1:]), likely
    assert likely.text_offset[-8] == len(PROMPT), likely

    both = client.completions.create(**{**ask, "prompt": [PROMPT, "Selah"], "n": 2})
    assert [choice.index for choice in both.choices] == [0, 1, 2, 3], both
    assert both.choices[0].text == both.choices[1].text == text, both
    ids = client.completions.create(**{**ask, "prompt": [[2, 100, 200], [2, 300]]})
    assert len(ids.choices) == 2, ids


def errors(client):
    def create(**changes):
        ask = {"model": "any", "messages": MESSAGES, "max_tokens": 8, **changes}
        return lambda: client.chat.completions.create(**ask)

    error = raises(openai.BadRequestError, None, create(temperature=3))
    assert error.param == "temperature" and error.type == "invalid_request_error", error
    long = [{"role": "user", "content": "Selah " * 5000}]
    raises(openai.BadRequestError, "context_length_exceeded", create(messages=long))
    image = [{"type": "image_url", "image_url": {"url": "data:image/png;base64,"}}]
    error = raises(openai.BadRequestError, "unsupported_parameter", create(messages=[{"role": "user", "content": image}]))
    assert "image_url" in error.message, error
    tools = [{"type": "function", "function": {"name": "f", "parameters": {}}}]
    error = raises(openai.BadRequestError, "unsupported_parameter", create(tools=tools))
    assert error.param == "tools", error
    stranger = client.with_options(api_key="wrong")
    raises(openai.AuthenticationError, "invalid_api_key", stranger.models.list)
    ask = lambda: stranger.completions.create(model="any", prompt="x")
    raises(openai.AuthenticationError, "invalid_api_key", ask)


def crowd(client):
    """With one slot and a queue of one."""
    endless = dict(model="any", prompt=PROMPT, max_tokens=-1, stream=True, extra_body={"ignore_eos": True})
    short = lambda: client.completions.create(model="any", prompt=PROMPT, max_tokens=1)
    running = client.completions.create(**endless)
    next(iter(running))
    waiting = client.completions.create(**endless)
    error = raises(openai.RateLimitError, "queue_full", short)
    assert float(error.response.headers["retry-after"]) > 0, error.response.headers
    # Closing the streams frees their places.
    waiting.close()
    running.close()
    start = time.monotonic()
    while True:
        try:
            short()
            break
        except openai.RateLimitError:
            assert time.monotonic() - start < 30, "their places are not freed"
            time.sleep(0.05)


def main():
    binary, model = sys.argv[1:]
    with server(binary, model) as client:
        for part in (models, chat, formats, completions, errors):
            part(client)
            print(f"{part.__name__}: as it should be")
    with server(binary, model, "--parallel", "1", "--queue", "1", "--ctx", "1000000") as client:
        crowd(client)
        print("crowd: as it should be")


if __name__ == "__main__":
    main()
