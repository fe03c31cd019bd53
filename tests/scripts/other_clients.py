#!/usr/bin/env python3
"""Calls what clients of other APIs than OpenAI's own send to a server, and stops at the first unexpected result.

    other_clients.py LAPIDARY MODEL

It starts `LAPIDARY serve MODEL` itself. Needs the packages `ollama` and `huggingface_hub`. What works and what is
refused by name is printed, a row each.
"""

import json
import sys

import huggingface_hub
import ollama

from running_server import running_server

MESSAGES = [{"role": "user", "content": "And David said unto"}]
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
OPTIONS = {"temperature": 0, "num_predict": 60}


def refused(kind, name, ask):
    """Asserts that a call is refused with a message that names the field."""
    try:
        ask()
    except kind as error:
        assert name in str(error), error
        return
    raise AssertionError(f"{name} was not refused")


def of_ollama(url):
    client = ollama.Client(host=url)
    name = client.list().models[0].model
    assert client.ps().models[0].model == name
    assert client.show(name).details.family == "gemma2"
    yield "ollama: list, ps, show"
    whole = client.chat(name, MESSAGES, options=OPTIONS)
    assert whole.done and whole.message.role == "assistant" and whole.eval_count > 0, whole
    parts = list(client.chat(name, MESSAGES, options=OPTIONS, stream=True))
    assert "".join(part.message.content for part in parts) == whole.message.content
    assert parts[-1].done and not parts[0].done
    yield "ollama: chat, whole and streamed"
    text = client.generate(name, "And David said unto", options=OPTIONS).response
    assert text == whole.message.content, (text, whole)
    assert client.generate(name, "And David", raw=True, options=OPTIONS).response
    assert client.generate(name).done_reason == "load"
    yield "ollama: generate, raw, load"
    answer = client.chat(name, MESSAGES, format=SCHEMA, options={"num_predict": 100, "seed": 1})
    assert isinstance(json.loads(answer.message.content)["age"], int), answer
    yield "ollama: format"
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
    refused(ollama.ResponseError, "tools", lambda: client.chat(name, MESSAGES, tools=[tool]))
    refused(ollama.ResponseError, "think", lambda: client.chat(name, MESSAGES, think=True))
    image = [{"role": "user", "content": "x", "images": [b"png"]}]
    refused(ollama.ResponseError, "images", lambda: client.chat(name, image))
    refused(ollama.ResponseError, "", lambda: client.embed(name, "x"))
    yield "ollama: tools, think, images and embed are refused"


def of_huggingface(url):
    client = huggingface_hub.InferenceClient(base_url=url + "/v1", api_key="none")
    answer = client.chat_completion(MESSAGES, max_tokens=8, temperature=0)
    assert answer.choices[0].message.content, answer
    parts = client.chat_completion(MESSAGES, max_tokens=8, temperature=0, stream=True)
    text = "".join(part.choices[0].delta.content or "" for part in parts if part.choices)
    assert text == answer.choices[0].message.content, (text, answer)
    yield "huggingface_hub: chat_completion, whole and streamed"
    for value in [{"type": "json_object", "value": SCHEMA},
                  {"type": "json_schema", "json_schema": {"name": "n", "schema": SCHEMA}}]:
        answer = client.chat_completion(MESSAGES, max_tokens=100, seed=1, response_format=value)
        assert isinstance(json.loads(answer.choices[0].message.content)["age"], int), answer
    yield "huggingface_hub: response_format"
    tool = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
    refused(huggingface_hub.errors.HfHubHTTPError, "tools", lambda: client.chat_completion(MESSAGES, tools=[tool]))
    yield "huggingface_hub: tools are refused"


def main():
    binary, model = sys.argv[1:]
    with running_server(binary, model) as url:
        for rows in [of_ollama, of_huggingface]:
            for row in rows(url):
                print(f"ok      {row}", flush=True)


if __name__ == "__main__":
    main()
