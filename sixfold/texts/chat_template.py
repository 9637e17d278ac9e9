"""Conversations as the model sees them: rendered by the chat template, or as close to it as the template allows.

Templates silently drop what they do not know, or refuse it. So a conversation is rendered in several ways, closest to
the template first, and the text is searched for every message, every call and all reasoning.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

from sixfold.boundary.time_limit import time_limit
from sixfold.errors import SixfoldError

TEMPLATE = "chat template"
TOOLS_AS_TEXT = "chat template, tools written into the messages"
FOLDED = "chat template, system and tool messages written as the user's"
PLAIN = "plain, role by role"
THINKING_AS_TEXT = ", thinking written into the messages"
EARLIER_THINKING_DROPPED = ", thinking of earlier turns left out"

_THINKING = "reasoning_content"
_SECONDS = 5.0
"""For one conversation; templates take milliseconds."""

Messages = list[dict[str, Any]]


@dataclass(frozen=True)
class Chat:
    """One conversation and the available tools, as chat templates take them.

    Tool arguments are objects where they were JSON; the assistant's reasoning is in "reasoning_content", without
    <think> tags; contents are strings.
    """

    messages: list[dict[str, Any]]
    tools: list[dict[str, Any]]


@dataclass(frozen=True)
class _Offer:
    """One way to render a conversation with the template. how: its name if nothing is lost."""

    how: str
    messages: Messages
    tools: list[dict[str, Any]]


def render(tokenizer: Any, chat: Chat) -> tuple[str, str]:
    """(text, how). `how` begins with TEMPLATE, TOOLS_AS_TEXT (the template knows no tools), FOLDED (it knows user and
    assistant alone) or PLAIN (it refuses the conversation), and may end with what was done with the reasoning."""
    for offer in _offers(chat):
        apply = partial(_apply, tokenizer, offer.tools)
        for way in (_thinking_as_field, _thinking_inline, _thinking_put_in):
            found = way(apply, offer.messages)
            if found is not None:
                return found[0], offer.how + found[1]
            if not _thoughts(offer.messages):
                break  # the ways differ in nothing else
    written = _inline(_tools_as_text(chat))
    return "".join(f"{m['role']}: {m['content']}\n\n" for m in written), PLAIN + _note(chat)


def _offers(chat: Chat) -> Iterator[_Offer]:
    yield _Offer(TEMPLATE, chat.messages, chat.tools)
    if any(m.get("tool_calls") for m in chat.messages):
        # Some templates join a call's arguments to text, and fail on the object that others want.
        yield _Offer(TEMPLATE, _with_arguments_as_text(chat.messages), chat.tools)
    written = _tools_as_text(chat)
    yield _Offer(TOOLS_AS_TEXT, written, [])
    yield _Offer(FOLDED + _note(chat), _folded(_inline(written)), [])


def _note(chat: Chat) -> str:
    return THINKING_AS_TEXT if _thoughts(chat.messages) else ""


Apply = Callable[[Messages], str | None]


def _thinking_as_field(apply: Apply, messages: Messages) -> tuple[str, str] | None:
    """As templates take it, under either name; many leave out that of turns before the last question, as in use."""
    text = apply([{**m, "thinking": m[_THINKING]} if m.get(_THINKING) else m for m in messages])
    if text is None or not _complete(text, messages):
        return None
    lost = [i for i, m in enumerate(messages) if m.get(_THINKING, "").strip() not in text]
    if not lost:
        return text, ""
    last_question = max((i for i, m in enumerate(messages) if m["role"] == "user"), default=-1)
    return (text, EARLIER_THINKING_DROPPED) if max(lost) < last_question < len(messages) - 1 else None


def _thinking_inline(apply: Apply, messages: Messages) -> tuple[str, str] | None:
    """In <think> tags before what is said."""
    text = apply(_inline(messages))
    if text is None or not _complete(text, messages) or not all(t in text for t in _thoughts(messages)):
        return None
    return text, THINKING_AS_TEXT


def _thinking_put_in(apply: Apply, messages: Messages) -> tuple[str, str] | None:
    """The same, where the template takes <think> out again: it gets a word in place of the message."""
    placeholders = {i: f"PLACE{i}OF{len(messages)}" for i, m in enumerate(messages) if m.get(_THINKING)}
    text = apply([{**m, "content": placeholders.get(i, m["content"])} for i, m in enumerate(_inline(messages))])
    if text is None or not all(text.count(word) == 1 for word in placeholders.values()):
        return None
    for i, word in placeholders.items():
        text = text.replace(word, _inline(messages)[i]["content"])
    return (text, THINKING_AS_TEXT) if _complete(text, messages) else None


def _apply(tokenizer: Any, tools: list[dict[str, Any]], messages: Messages) -> str | None:
    remedy = "the template loops: correct it, or calibrate with plain texts"
    try:
        with time_limit(_SECONDS, "the chat template, rendering one conversation,", remedy):
            return str(tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False))
    except SixfoldError:
        raise
    except Exception:  # a template is the checkpoint's own program and may raise anything on what it does not know
        return None


def _complete(text: str, messages: Messages) -> bool:
    contents = [(m.get("content") or "").strip() for m in messages]
    calls = [call["function"]["name"] for m in messages for call in m.get("tool_calls") or ()]
    return all(part in text for part in contents + calls)


def _thoughts(messages: Messages) -> list[str]:
    return [m[_THINKING].strip() for m in messages if m.get(_THINKING)]


def _inline(messages: Messages) -> Messages:
    return [
        {**{key: value for key, value in m.items() if key != _THINKING}, "content": _thinking_and_content(m)}
        for m in messages
    ]


def _thinking_and_content(message: dict[str, Any]) -> str:
    content: str = message.get("content") or ""
    thinking = message.get(_THINKING)
    return f"<think>\n{thinking.strip()}\n</think>\n\n{content}" if thinking else content


def _with_arguments_as_text(messages: Messages) -> Messages:
    return [{**m, "tool_calls": [_as_text(c) for c in m["tool_calls"]]} if m.get("tool_calls") else m for m in messages]


def _as_text(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    if isinstance(function["arguments"], str):
        return call
    return {**call, "function": {**function, "arguments": json.dumps(function["arguments"], ensure_ascii=False)}}


def _tools_as_text(chat: Chat) -> Messages:
    """Tools in a system message, calls in <tool_call> tags within what is said."""
    messages: Messages = []
    if chat.tools:
        listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in chat.tools)
        messages.append({"role": "system", "content": f"Tools:\n{listed}"})
    for message in chat.messages:
        content = message.get("content") or ""
        for call in message.get("tool_calls") or ():
            written = json.dumps(call["function"], ensure_ascii=False)
            content += f"\n<tool_call>\n{written}\n</tool_call>"
        thinking = {_THINKING: message[_THINKING]} if message.get(_THINKING) else {}
        if messages and messages[-1]["role"] == message["role"] == "system":
            messages[-1] = {"role": "system", "content": f"{content}\n\n{messages[-1]['content']}"}
        else:
            messages.append({"role": message["role"], "content": content.strip(), **thinking})
    return messages


def _folded(messages: Messages) -> Messages:
    """Everything but the assistant's messages as the user's; neighbors of one role become one message."""
    folded: Messages = []
    for message in messages:
        role = "assistant" if message["role"] == "assistant" else "user"
        if folded and folded[-1]["role"] == role:
            folded[-1] = {"role": role, "content": f"{folded[-1]['content']}\n\n{message['content']}"}
        else:
            folded.append({"role": role, "content": message["content"]})
    return folded
