"""No part of a conversation is lost to a chat template, and what had to be done for that is said."""

from typing import Any

import pytest

from calibration.texts.conversations import piece_of
from sixfold.texts.chat_template import (
    EARLIER_THINKING_DROPPED,
    FOLDED,
    PLAIN,
    TEMPLATE,
    THINKING_AS_TEXT,
    TOOLS_AS_TEXT,
    Chat,
    render,
)
from tests.calibration.texts.word_tokenizer import words_tokenizer

CALL = {"type": "function", "function": {"name": "weather", "arguments": {"city": "Bergen"}}}
TOOL = {"type": "function", "function": {"name": "weather", "description": "Looks it up", "parameters": {}}}
TOOLS = Chat(
    [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Rain?"},
        {"role": "assistant", "content": "", "tool_calls": [CALL]},
        {"role": "tool", "content": "yes"},
        {"role": "assistant", "content": "Yes."},
    ],
    [TOOL],
)
KNOWS_TOOLS = (
    "{% for t in tools or [] %}[{{ t.function.name }}]{% endfor %}{% for m in messages %}{{ m.role }}:{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<{{ c.function.name }}ARGUMENTS>{% endfor %};{% endfor %}"
)
TAKES_OBJECTS = KNOWS_TOOLS.replace(
    "ARGUMENTS", "{% for k, v in c.function.arguments.items() %} {{ k }}={{ v }}{% endfor %}"
)
TAKES_TEXT = KNOWS_TOOLS.replace("ARGUMENTS", "{{ ' ' + c.function.arguments }}")
DROPS_TOOLS = "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}"
ALTERNATES = (
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('roles') }}"
    "{% endif %}{{ m.role }}:{{ m.content }};{% endfor %}"
)
REFUSES = "{{ raise_exception('no') }}"


def templated(template: str | None) -> Any:
    """A tokenizer that has this chat template and needs nothing else."""
    tokenizer = words_tokenizer(bos=False)
    tokenizer.chat_template = template
    return tokenizer


@pytest.mark.parametrize(
    ("template", "how", "call"),
    [
        (TAKES_OBJECTS, TEMPLATE, "<weather city=Bergen>"),
        (TAKES_TEXT, TEMPLATE, '<weather {"city": "Bergen"}>'),
        (DROPS_TOOLS, TOOLS_AS_TEXT, '{"name": "weather", "arguments": {"city": "Bergen"}}'),
        (ALTERNATES, FOLDED, '{"name": "weather", "arguments": {"city": "Bergen"}}'),
        (REFUSES, PLAIN, '{"name": "weather", "arguments": {"city": "Bergen"}}'),
        (None, PLAIN, '{"name": "weather", "arguments": {"city": "Bergen"}}'),
    ],
)
def test_tools(template: str | None, how: str, call: str) -> None:
    text, found = render(templated(template), TOOLS)
    assert found == how
    for part in ("Be brief.", "Rain?", call, "yes", "Yes."):
        assert part in text
    if how != TEMPLATE:
        assert "Looks it up" in text


FIELD = (
    "{% for m in messages %}{{ m.role }}:"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }};{% endfor %}"
)
LAST_ONLY = FIELD.replace("{% if m.reasoning_content %}", "{% if m.reasoning_content and loop.last %}")
CUTS_THINKING = "{% for m in messages %}{{ m.role }}:{{ m.content.split('</think>')[-1] }};{% endfor %}"
THOUGHT = Chat(
    [
        {"role": "user", "content": "One?"},
        {"role": "assistant", "content": "First.", "reasoning_content": "hmm one"},
        {"role": "user", "content": "Two?"},
        {"role": "assistant", "content": "Second.", "reasoning_content": "hmm two"},
    ],
    [],
)


@pytest.mark.parametrize(
    ("template", "how"),
    [
        (FIELD, TEMPLATE),
        (LAST_ONLY, TEMPLATE + EARLIER_THINKING_DROPPED),
        (DROPS_TOOLS, TEMPLATE + THINKING_AS_TEXT),
        (CUTS_THINKING, TEMPLATE + THINKING_AS_TEXT),
        (REFUSES, PLAIN + THINKING_AS_TEXT),
    ],
)
def test_thinking(template: str, how: str) -> None:
    text, found = render(templated(template), THOUGHT)
    assert found == how
    assert ("hmm one" in text) == (not how.endswith(EARLIER_THINKING_DROPPED))
    assert text.index("Two?") < text.index("hmm two") < text.index("Second.")


def test_the_last_thought_is_never_given_up() -> None:
    """A template that shows the thinking of no turn does not pass for one that only drops the earlier ones."""
    once = Chat(THOUGHT.messages[:2], [])
    text, how = render(templated(CUTS_THINKING), once)
    assert text == "user:One?;assistant:<think>\nhmm one\n</think>\n\nFirst.;"
    assert how == TEMPLATE + THINKING_AS_TEXT


def test_thinking_survives_folding() -> None:
    messages = [THOUGHT.messages[1], *THOUGHT.messages]
    text, how = render(templated(ALTERNATES), Chat([{"role": "system", "content": "S"}, *messages], []))
    assert how == FOLDED + THINKING_AS_TEXT
    assert text.count("hmm one") == 2
    assert text.startswith("user:S;assistant:<think>")


def test_a_conversation_that_the_template_knows_is_left_to_it() -> None:
    tokenizer = templated(FIELD)
    chat = piece_of(
        {"messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "<think>b</think>c"}]}
    )
    assert isinstance(chat, Chat)
    assert render(tokenizer, chat) == (tokenizer.apply_chat_template(chat.messages, tokenize=False), TEMPLATE)
