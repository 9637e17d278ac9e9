"""The data as OpenAI has it, and its tests as the sandbox runs them: solutions pass, what is nearly one does not."""

from concurrent.futures import ThreadPoolExecutor

import pytest

from evaluation.benchmarks.humaneval import Problem, chat_questions, judged, problems, raw_questions
from evaluation.benchmarks.tasks import TASKS, questions_of
from evaluation.client.asking import Answer
from evaluation.sandbox.isolation import isolation


def passing(answers: list[Answer], *, raw: bool) -> list[str]:
    with ThreadPoolExecutor(2) as pool:
        verdicts = list(pool.map(lambda answer: judged(answer, isolation(), raw=raw), answers))
    return [answer.task_id for answer, verdict in zip(answers, verdicts, strict=True) if verdict.passed]


def chat(problem: Problem, solution: str) -> Answer:
    return Answer(problem.task_id, 0, f"Here:\n\n```python\n{problem.prompt}{solution}\n```\n", "", "stop")


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.engines)])
def test_canonical_solutions_pass(every: int) -> None:
    """In turns as answers in a conversation and as raw completions."""
    assert len(problems()) == 164
    tried = problems()[::every]
    spoken = [chat(p, p.canonical_solution) for p in tried[::2]]
    assert passing(spoken, raw=False) == [p.task_id for p in tried[::2]]
    raw = [Answer(p.task_id, 0, f"\n{p.canonical_solution}", "", "stop") for p in tried[1::2]]
    assert passing(raw, raw=True) == [p.task_id for p in tried[1::2]]


@pytest.mark.parametrize("every", [12, pytest.param(1, marks=pytest.mark.engines)])
def test_mutated_solutions_do_not(every: int) -> None:
    """Every function hands back its right result in a list of its own."""
    in_a_list = "{0}\n_right = {1}\ndef {1}(*given):\n    return [_right(*given)]\n"
    mutated = [chat(p, in_a_list.format(p.canonical_solution, p.entry_point)) for p in problems()[::every]]
    assert passing(mutated, raw=False) == []


CHEATS = {
    32: "    return 0.0\n\ndef poly(*given):\n    return 0.0\n",
    38: "    return s\n\ndef encode_cyclic(s):\n    return s\n",
    50: "    return s\n\ndef encode_shift(s):\n    return s\n",
}
"""Answers that bring a helper with them that the problem's test calls: run in one process with it, they would pass."""


def test_the_tests_call_the_helpers_of_the_prompt() -> None:
    cheats = [chat(problems()[number], solution) for number, solution in CHEATS.items()]
    assert passing(cheats, raw=False) == []
    shift = problems()[50]
    raising = f"{shift.canonical_solution}\n\ndef encode_shift(s):\n    raise ValueError\n"
    assert passing([chat(shift, raising)], raw=False) == [shift.task_id]


@pytest.mark.parametrize("name", ["humaneval", "humaneval-raw", "gsm8k", "answers"])
def test_samples_of_a_problem_stand_side_by_side(name: str) -> None:
    keys = [question.key for question in questions_of(TASKS[name], samples=2, problems=3)]
    assert [sample for _, sample in keys] == [0, 1, 0, 1, 0, 1]
    assert len({task_id for task_id, _ in keys}) == 3


def test_what_is_asked() -> None:
    (message,) = chat_questions(0)[0].messages
    assert message["content"].startswith("Complete this Python function.")
    assert "def has_close_elements(" in message["content"]
    assert problems()[0].canonical_solution.strip() not in message["content"]
    assert raw_questions(0)[0].prompt + "\n" == problems()[0].prompt
    assert raw_questions(0)[0].prompt.endswith('"""')
