"""Smoke test: five prompts that the artifact continues, compared with how its source continues them.

Figures can look right for a model that only writes one word. So both models continue each prompt for TOKENS tokens,
the most likely one at a time: the source by transformers in float32, a GGUF file by llama.cpp if its program is
available (verification/llama_cpp), and anything else by transformers too, with its weights alone. A
prompt passes where

- every logit is finite (llama.cpp checks its weights instead),
- the answer is not empty and does not end in a loop, unless the source's does too,
- the prompt's own rule holds, unless it does not hold for the source either: a small model cannot add.

The first failing is an error. The others are warnings: one token more or less likely may tip a sentence. Where
llama.cpp is there and does not answer, that is a warning too, as its build may not know the model, and transformers
answers in its place.
"""

import ast
import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path
from typing import Any

import torch

from sixfold.artifact.workspace import digest_of, read_json, write_json
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.available_memory import available_memory
from sixfold.runner.freed_memory import kept_heap
from sixfold.runner.whole_model import load_model
from sixfold.sizes import size
from verification.finding import Finding
from verification.llama_cpp.completion import EngineFailed, complete, program, version
from verification.reading.weights import Weights

TOKENS = 32
_LOOP = 4
"""A loop: the last tokens are one piece of at most so many tokens, over and over for half of the answer."""
_NORWEGIAN = frozenset("og i er det som en et på av til med for den at å de har ikke var".split())


@dataclass(frozen=True)
class Prompt:
    """rule: what the answer must do, for people. holds: whether it does, of the prompt and the answer."""

    name: str
    text: str
    rule: str
    holds: Callable[[str, str], bool]


@dataclass(frozen=True)
class Answer:
    text: str
    finite: bool
    loops: bool


@dataclass(frozen=True)
class Smoked:
    """The result for one prompt. problem: "" where it passed, which means that it is no worse than the source."""

    prompt: Prompt
    expected: Answer
    answer: Answer
    problem: str

    @property
    def standing(self) -> str:
        """Of one that passed: whether its rule holds at all."""
        if self.prompt.holds(self.prompt.text, self.answer.text):
            return "its rule holds"
        return "no worse than the source, for which the rule does not hold either"


READER = "transformers, float32, weights alone"


@dataclass(frozen=True)
class Smoke:
    """not_run: why it was not, "" where it was. engine: what ran the artifact. failed: why llama.cpp did not, "" where
    it did or is not there."""

    prompts: tuple[Smoked, ...]
    not_run: str = ""
    engine: str = READER
    failed: str = ""

    @property
    def findings(self) -> Iterator[Finding]:
        if self.failed:
            yield Finding(
                "smoke.engine",
                "llama.cpp",
                f"it does not answer: {self.failed}",
                "this build may be older than the model, or refuse the file",
                "try the newest llama.cpp",
                "warning",
            )
        for smoked in self.prompts:
            if smoked.problem:
                yield Finding(
                    "smoke.failed",
                    f"prompt {smoked.prompt.name}",
                    f"{smoked.problem}: {smoked.answer.text[:60]!r}",
                    "it may answer like this",
                    "read the answers in verification.json, and compare a larger format",
                    "warning" if smoked.answer.finite else "error",
                )

    def as_data(self) -> dict[str, Any]:
        return {
            "not_run": self.not_run,
            "engine": self.engine,
            "tokens": TOKENS,
            "prompts": [
                {
                    "name": s.prompt.name,
                    "prompt": s.prompt.text,
                    "rule": s.prompt.rule,
                    "source": s.expected.text,
                    "answer": s.answer.text,
                    "source_holds": s.prompt.holds(s.prompt.text, s.expected.text),
                    "holds": s.prompt.holds(s.prompt.text, s.answer.text),
                    "passed": not s.problem,
                    "problem": s.problem,
                }
                for s in self.prompts
            ],
        }


def _is_norwegian(_: str, answer: str) -> bool:
    return sum(word in _NORWEGIAN for word in re.findall(r"\w+", answer.lower())) >= 3


