"""Intervals, pass@k and McNemar against published values and definitions; what is a loop, a program, a number."""

from decimal import Decimal
from itertools import combinations
from math import comb

import pytest

from evaluation.benchmarks.endings import endings, loops
from evaluation.benchmarks.extraction import completion_of, program_of
from evaluation.benchmarks.gsm8k import number_of
from evaluation.benchmarks.humaneval import STOPS
from evaluation.client.asking import Answer
from evaluation.proportions import bootstrap_interval, exact_interval, mcnemar, pass_at
from evaluation.sandbox.judge import Verdict
from evaluation.scoring import Marked, compared, scored


@pytest.mark.parametrize(
    ("successes", "trials", "low", "high"),
    [
        # "Rule of three", exactly: 1 - 0.025 ** (1 / n).
        (0, 10, 0.0, 1 - 0.025 ** (1 / 10)),
        (10, 10, 0.025 ** (1 / 10), 1.0),
        # Clopper and Pearson's interval as tables have it.
        (1, 10, 0.00253, 0.44502),
        (5, 10, 0.18709, 0.81291),
        (3, 20, 0.03207, 0.37893),
    ],
)
def test_exact_intervals(successes: int, trials: int, low: float, high: float) -> None:
    assert exact_interval(successes, trials) == pytest.approx((low, high), abs=1e-5)


