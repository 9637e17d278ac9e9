"""evaluation.json: what an artifact answered, how it was asked, and what came of it.

The same answers give the same file.

schema        1
level         of every interval: 0.95
artifact      name, kind ("folder", "gguf" or "endpoint"), content: digest of its files (as in verification.json of what
              a recipe made; of another file its sha256; "" of an endpoint)
benchmarks    of each, one entry; HumanEval's own keys are of the answers in a conversation, `raw` has the same keys of
              raw completions
  name, method    of the benchmark; how it was asked and judged, in words
  engine          name and build of what ran it; of an endpoint the model that it calls itself
  problems, samples, answers   answers = problems x samples
  passed          answers that pass and were not cut off: the headline ("strict"); in `raw` also those that were
  interval        of the share that passed: exact (Clopper and Pearson); with several samples by resampling problems
  pass_at         k -> unbiased estimate of pass@k, of answers as `passed` counts them
  truncated       answers that were cut off at max_tokens, thinking included
  completed       answers that were not cut off, and how many of them passed, with the exact interval of that share
                  (which takes several samples of a problem as independent)
  max_tokens, temperature, seed   as asked; the n-th sample of a problem has seed + n
  finish          finish_reason -> answers. thinking: answers with thinking told apart. tokens: sums, null if unknown
  sandbox         what isolated the programs, "" where none was run
  outcomes        problem -> "passed", "cut off" of what else was, or why it failed; a list with several samples
  asked           digest of everything that two runs must share to be compared. said: digest of the answers
  records         file with the answers
  baseline        null, or the same of another artifact under the same conditions: name, engine, answers, passed,
                  truncated, completed, and gained and lost: problems that flipped, whose first answer passes here and
                  not there, and the reverse; p of McNemar's exact test on them
  original        null, or the same of the unpruned model that the artifact's checkpoint was pruned from
endings       null, or answers that end: rule, engine, answers, ended, looping and mean_tokens with their intervals
              (exact; of the mean by resampling answers), asked as above, outcomes ("ended" or "cut off", and
              "looping"), and baseline and original with the differences and p of the same test on looping answers
gates         largest differences allowed to the baseline: max_more_looping, max_fewer_ended; null where there is none
findings      what does not hold, a sentence each. passed: whether there is none

speed.json beside it is what differs from run to run: see evaluation.speed.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from evaluation.benchmarks.endings import Endings, endings, loops
from evaluation.benchmarks.tasks import Task
from evaluation.client.asking import Answer
from evaluation.collect import Settings
from evaluation.proportions import LEVEL, bootstrap_interval, exact_interval, mcnemar
from evaluation.provider import Provider
from evaluation.scoring import CUT_OFF, Marked, compared, scored, shown, tokens
from evaluation.subject import Subject
from sixfold.artifact.evaluation_record import FILE, GATES, SCHEMA
from sixfold.artifact.workspace import digest_of, read_json

ENDED, LOOPING = "ended", "looping"
BASELINE, ORIGINAL = COMPARED = ("baseline", "original")
"""Whom answers are compared with: see the module's docstring."""
_PAIRED = ("answers", "passed", "truncated", "completed")


def conditions(task: Task, provider: Provider, settings: Settings, file: str) -> dict[str, Any]:
    sampling = settings.sampling(task)
    return {
        "method": task.method,
        "engine": {"name": provider.name, "build": provider.build},
        "max_tokens": sampling.max_tokens,
        "temperature": sampling.temperature,
        "seed": sampling.seed,
        "asked": digest_of(settings.asked(task)),
        "records": file,
    }


def part_of(marked: Sequence[Marked], samples: int, stated: Mapping[str, Any], sandbox: str) -> dict[str, Any]:
    """One way of asking a benchmark."""
    return {**stated, "sandbox": sandbox, **scored(marked, samples), **dict.fromkeys(COMPARED)}


def endings_of(answers: Sequence[Answer], stated: Mapping[str, Any]) -> dict[str, Any]:
    found: Endings = endings(answers)
    mean = sum(found.lengths) / len(found.lengths) if found.lengths else None
    return {
        "rule": stated["method"],
        **{key: value for key, value in stated.items() if key != "method"},
        "answers": found.answers,
        "ended": found.ended,
        "ended_interval": shown(exact_interval(found.ended, found.answers)),
        "looping": found.looping,
        "looping_interval": shown(exact_interval(found.looping, found.answers)),
        "mean_tokens": None if mean is None else round(mean, 2),
        "mean_tokens_interval": shown(bootstrap_interval(found.lengths)) if found.lengths else None,
        "tokens": tokens(answers),
        "said": digest_of([answer.said() for answer in answers]),
        "outcomes": {f"{a.task_id}#{a.sample}": _ending(a) for a in answers},
        **dict.fromkeys(COMPARED),
    }


