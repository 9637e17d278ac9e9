"""Rows of datasets, in the usual published layouts, as conversations and texts.

One row is a mapping. Known layouts, tried in this order:

- "messages" or "conversations": a list, or that list as JSON text, of {"role", "content"} or ShareGPT's
  {"from", "value"}; beside it "tools" and "system";
- "query", "answers" and "tools": one question and the calls that answer it (xlam-function-calling);
- an instruction with its answer, under the names in PAIRS, with "input" and "system" where there are any;
- "text": plain text.
"""

import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sixfold.boundary.json_text import parse_json
from sixfold.errors import SixfoldError
from sixfold.texts.chat_template import Chat

LISTS = ("messages", "conversations", "conversation")
PAIRS = (
    ("instruction", "output"),
    ("instruction", "response"),
    ("prompt", "completion"),
    ("prompt", "response"),
    ("question", "answer"),
)
_LAYOUTS = tuple(map(frozenset, (*((name,) for name in LISTS), ("query", "answers"), *PAIRS, ("text",))))
COLUMNS = frozenset[str]().union(*_LAYOUTS, ("input", "system", "tools"))
"""Every field that a layout uses: what has to be read of a row."""

_ROLES = {
    "human": "user",
    "gpt": "assistant",
    "model": "assistant",
    "bot": "assistant",
    "function": "tool",
    "observation": "tool",
    "function_response": "tool",
    "tool_response": "tool",
}
_CALL_ROLES = ("function_call", "tool_call")
_THINKING = re.compile(r"\s*<think>(.*?)</think>\s*(.*)", re.DOTALL)


@dataclass(frozen=True)
class Unreadable:
    """A row that cannot be used. known: whether its layout is known, so that the problem is only in this row."""

    reason: str
    known: bool = True


def unusable(found: Unreadable, where: str) -> Unreadable:
    """`found` with its place in front. Raises SixfoldError where the layout is unknown: other rows have it too."""
    if not found.known:
        raise SixfoldError(f"{where} {found.reason}", "rename its fields: calibration/README.md lists the layouts")
    return Unreadable(f"{where} {found.reason}")


Piece = str | Chat


def piece_of(row: Mapping[str, Any]) -> Piece | Unreadable:
    """What a row holds."""
    try:
        return _piece(row)
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        return Unreadable(f"does not match its layout ({_reason(error)})")


def _reason(error: Exception) -> str:
    return f"{error.args[0]!r} is missing" if isinstance(error, KeyError) else str(error)


def _piece(row: Mapping[str, Any]) -> Piece | Unreadable:
    listed = next((row[name] for name in LISTS if row.get(name)), None)
    if listed is not None:
        messages = [_message(message) for message in _decoded(listed)]
    elif row.get("query") and row.get("answers"):
        calls = [_call(call) for call in _decoded(row["answers"])]
        messages = [_said("user", row["query"]), {"role": "assistant", "content": "", "tool_calls": calls}]
    elif pair := next((p for p in PAIRS if row.get(p[0]) and row.get(p[1])), None):
        question = "\n\n".join(_text(row[name]) for name in (pair[0], "input") if row.get(name))
        messages = [_said("user", question), _with_thinking(_said("assistant", row[pair[1]]))]
    elif isinstance(row.get("text"), str):
        return str(row["text"])
    elif any(layout <= row.keys() for layout in _LAYOUTS):
        return Unreadable("holds no text")
    else:
        names = ", ".join(sorted(map(str, row))) or "none"
        return Unreadable(f'has neither "messages" nor "text", nor another known layout (its fields: {names})', False)
    if row.get("system") and messages[0]["role"] != "system":
        messages.insert(0, _said("system", row["system"]))
    _number_calls(messages)
    return Chat(messages, [_tool(tool) for tool in _decoded(row.get("tools") or [])])