def _is_sum(_: str, answer: str) -> bool:
    found = re.search(r"\d+", answer)
    return found is not None and found[0] == "19"


def _is_python(prompt: str, answer: str) -> bool:
    """Up to some line end in the answer, it parses; what is behind may be cut off."""
    lines = answer.splitlines()
    for number in range(len(lines), 0, -1):
        with suppress(SyntaxError, ValueError):
            ast.parse(prompt + "\n".join(lines[:number]))
            return bool("".join(lines[:number]).strip())
    return False


def _explains(_: str, answer: str) -> bool:
    words = re.findall(r"[^\W\d_]{2,}", answer)
    return len(words) >= 8 and len(set(words)) >= 6


def _is_json(prompt: str, answer: str) -> bool:
    with suppress(json.JSONDecodeError):
        json.JSONDecoder().raw_decode(prompt + answer)
        return True
    return False


PROMPTS = (
    Prompt("norwegian", "Alle mennesker er født frie og", "at least three common Norwegian words", _is_norwegian),
    Prompt("arithmetic", "Question: What is 12 + 7?\nAnswer: 12 + 7 =", "the first number is 19", _is_sum),
    Prompt("python", "def add(a, b):\n", "what it writes parses as Python", _is_python),
    Prompt("explanation", "A dictionary in Python is", "eight words, six of them different", _explains),
    Prompt("json", '{"name": "Ada", "born": 1815, "languages": ["English"', "it closes the JSON object", _is_json),
)


def smoke(
    source: Source, weights: Weights | None, tokenizer: Any, cache: Path, progress: Progress, gguf: Path | None = None
) -> Smoke:
    """weights: None where they are the source's. cache: folder that keeps the source's answers for the next variant.
    gguf: the artifact, where it is a file."""
    needed = 2 * 4 * sum(prod(tensor.shape) for tensor in source.checkpoint.tensors.values())
    available = available_memory()
    if available is not None and needed > available:  # twice: experts are there both one by one and stacked
        return Smoke((), f"it takes the whole model in float32: {size(needed)} of memory, {size(available)} are free")
    with progress("answering prompts", 2 * len(PROMPTS), "prompts") as advance:
        expected = _expected(source, tokenizer, cache, advance)
        answers, engine, failed = [], READER, ""
        executable = program() if gguf is not None else None
        if gguf is not None and executable is not None:
            try:
                answers, engine = _from_llama(executable, gguf, tokenizer, advance), version(executable)
            except EngineFailed as error:
                failed = f"{executable}: {error}"
        if not answers and weights is not None:
            answers = _answers(_with_weights(source, weights), tokenizer, advance, expected)
        answers = answers or expected
    judged = zip(PROMPTS, expected, answers, strict=True)
    return Smoke(tuple(Smoked(p, e, a, problem_of(p, e, a)) for p, e, a in judged), engine=engine, failed=failed)


def problem_of(prompt: Prompt, expected: Answer, answer: Answer) -> str:
    if not answer.finite:
        return "logits are not all finite"
    if expected.text.strip() and not answer.text.strip():
        return "the answer is empty, and the source's is not"
    if answer.loops and not expected.loops:
        return "the answer runs in a loop, and the source's does not"
    if prompt.holds(prompt.text, expected.text) and not prompt.holds(prompt.text, answer.text):
        return f"it breaks its rule ({prompt.rule}), which the source keeps"
    return ""


def loops(ids: list[int]) -> bool:
    half = len(ids) // 2
    end = ids[len(ids) - half :]
    return half > _LOOP and any(end[period:] == end[:-period] for period in range(1, _LOOP + 1))


