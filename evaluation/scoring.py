"""From answers and verdicts to the numbers: strict, on completed problems, and their intervals."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from evaluation.client.asking import Answer
from evaluation.proportions import Interval, bootstrap_interval, exact_interval, mcnemar, pass_at
from evaluation.sandbox.judge import Verdict
from sixfold.artifact.workspace import digest_of

CUT_OFF = "cut off"
PASSED = "passed"
_DIGITS = 6


@dataclass(frozen=True)
class Marked:
    """An answer and what became of it. strict: an answer that was cut off fails, whatever it holds."""

    answer: Answer
    verdict: Verdict
    strict: bool

    @property
    def passed(self) -> bool:
        return self.verdict.passed and not (self.strict and self.answer.truncated)

    @property
    def outcome(self) -> str:
        """PASSED, CUT_OFF, or why it failed."""
        if self.passed:
            return PASSED
        return CUT_OFF if self.answer.truncated else self.verdict.why


def scored(marked: Sequence[Marked], samples: int) -> dict[str, Any]:
    """What evaluation.json says of one way of asking; see evaluation.result. marked: every sample of every problem,
    those of a problem side by side."""
    per_problem = [marked[at : at + samples] for at in range(0, len(marked), samples)]
    passed = [sum(m.passed for m in group) for group in per_problem]
    completed = [m for m in marked if not m.answer.truncated]
    return {
        "problems": len(per_problem),
        "samples": samples,
        "answers": len(marked),
        "passed": sum(passed),
        "interval": shown(share_interval(passed, samples)),
        "pass_at": {str(k): _rounded(_mean([pass_at(k, samples, c) for c in passed])) for k in _ks(samples)},
        "truncated": len(marked) - len(completed),
        "completed": {
            "answers": len(completed),
            "passed": sum(m.passed for m in completed),
            "interval": shown(exact_interval(sum(m.passed for m in completed), len(completed))),
        },
        "finish": dict(sorted(Counter(m.answer.finish for m in marked).items())),
        "thinking": sum(bool(m.answer.thinking) for m in marked),
        "tokens": tokens(m.answer for m in marked),
        "said": digest_of([m.answer.said() for m in marked]),
        "outcomes": {
            group[0].answer.task_id: group[0].outcome if samples == 1 else [m.outcome for m in group]
            for group in per_problem
        },
    }


def share_interval(passed: Sequence[int], samples: int) -> Interval:
    """Of the share of answers that pass. Several answers to a problem are not independent: problems are resampled."""
    if samples == 1:
        return exact_interval(sum(passed), len(passed))
    return bootstrap_interval([count / samples for count in passed])


def compared(mine: Mapping[str, Any], others: Mapping[str, Any]) -> dict[str, Any]:
    """Two `outcomes` over the same problems, first samples: which flipped, and how likely that is without a cause."""
    ours, theirs = _solved(mine), _solved(others)
    gained, lost = sorted(ours - theirs, key=_numbered), sorted(theirs - ours, key=_numbered)
    return {"gained": gained, "lost": lost, "p": _rounded(mcnemar(len(gained), len(lost)))}


def tokens(answers: Any) -> dict[str, int | None]:
    """Sums over all answers; None where an answer's were not counted."""
    counts = [(answer.prompt_tokens, answer.completion_tokens) for answer in answers]
    return {name: _sum([row[at] for row in counts]) for at, name in enumerate(("prompt", "completion"))}


def shown(interval: Interval) -> list[float]:
    return [_rounded(end) for end in interval]


def _solved(outcomes: Mapping[str, Any]) -> set[str]:
    return {name for name, found in outcomes.items() if (found if isinstance(found, str) else found[0]) == PASSED}


def _numbered(task_id: str) -> tuple[str, int]:
    head, _, number = task_id.rpartition("/")
    return head, int(number) if number.isdigit() else 0


def _ks(samples: int) -> list[int]:
    """1, 10, 100 as in the paper, as far as there are samples, and all of them."""
    return sorted({k for k in (1, 10, 100, samples) if k <= samples})


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _sum(values: Sequence[int | None]) -> int | None:
    return None if None in values else sum(value for value in values if value is not None)


def _rounded(value: float) -> float:
    return round(value, _DIGITS)
