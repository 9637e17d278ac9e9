"""Rows in the layouts of published data sets, made up for the tests, become what chat templates take."""

import json
from typing import Any

import pytest

from calibration.texts.conversations import Unreadable, piece_of
from sixfold.texts.chat_template import Chat


def chat_of(row: dict[str, Any]) -> Chat:
    found = piece_of(row)
    assert isinstance(found, Chat)
    return found


def test_instruction_and_output_as_in_evol_codealpaca() -> None:
    chat = chat_of({"instruction": "Add two numbers in C.", "output": "return a + b;"})
    assert chat.messages == [
        {"role": "user", "content": "Add two numbers in C."},
        {"role": "assistant", "content": "return a + b;"},
    ]
    assert chat_of({"instruction": "Sum.", "input": "1 2", "output": "3"}).messages[0]["content"] == "Sum.\n\n1 2"


def test_thinking_as_in_mixture_of_thoughts() -> None:
    said = "<think>\nTwo and two.\n</think>\n\n**4**"
    row = {
        "messages": [{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": said}],
        "num_tokens": 12,
        "source": "made up",
    }
    assert chat_of(row).messages[1] == {"role": "assistant", "content": "**4**", "reasoning_content": "Two and two."}


def test_queries_and_answers_as_in_xlam_function_calling() -> None:
    tool = {
        "name": "tides",
        "description": "Tide times.",
        "parameters": {
            "harbour": {"description": "Where.", "type": "str"},
            "days": {"description": "How many.", "type": "int, optional", "default": 1},
        },
    }
    row = {
        "id": 7,
        "query": "Tides in Bodø?",
        "answers": json.dumps([{"name": "tides", "arguments": {"harbour": "Bodø"}}]),
        "tools": json.dumps([tool]),
    }
    chat = chat_of(row)
    call = {"type": "function", "function": {"name": "tides", "arguments": {"harbour": "Bodø"}}, "id": "call00000"}
    assert chat.messages == [
        {"role": "user", "content": "Tides in Bodø?"},
        {"role": "assistant", "content": "", "tool_calls": [call]},
    ]
    (offered,) = chat.tools
    assert offered["type"] == "function"
    assert offered["function"]["parameters"] == {
        "type": "object",
        "properties": tool["parameters"],
        "required": ["harbour"],
    }


def test_trajectories_as_in_swe_smith() -> None:
    call = {"function": {"name": "bash", "arguments": '{"command": "ls"}'}, "id": "toolu_1", "type": "function"}
    messages = [
        {"role": "system", "content": "You can use a computer.", "agent": "main", "message_type": "system_prompt"},
        {"role": "user", "content": [{"type": "text", "text": "Fix the bug."}], "agent": "main"},
        {"role": "assistant", "content": "Looking.", "thought": "Looking.", "tool_calls": [call]},
        {"role": "tool", "content": [{"type": "text", "text": "setup.py"}], "tool_call_ids": ["toolu_1"]},
    ]
    chat = chat_of({"messages": json.dumps(messages), "instance_id": "x", "resolved": True, "patch": "diff"})
    assert [m["content"] for m in chat.messages] == ["You can use a computer.", "Fix the bug.", "Looking.", "setup.py"]
    assert chat.messages[2]["tool_calls"][0]["function"] == {"name": "bash", "arguments": {"command": "ls"}}
    assert chat.messages[3]["tool_call_id"] == "toolu_1"
    assert chat.tools == []


def test_results_are_tied_to_calls_where_the_row_does_not_say_which() -> None:
    call = {"function": {"name": "f", "arguments": {}}}
    messages = [
        {"role": "assistant", "content": None, "tool_calls": [call, {**call, "id": "own"}]},
        {"role": "tool", "content": "one"},
        {"role": "tool", "content": "two"},
    ]
    asked, *answers = chat_of({"messages": messages}).messages
    assert [c["id"] for c in asked["tool_calls"]] == ["call00000", "own"]
    assert [answer["tool_call_id"] for answer in answers] == ["call00000", "own"]


def test_sharegpt_with_system_tools_and_calls() -> None:
    row = {
        "system": "Be kind.",
        "conversations": [
            {"from": "human", "value": "Time?"},
            {"from": "function_call", "value": '{"name": "clock", "arguments": {}}'},
            {"from": "observation", "value": "12:00"},
            {"from": "gpt", "value": "Noon."},
        ],
        "tools": '[{"name": "clock", "description": "Now.", "parameters": {"type": "object", "properties": {}}}]',
    }
    chat = chat_of(row)
    assert [m["role"] for m in chat.messages] == ["system", "user", "assistant", "tool", "assistant"]
    assert chat.messages[2]["tool_calls"][0]["function"] == {"name": "clock", "arguments": {}}
    assert chat.tools[0]["function"]["name"] == "clock"


def test_what_parquet_fills_in_with_nulls_is_left_out() -> None:
    message = {"role": "user", "content": "Hi", "tool_calls": None, "name": None, "reasoning_content": None}
    assert chat_of({"messages": [message], "text": None, "tools": None}).messages == [{"role": "user", "content": "Hi"}]


def test_plain_text() -> None:
    assert piece_of({"text": "Once.", "url": "x"}) == "Once."


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        ({"messages": []}, "holds no text"),
        ({"text": None}, "holds no text"),
        ({"messages": "[{"}, "it is not valid JSON"),
        ({"messages": [{"content": "x"}]}, "'from' is missing"),
        ({"messages": [{"role": "user", "content": {"a": 1}}]}, "content is text, not dict"),
        ({"messages": [{"role": "user", "content": [{"type": "image"}]}]}, "list without text"),
        ({"query": "q", "answers": '{"name": "f"}', "tools": "[]"}, "a list is expected, not dict"),
        ({"query": "q", "answers": '[{"name": "f"}]', "tools": "[]"}, "'arguments' is missing"),
    ],
)
def test_a_bad_row_of_a_known_layout_says_why(row: dict[str, Any], reason: str) -> None:
    found = piece_of(row)
    assert isinstance(found, Unreadable)
    assert found.known
    assert reason in found.reason


def test_an_unknown_layout_lists_its_fields() -> None:
    found = piece_of({"b": 1, "a": 2})
    assert isinstance(found, Unreadable)
    assert not found.known
    assert "(its fields: a, b)" in found.reason