def _ending(answer: Answer) -> list[str]:
    return [CUT_OFF if answer.truncated else ENDED, *([LOOPING] if loops(answer.text or answer.thinking) else [])]


def document(subject: Subject, parts: Mapping[str, dict[str, Any]], tasks: Mapping[str, Task]) -> dict[str, Any]:
    """parts: by task. What the file has of other tasks and of the same artifact stays."""
    kept = _present(subject)
    benchmarks = {entry["name"]: dict(entry) for entry in kept.get("benchmarks", ())}
    for name, part in parts.items():
        task = tasks[name]
        if task.judge is None:
            continue
        entry = benchmarks.setdefault(task.benchmark, {"name": task.benchmark})
        if name.endswith("-raw"):
            entry["raw"] = part
        else:
            benchmarks[task.benchmark] = {
                "name": task.benchmark,
                **part,
                **{k: entry[k] for k in ("raw",) if k in entry},
            }
    endings_part = next((part for name, part in parts.items() if tasks[name].judge is None), kept.get("endings"))
    kind = "endpoint" if subject.path is None else "folder" if subject.path.is_dir() else "gguf"
    return {
        "schema": SCHEMA,
        "level": LEVEL,
        "artifact": {"name": subject.name, "kind": kind, "content": subject.content},
        "benchmarks": [benchmarks[name] for name in sorted(benchmarks)],
        "endings": endings_part,
    }


def _present(subject: Subject) -> dict[str, Any]:
    found = read_json(subject.place(FILE)) or {}
    same = (found.get("artifact") or {}).get("content") == subject.content and found.get("schema") == SCHEMA
    return found if same and (found.get("artifact") or {}).get("name") == subject.name else {}


def with_compared(mine: dict[str, Any], others: Mapping[str, Any], whom: str) -> dict[str, Any]:
    """mine, with what the other document says under the same conditions beside each of its numbers. whom: one of
    COMPARED."""
    name = others["artifact"]["name"]
    theirs = {entry["name"]: entry for entry in others["benchmarks"]}
    benchmarks = []
    for entry in mine["benchmarks"]:
        other = theirs.get(entry["name"], {})
        joined = {**entry, **_paired(entry, other, name, whom)}
        if "raw" in entry:
            joined["raw"] = {**entry["raw"], **_paired(entry["raw"], other.get("raw", {}), name, whom)}
        benchmarks.append(joined)
    own, other_endings = mine["endings"], others["endings"]
    if own is not None and other_endings is not None and _alike(own, other_endings):
        own = {**own, whom: _paired_endings(own, other_endings, name)}
    return {**mine, "benchmarks": benchmarks, "endings": own}


def _alike(mine: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    same = "asked" in mine and mine["asked"] == other.get("asked")
    return same and mine["outcomes"].keys() == other["outcomes"].keys()


def _paired(mine: Mapping[str, Any], other: Mapping[str, Any], name: str, whom: str) -> dict[str, Any]:
    if not _alike(mine, other):
        return {}
    kept = {key: other[key] for key in _PAIRED}
    flips = compared(mine["outcomes"], other["outcomes"])
    return {whom: {"name": name, "engine": other["engine"], **kept, **flips}}


def _paired_endings(mine: Mapping[str, Any], other: Mapping[str, Any], name: str) -> dict[str, Any]:
    loop = {key for key, found in mine["outcomes"].items() if LOOPING in found}
    others = {key for key, found in other["outcomes"].items() if LOOPING in found}
    return {
        "name": name,
        "engine": other["engine"],
        **{key: other[key] for key in ("answers", "ended", "looping", "mean_tokens")},
        "more_looping": round((mine["looping"] - other["looping"]) / mine["answers"], 6),
        "fewer_ended": round((other["ended"] - mine["ended"]) / mine["answers"], 6),
        "p": round(mcnemar(len(loop - others), len(others - loop)), 6),
    }


def with_gates(found: dict[str, Any], gates: Mapping[str, Any]) -> dict[str, Any]:
    """gates: of the recipe; what it does not name is none."""
    stated = {name: gates.get(name) for name in GATES}
    findings = [sentence for sentence in (_finding(found, name, limit) for name, limit in stated.items()) if sentence]
    return {**found, "gates": stated, "findings": findings, "passed": not findings}


def _finding(found: Mapping[str, Any], gate: str, limit: float | None) -> str:
    if limit is None:
        return ""
    baseline = (found["endings"] or {}).get("baseline")
    if baseline is None:
        return f"{gate}={limit:g} was not measured: no baseline was asked for sampled answers in the same way"
    difference = baseline[gate.removeprefix("max_")]
    if difference <= limit:
        return ""
    what = "more of its answers run in a loop" if gate == GATES[0] else "fewer of its answers end by themselves"
    return f"{difference:.1%} {what} than of {baseline['name']}; {limit:.1%} are allowed ({gate})"
