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

from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any

import torch

from sixfold.artifact.workspace import digest_of, read_json, write_json
from sixfold.errors import SixfoldError
from sixfold.model.source import Source
from sixfold.progress import Progress
from sixfold.runner.available_memory import available_on
from sixfold.runner.experts import experts_run_by
from sixfold.runner.freed_memory import kept_heap
from sixfold.runner.layer_runner import LayerRunner
from sixfold.runner.layer_weights import HostBuffers
from sixfold.sizes import size
from verification.finding import Finding
from verification.llama_cpp.completion import EngineFailed, complete, program, version
from verification.reading.held_source import HeldSource
from verification.reading.stacked_weights import StackedWeights
from verification.reading.weights import CodedWeights
from verification.running import giving_up, running
from verification.smoke.greedy import continued
from verification.smoke.prompts import PROMPTS, Answer, Prompt, loops, problem_of

TOKENS = 32
"""Of an answer, at most."""

_VERSION = 2
"""Of how the source answers, for answers that are kept: before, some families' weights were not all found."""

_ROOM = 1.25
"""Memory as a multiple of the weights: beside them there is what a forward takes, and what is being dequantized."""


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


class Answering:
    """One model that continues the prompts with the weights of the source and of its variants, one after the other.

    held: the source; the model is where that gives its tensors. cache: folder that keeps the source's answers.
    experts: runs a layer's, see sixfold.runner.experts.experts_run_by.
    """

    def __init__(self, held: HeldSource, tokenizer: Any, cache: Path, experts: Callable[..., torch.Tensor]) -> None:
        self._held = held
        self._experts = experts
        self._tokenizer = tokenizer
        self._cache = cache
        self._weights: StackedWeights | None = None
        self._names: frozenset[str] = frozenset()

    @property
    def too_large(self) -> str:
        """Why the model is not run; "" where it can be."""
        needed, available = memory_needed(self._held.source), available_on(self._held.device)
        if available is None or needed <= available:
            return ""
        memory = "GPU memory" if self._held.device.type == "cuda" else "memory"
        return f"it takes the whole model in float32: {size(needed)} of {memory}, {size(available)} are free"

    def of_source(self) -> list[Answer]:
        """From the cache's folder, where an earlier variant left them."""
        checkpoint = self._held.source.checkpoint
        asked = {"source": checkpoint.fingerprint, "prompts": self._prompts, "tokens": TOKENS}
        digest = digest_of({"version": _VERSION, **asked})
        path = self._cache / f"answers-{digest[:16]}.json"
        kept = read_json(path)
        if kept is not None:
            return [Answer(**row) for row in kept["answers"]]
        with running(self._held.source):
            answers = self._of(None, [])
        with suppress(OSError):
            write_json(path, {"answers": [vars(answer) for answer in answers]})
        return answers

    def of_variant(self, weights: CodedWeights, like: list[Answer]) -> list[Answer]:
        """like: answers that are expected to be nearly the same. Raises SixfoldError where its forward fails."""
        errors: list[SixfoldError] = []
        with giving_up(errors.append):
            return self._of(StackedWeights(weights, self._held.device), like)
        raise errors[0]

    def _of(self, weights: StackedWeights | None, like: list[Answer]) -> list[Answer]:
        guesses = [self._ids(answer.text) for answer in like] or [[] for _ in PROMPTS]
        self._weights, self._names = weights, frozenset(() if weights is None else weights.names())
        with torch.no_grad(), kept_heap(), self._runner.whole(self._prepare) as model, ExitStack() as stack:
            if hasattr(model, "set_experts_implementation"):
                stack.enter_context(experts_run_by(model, self._experts))

            def run(ids: torch.Tensor) -> torch.Tensor:
                logits: torch.Tensor = model(input_ids=ids.to(self._held.device), use_cache=False).logits
                return logits

            made = continued(run, self._prompts, self._tokenizer.eos_token_id, guesses, TOKENS)
        return [Answer(self._tokenizer.decode(ids, skip_special_tokens=True), fine, loops(ids)) for ids, fine in made]

    def by_llama(self, executable: Path, gguf: Path, advance: Callable[[int], None]) -> list[Answer]:
        answers = []
        for prompt in PROMPTS:
            text = complete(executable, gguf, prompt.text, TOKENS)
            answers.append(Answer(text, True, loops(self._ids(text))))
            advance(1)
        return answers

    @cached_property
    def _prompts(self) -> list[list[int]]:
        return [self._tokenizer(prompt.text)["input_ids"] for prompt in PROMPTS]

    @cached_property
    def _runner(self) -> LayerRunner:
        device = self._held.device
        buffers = HostBuffers(pinned=False, device=device)
        source = self._held.source
        return LayerRunner(source, dtype=torch.float32, device=device, read_into=self._read_into, buffers=buffers)

    def _prepare(self, layer: int | None) -> None:
        if self._weights is None:
            self._held.hold(layer)
            return
        pieces = {piece.name for source in self._runner.sources_of(layer) for piece in source.pieces}
        self._weights.prepare(pieces & self._names)

    def _read_into(self, name: str, out: torch.Tensor) -> None:
        """What a variant has none of stays the source's: a GGUF file of a language model holds no tower for images."""
        if self._weights is not None and name in self._names:
            values = self._weights.read_on(out.device, name)
        else:
            values = self._held.read(name)
        out.copy_(values.reshape(out.shape))

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer(text, add_special_tokens=False)["input_ids"]
        return ids


def memory_needed(source: Source) -> int:
    """Bytes where the whole model is run in float32."""
    return int(_ROOM * 4 * sum(prod(tensor.shape) for tensor in source.checkpoint.tensors.values()))


def smoke(answering: Answering, weights: CodedWeights | None, progress: Progress, gguf: Path | None = None) -> Smoke:
    """weights: None where they are the source's. gguf: the artifact, where it is a file."""
    too_large = answering.too_large
    if too_large:
        return Smoke((), too_large)
    with progress("answering prompts", 2 * len(PROMPTS), "prompts") as advance:
        expected = answering.of_source()
        advance(len(PROMPTS))
        answers, engine, failed = [], READER, ""
        executable = program() if gguf is not None else None
        if gguf is not None and executable is not None:
            try:
                answers, engine = answering.by_llama(executable, gguf, advance), version(executable)
            except EngineFailed as error:
                failed = f"{executable}: {error}"
        if not answers and weights is not None:
            answers = answering.of_variant(weights, expected)
            advance(len(PROMPTS))
        answers = answers or expected
    judged = zip(PROMPTS, expected, answers, strict=True)
    return Smoke(tuple(Smoked(p, e, a, problem_of(p, e, a)) for p, e, a in judged), engine=engine, failed=failed)