def _number_calls(messages: list[dict[str, Any]]) -> None:
    """Ids for the calls without one, and for the results after them: templates may ask for both. They have the nine
    characters that Mistral's want."""
    calls = [call for message in messages for call in message.get("tool_calls") or ()]
    for number, call in enumerate(calls):
        call.setdefault("id", f"call{number:05d}")
    open_calls: list[str] = []
    for message in messages:
        open_calls += [call["id"] for call in message.get("tool_calls") or ()]
        if message["role"] == "tool" and open_calls:
            answered = message.setdefault("tool_call_id", open_calls[0])
            open_calls = [call for call in open_calls if call != answered]


def _parsed(text: str) -> Any:
    """Raises ValueError."""
    try:
        return parse_json(text, "it")
    except SixfoldError as error:
        raise ValueError(error.what) from None


def _decoded(value: Any) -> list[Any]:
    """A list, or a list as JSON text."""
    found = _parsed(value) if isinstance(value, str) else value
    if not isinstance(found, list):
        raise ValueError(f"a list is expected, not {type(found).__name__}")
    return found


def _message(raw: Mapping[str, Any]) -> dict[str, Any]:
    role = raw["role"] if raw.get("role") else raw["from"]
    content = raw.get("content") if "content" in raw else raw.get("value")
    if role in _CALL_ROLES:
        return {"role": "assistant", "content": "", "tool_calls": [_call(_parsed(_text(content)))]}
    message = _said(_ROLES.get(role, role), content)
    answered = raw.get("tool_call_id") or next(iter(raw.get("tool_call_ids") or ()), None)
    message |= {key: value for key, value in (("name", raw.get("name")), ("tool_call_id", answered)) if value}
    if calls := raw.get("tool_calls"):
        message["tool_calls"] = [_call(call) for call in _decoded(calls)]
    if reasoning := raw.get("reasoning_content") or raw.get("reasoning") or raw.get("thinking"):
        message["reasoning_content"] = _text(reasoning)
        return message
    return _with_thinking(message)


def _said(role: Any, content: Any) -> dict[str, Any]:
    if not isinstance(role, str):
        raise ValueError(f"{role!r} is not a known role")
    return {"role": role, "content": _text(content)}


def _text(content: Any) -> str:
    """A string, or the texts in a list of parts."""
    if content is None or isinstance(content, str):
        return content or ""
    if not isinstance(content, list):
        raise ValueError(f"a message's content is text, not {type(content).__name__}")
    texts = [part if isinstance(part, str) else part.get("text") for part in content]
    if content and not any(texts):
        raise ValueError("a message's content is a list without text")
    return "\n".join(text for text in texts if isinstance(text, str))


def _with_thinking(message: dict[str, Any]) -> dict[str, Any]:
    """<think> at the start of the assistant's message, as the field that templates take."""
    found = _THINKING.fullmatch(message["content"]) if message["role"] == "assistant" else None
    if found is None:
        return message
    return {**message, "content": found[2], "reasoning_content": found[1].strip()}


def _call(raw: Mapping[str, Any]) -> dict[str, Any]:
    function = raw.get("function") or raw
    arguments = function["arguments"]
    if isinstance(arguments, str):
        with suppress(ValueError):  # what a model wrote may not be JSON: templates get it as it is
            arguments = _parsed(arguments)
    call = {"type": "function", "function": {"name": function["name"], "arguments": arguments}}
    return {**call, "id": raw["id"]} if raw.get("id") else call


def _tool(raw: Mapping[str, Any]) -> dict[str, Any]:
    """A tool as {"type": "function", "function": {...}} with a JSON schema of its parameters."""
    if isinstance(raw.get("function"), dict):
        return {"type": "function", **raw}
    function = {**raw, "name": raw["name"]}
    parameters = function.get("parameters") or {}
    if "properties" not in parameters and parameters.get("type") != "object":
        required = [name for name, about in parameters.items() if "optional" not in str(about.get("type"))]
        function["parameters"] = {"type": "object", "properties": parameters, "required": required}
    return {"type": "function", "function": function}
