"""Conversations as the model sees them: through the chat template, or as near to it as the template goes."""

import json
from typing import Any

from calibration.conversations import Chat

TEMPLATE = "chat template"
TOOLS_AS_TEXT = "chat template, tools written into the messages"
PLAIN = "plain, role by role"


def render(tokenizer: Any, chat: Chat) -> tuple[str, str]:
    """(text, how): `how` is TEMPLATE, TOOLS_AS_TEXT (it knows no tools) or PLAIN (it refuses the conversation).

    Templates drop what they do not know without a word, so the text is searched for every message and every call.
    """
    whole = _apply(tokenizer, chat.messages, chat.tools)
    if whole is not None and _complete(whole, chat.messages):
        return whole, TEMPLATE
    written = _tools_as_text(chat)
    whole = _apply(tokenizer, written, [])
    if whole is not None and _complete(whole, written):
        return whole, TOOLS_AS_TEXT
    return "".join(f"{m['role']}: {m['content']}\n\n" for m in written), PLAIN


def _apply(tokenizer: Any, messages: list[dict[str, Any]], tools: list[dict[str, Any]]) -> str | None:
    try:
        return str(tokenizer.apply_chat_template(messages, tools=tools or None, tokenize=False))
    except Exception:  # a template is the checkpoint's own program: on what it does not know, it raises what it likes
        return None


def _complete(text: str, messages: list[dict[str, Any]]) -> bool:
    contents = [(m.get("content") or "").strip() for m in messages]
    calls = [call["function"]["name"] for m in messages for call in m.get("tool_calls") or ()]
    return all(part in text for part in contents + calls)


def _tools_as_text(chat: Chat) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    if chat.tools:
        listed = "\n".join(json.dumps(tool["function"], ensure_ascii=False) for tool in chat.tools)
        messages.append({"role": "system", "content": f"Tools:\n{listed}"})
    for message in chat.messages:
        content = message.get("content") or ""
        for call in message.get("tool_calls") or ():
            written = json.dumps(call["function"], ensure_ascii=False)
            content += f"\n<tool_call>\n{written}\n</tool_call>"
        if messages and messages[-1]["role"] == message["role"] == "system":
            messages[-1] = {"role": "system", "content": f"{content}\n\n{messages[-1]['content']}"}
        else:
            messages.append({"role": message["role"], "content": content.strip()})
    return messages