@pytest.mark.parametrize(("successes", "trials"), [(90, 164), (3, 400), (399, 400)])
def test_the_ends_of_an_interval_leave_a_fortieth_each(successes: int, trials: int) -> None:
    """By exact sums of integers, at the ends as fractions of 2 ** 48."""
    low, high = (round(end * 2**48) for end in exact_interval(successes, trials))

    def tail(numbers: range, p: int) -> float:
        q = 2**48 - p
        total = sum(comb(trials, i) * p**i * q ** (trials - i) for i in numbers)
        return float(total * 10**12 // 2 ** (48 * trials)) / 10**12

    assert tail(range(successes, trials + 1), low) == pytest.approx(0.025, abs=1e-8)
    assert tail(range(successes + 1), high) == pytest.approx(0.025, abs=1e-8)


def test_pass_at_k_is_the_share_of_draws_in_which_one_passes() -> None:
    for samples, passed in ((5, 0), (5, 2), (5, 5), (4, 1)):
        for k in range(1, samples + 1):
            draws = list(combinations([True] * passed + [False] * (samples - passed), k))
            assert pass_at(k, samples, passed) == pytest.approx(sum(map(any, draws)) / len(draws))


def test_mcnemar() -> None:
    assert mcnemar(0, 0) == 1
    assert mcnemar(3, 3) == 1
    assert mcnemar(0, 5) == 2 / 32  # all five one way
    assert mcnemar(1, 8) == mcnemar(8, 1) == pytest.approx(2 * (1 + 9) / 512)


def test_a_mean_is_within_its_interval() -> None:
    assert bootstrap_interval([5.0] * 20) == (5, 5)
    low, high = bootstrap_interval(list(range(100)))
    # The normal approximation: 49.5 +- 1.96 * 28.87 / 10.
    assert (low, high) == pytest.approx((43.84, 55.16), abs=0.8)


def marked(task_id: str, *, passes: bool, finish: str = "stop", sample: int = 0, strict: bool = True) -> Marked:
    return Marked(Answer(task_id, sample, "x", "", finish, 10, 20), Verdict(passes, "" if passes else "wrong"), strict)


def test_the_numbers_follow_by_hand() -> None:
    """Ten answers: four pass, one of them cut off; two fail cut off, four fail whole."""
    answers = [marked(f"T/{n}", passes=True) for n in range(3)]
    answers += [marked("T/3", passes=True, finish="length")]
    answers += [marked(f"T/{n}", passes=False, finish="length") for n in (4, 5)]
    answers += [marked(f"T/{n}", passes=False) for n in range(6, 10)]
    found = scored(answers, samples=1)
    assert (found["problems"], found["answers"], found["passed"], found["truncated"]) == (10, 10, 3, 3)
    assert found["completed"]["answers"] == 7
    assert found["completed"]["passed"] == 3
    assert found["interval"] == pytest.approx([0.06674, 0.65245], abs=1e-5)
    assert found["finish"] == {"length": 3, "stop": 7}
    assert found["tokens"] == {"prompt": 100, "completion": 200}
    assert found["outcomes"]["T/3"] == found["outcomes"]["T/4"] == "cut off"
    assert (found["outcomes"]["T/0"], found["outcomes"]["T/6"]) == ("passed", "wrong")
    raw = scored([Marked(m.answer, m.verdict, strict=False) for m in answers], samples=1)
    assert (raw["passed"], raw["outcomes"]["T/3"], raw["outcomes"]["T/4"]) == (4, "passed", "cut off")


def test_several_samples_of_each_problem() -> None:
    """Two problems, four answers each: 1 and 3 pass."""
    groups = [("A/1", (True, False, False, False)), ("A/2", (True, True, False, True))]
    answers = [marked(name, passes=p, sample=n) for name, passes in groups for n, p in enumerate(passes)]
    found = scored(answers, samples=4)
    assert (found["problems"], found["answers"], found["passed"]) == (2, 8, 4)
    assert found["pass_at"] == {"1": 0.5, "4": 1.0}
    assert found["outcomes"]["A/1"] == ["passed", "wrong", "wrong", "wrong"]


def test_nothing_was_completed() -> None:
    found = scored([marked("T/0", passes=True, finish="length")], samples=1)
    assert found["passed"] == 0
    assert found["completed"] == {"answers": 0, "passed": 0, "interval": [0, 1]}


def test_which_problems_flipped() -> None:
    mine = {"T/1": "passed", "T/2": "cut off", "T/10": "passed", "T/3": ["passed", "wrong"], "T/4": "wrong"}
    others = {"T/1": "passed", "T/2": "passed", "T/10": "wrong", "T/3": ["wrong", "passed"], "T/4": "wrong"}
    assert compared(mine, others) == {"gained": ["T/3", "T/10"], "lost": ["T/2"], "p": 1.0}


PROMPT = 'import math\n\n\ndef area(r):\n    """Of a circle."""\n'


def run(program: str) -> float:
    names: dict = {}
    exec(program, names)
    return names["area"](1.0)


@pytest.mark.parametrize(
    "answer",
    [
        "```python\nimport math\ndef area(r):\n    return 3.0 * r * r\n```",
        "Sure!\n\n```python\ndef area(r):\n    return 3.0 * r * r\n```\nIt works:\n```python\nprint(area(2))\n```",
        "First a sketch:\n```\nx = 1\n```\nThen:\n~~~py\ndef area(r):\n    return 3.0 * r * r\n~~~",
        "1. The function:\n   ```python\n   def area(r):\n       return 3.0 * r * r\n   ```\n",
        "def area(r):\n    return 3.0 * r * r\n",
        "    return 3.0 * r * r\n",
        "```python\n    return 3.0 * r * r\n```",
        "```python\ndef area(r):\n    return 3.0 * r * r\n",  # the block is not closed
        "````markdown\n```python\nx\n```\n````\n```python\ndef area(r):\n    return 3.0 * r * r\n```",
        "```python\ndef area(r):\n    def square(x):\n        return x * x\n    return 3.0 * square(r)\n```",
        "```python\nasync_ = 1\ndef area(r): return 3.0 * r * r\n```",
    ],
)
def test_the_program_in_an_answer(answer: str) -> None:
    assert run(program_of(answer, PROMPT, "area")) == 3.0


def test_the_prompt_is_part_of_the_program() -> None:
    assert run(program_of("```python\ndef area(r):\n    return math.floor(3.9)\n```", PROMPT, "area")) == 3.0
    assert run(PROMPT) is None  # by itself it runs, and returns nothing


def test_another_function_of_the_same_beginning_is_not_the_one() -> None:
    answer = "```python\ndef area_of(r):\n    return 1.0\n```\n```python\ndef area(r):\n    return 3.0\n```"
    assert run(program_of(answer, PROMPT, "area")) == 3.0


def test_a_completion_ends_where_the_next_thing_begins() -> None:
    text = "    return 3.0\n\nprint(area(2))\n"
    assert completion_of(text, PROMPT, STOPS) == PROMPT + "    return 3.0\n"
    assert run(completion_of("    if r:\n        return 3.0\n    return 0\n", PROMPT, STOPS)) == 3.0


def literally(text: str) -> bool:
    """The rule as it is stated: at some end of at least 200 characters, one piece four times or more in a row."""
    text = text.rstrip()
    for length in range(200, len(text) + 1):
        end = text[-length:]
        for period in range(1, length // 4 + 1):
            if end[period:] == end[:-period]:
                return True
    return False


ENDS = {
    "I am. " * 40: True,
    "A beginning that is not repeated. " + "and so on, " * 20: True,
    "a" * 200: True,
    "a" * 199: False,
    "word " * 39: False,
    ("x" * 70 + "y") * 3: False,  # three times are not four
    ("x" * 70 + "y") * 4: True,
    "and so on, " * 20 + "until it ended.": False,
    " ".join(str(n) for n in range(90)): False,  # it counts, and never repeats
    "\n" * 400: False,
    "": False,
}


@pytest.mark.parametrize("text", ENDS, ids=lambda text: repr(text[:12]))
def test_what_is_a_loop(text: str) -> None:
    assert loops(text) == ENDS[text] == literally(text)


def test_endings_are_counted() -> None:
    loop = "again and again " * 20
    answers = [
        Answer("P/1", 0, "It ended.", "", "stop", 5, 10),
        Answer("P/2", 0, loop, "", "length", 5, 30),
        Answer("P/3", 0, "", loop, "length", 5, 30),  # a loop of thinking
        Answer("P/4", 0, "cut in the mid", "", "length", 5, None),
    ]
    found = endings(answers)
    assert (found.answers, found.ended, found.looping, found.lengths) == (4, 1, 2, (10, 30, 30))


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("so it is 5.\n#### 1,234", 1234),
        ("#### $18", 18),
        ("#### -3.50 dollars, not 4", Decimal("-3.5")),
        ("first #### 3, no: #### 4", 4),
        ("10-5 leaves 5 apples.", 5),
        ("The answer is **72**.", 72),
        ("none", None),
        ("#### none, but 3 before", 3),
    ],
)
def test_the_number_in_an_answer(answer: str, number: int | Decimal | None) -> None:
    assert number_of(answer) == number