def _expected(source: Source, tokenizer: Any, cache: Path, advance: Callable[[int], None]) -> list[Answer]:
    prompts = [tokenizer(prompt.text)["input_ids"] for prompt in PROMPTS]
    digest = digest_of({"source": source.checkpoint.fingerprint, "prompts": prompts, "tokens": TOKENS})
    path = cache / f"answers-{digest[:16]}.json"
    kept = read_json(path)
    if kept is not None:
        advance(len(PROMPTS))
        return [Answer(**row) for row in kept["answers"]]
    answers = _answers(source, tokenizer, advance)
    with suppress(OSError):
        write_json(path, {"answers": [vars(answer) for answer in answers]})
    return answers


def _from_llama(executable: Path, gguf: Path, tokenizer: Any, advance: Callable[[int], None]) -> list[Answer]:
    answers = []
    for prompt in PROMPTS:
        text = complete(executable, gguf, prompt.text, TOKENS)
        answers.append(Answer(text, True, loops(tokenizer(text, add_special_tokens=False)["input_ids"])))
        advance(1)
    return answers


def _answers(
    source: Source, tokenizer: Any, advance: Callable[[int], None], like: Sequence[Answer] = ()
) -> list[Answer]:
    """like: answers that are expected to be nearly the same."""
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = load_model(source, dtype=torch.float32, device=device)
    prompts = [tokenizer(prompt.text)["input_ids"] for prompt in PROMPTS]
    guesses = [tokenizer(answer.text, add_special_tokens=False)["input_ids"] for answer in like]
    with torch.inference_mode(), kept_heap():
        made = continued(model, prompts, tokenizer.eos_token_id, guesses or [[] for _ in prompts])
    advance(len(PROMPTS))
    return [Answer(tokenizer.decode(ids, skip_special_tokens=True), finite, loops(ids)) for ids, finite in made]


def continued(
    model: Any, prompts: Sequence[Sequence[int]], end: int | None, guesses: Sequence[Sequence[int]]
) -> list[tuple[list[int], bool]]:
    """The most likely TOKENS tokens behind each prompt, up to `end`, and whether all logits were finite.

    guesses: what they may be. All are tried at once; what stands behind the first wrong one is guessed again from what
    the model said. So each turn finds one token at least, and the last one finds nothing to change.
    """
    starts = [len(prompt) for prompt in prompts]
    ids = torch.zeros((len(prompts), max(starts) + TOKENS), dtype=torch.int64, device=model.device)
    for row, (prompt, guess) in enumerate(zip(prompts, guesses, strict=True)):
        text = [*prompt, *guess[:TOKENS]]
        ids[row, : len(text)] = torch.tensor(text)
    found: list[tuple[list[int], bool]] = [([], True) for _ in prompts]
    going = list(range(len(prompts)))
    for _ in range(TOKENS + 1):
        if not going:
            break
        length = max(starts[row] for row in going) + TOKENS - 1
        logits = model(input_ids=ids[going, :length], use_cache=False).logits
        changed = []
        for row, every in zip(going, logits, strict=True):
            said = every[starts[row] - 1 : starts[row] - 1 + TOKENS]
            answer = ids[row, starts[row] : starts[row] + TOKENS]
            before = _up_to(end, answer.tolist())
            answer.copy_(said.argmax(-1))
            made = _up_to(end, answer.tolist())
            found[row] = made, bool(said[: len(made) + 1].isfinite().all())
            if made != before:
                changed.append(row)
        going = changed
    return found


def _up_to(end: int | None, ids: list[int]) -> list[int]:
    return ids[: ids.index(end)] if end in ids else ids


def _with_weights(source: Source, weights: Weights) -> Source:
    """The source's model with the artifact's weights, dequantized. What it has none of stays the source's: a GGUF file
    of a language model holds no tower for images, which text needs none of."""
    shapes: Mapping[str, Any] = source.checkpoint.tensors
    held = frozenset(weights.names())

    def read(part: TensorSlice) -> torch.Tensor:
        if part.name not in held:
            return source.checkpoint.read(part)
        return weights.read(part.name).reshape(shapes[part.name].shape)

    contents = replace(source.checkpoint.contents, read=read)
    return Source(replace(source.checkpoint, contents=contents), source.architecture)
