"""The smoke test: what the models answer is what transformers generates, and each rule can be met and failed."""

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from sixfold.checkpoint.tokenizer import load_tokenizer
from sixfold.model.source import Source
from tests.exporters.exported import DEMO, silent
from tests.verification.artifacts import Artifacts
from verification.divergence.expert_inputs import experts_at_once
from verification.measure import runs_of
from verification.reading.held_source import HeldSource
from verification.reading.weights import CodedWeights, FolderWeights
from verification.smoke.greedy import continued
from verification.smoke.prompts import PROMPTS, Answer, loops, problem_of
from verification.smoke.smoke_test import READER, TOKENS, Answering, Smoke, smoke
from verification.structure.folder_structure import open_subject

pytestmark = pytest.mark.arithmetic

BY_NAME = {prompt.name: prompt for prompt in PROMPTS}


class Constant(FolderWeights):
    """A model all of whose weights are the same."""

    def __init__(self, subject: Any, value: float) -> None:
        super().__init__(subject)
        self._value = value

    def read(self, name: str, start: int = 0, stop: int | None = None) -> torch.Tensor:
        return torch.full_like(super().read(name, start, stop), self._value)


def run(demo: Source, weights: CodedWeights, cache: Path, gguf: Path | None = None, device: str = "cpu") -> Smoke:
    answering = Answering(
        HeldSource(demo, torch.device(device)), load_tokenizer(DEMO), cache, experts_at_once(lambda _: None)
    )
    return smoke(answering, weights, silent, gguf)


def test_answers_are_what_transformers_generates(demo: Source, tmp_path: Path) -> None:
    found = run(demo, FolderWeights(open_subject(DEMO, demo)), tmp_path)
    tokenizer = load_tokenizer(DEMO)
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    for smoked in found.prompts:
        ids = tokenizer(smoked.prompt.text, return_tensors="pt")["input_ids"]
        made = model.generate(ids, max_new_tokens=TOKENS, do_sample=False)[0, ids.shape[1] :]
        assert smoked.answer.text == tokenizer.decode(made, skip_special_tokens=True)
        assert smoked.expected == smoked.answer
    assert not list(found.findings)


@pytest.mark.parametrize("guess", [[], [7, 8, 9], list(range(100))])
def test_what_is_guessed_changes_no_answer(guess: list[int]) -> None:
    """Nor do the texts beside one, whose end comes earlier or later."""
    model = AutoModelForCausalLM.from_pretrained(DEMO, dtype=torch.float32)
    prompts = [[5, 6, 7, 8], [300, 20, 11, 400, 900, 1000, 1001], [12]]
    expected = [
        model.generate(torch.tensor([ids]), max_new_tokens=TOKENS, do_sample=False)[0, len(ids) :] for ids in prompts
    ]
    end = int(expected[0][9])
    with torch.inference_mode():
        found = continued(lambda ids: model(ids).logits, prompts, end, [guess] * 3, TOKENS)
    for (ids, finite), made in zip(found, expected, strict=True):
        whole = made.tolist()
        assert ids == (whole[: whole.index(end)] if end in whole else whole)
        assert finite


def test_every_format_answers(artifacts: Artifacts, demo: Source, tmp_path: Path) -> None:
    for variant in ("fp8", "awq", "gguf-q8_0"):
        weights, _ = runs_of(artifacts[variant], demo)
        found = run(demo, weights, tmp_path)
        assert [s.prompt.name for s in found.prompts] == list(BY_NAME)
        assert all(s.answer.finite for s in found.prompts)
    (kept,) = tmp_path.glob("answers-*.json")
    assert [row["text"] for row in json.loads(kept.read_text())["answers"]] == [s.expected.text for s in found.prompts]


def _program(folder: Path, body: str) -> None:
    """A stand-in for llama.cpp's program, which the engine tests run."""
    path = folder / "llama-completion"
    path.write_text(
        f"#!{sys.executable}\nimport json, sys\n"
        "if '--version' in sys.argv:\n    sys.stderr.write('version: 7 (abc)\\nbuilt with x\\n')\n    sys.exit(0)\n"
        + body
    )
    path.chmod(0o755)


def test_gguf_files_answer_by_llama_cpp_where_it_is(
    artifacts: Artifacts, demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A looping answer to every prompt, as it came and told whose it is."""
    _program(
        tmp_path,
        f"open({str(tmp_path / 'asked')!r}, 'a').write(json.dumps(sys.argv[1:]) + '\\n')\n"
        "sys.stdout.write(' the the the the the the the the the the [end of text]\\n\\n')\n"
        "sys.stderr.write('common_perf_print:    sampling time =       0.12 ms\\n')\n",
    )
    monkeypatch.setenv("SIXFOLD_LLAMA_CPP", str(tmp_path))
    gguf = artifacts["gguf-q8_0"]
    weights, _ = runs_of(gguf, demo)
    found = run(demo, weights, tmp_path / "cache", gguf)
    assert found.engine == "llama-completion 7 (abc)"
    assert found.as_data()["engine"] == found.engine
    assert {s.answer.text for s in found.prompts} == {" the" * 10}
    assert all(s.answer.loops for s in found.prompts)
    assert any("runs in a loop" in s.problem for s in found.prompts)
    asked = [json.loads(line) for line in (tmp_path / "asked").read_text().splitlines()]
    assert [arguments[arguments.index("--prompt") + 1] for arguments in asked] == [p.text for p in PROMPTS]
    assert all(arguments[arguments.index("--model") + 1] == str(gguf) for arguments in asked)


def test_where_llama_cpp_fails_transformers_answers_and_a_warning_says_why(
    artifacts: Artifacts, demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _program(tmp_path, "sys.stderr.write('loading\\nerror: unknown model architecture\\nbye\\n')\nsys.exit(1)\n")
    monkeypatch.setenv("SIXFOLD_LLAMA_CPP", str(tmp_path))
    weights, _ = runs_of(artifacts["gguf-q8_0"], demo)
    found = run(demo, weights, tmp_path / "cache", artifacts["gguf-q8_0"])
    monkeypatch.delenv("SIXFOLD_LLAMA_CPP")
    without = run(demo, weights, tmp_path / "cache")
    assert (found.engine, found.prompts) == (READER, without.prompts)
    warning = next(iter(found.findings))
    assert (warning.check, warning.severity) == ("smoke.engine", "warning")
    assert warning.what.endswith("llama-completion: error: unknown model architecture")


def test_a_model_that_writes_nothing_fails(demo: Source, tmp_path: Path) -> None:
    """Token 0, the first of many equal ones, ends the text."""
    found = run(demo, Constant(open_subject(DEMO, demo), 0.0), tmp_path)
    assert {s.problem for s in found.prompts} == {"the answer is empty, and the source's is not"}
    assert {finding.severity for finding in found.findings} == {"warning"}


def test_what_is_no_number_is_an_error(demo: Source, tmp_path: Path) -> None:
    found = run(demo, Constant(open_subject(DEMO, demo), float("nan")), tmp_path)
    assert [finding.severity for finding in found.findings] == ["error"] * len(PROMPTS)


def test_a_model_too_large_for_memory_is_not_run(demo: Source, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("verification.smoke.smoke_test.available_on", lambda device: 1000)
    found = run(demo, FolderWeights(open_subject(DEMO, demo)), tmp_path)
    assert found.prompts == ()
    assert found.not_run.startswith("it takes the whole model in float32: 23 MB of memory, 1 kB are free")


@pytest.mark.parametrize(
    ("name", "met", "failed"),
    [
        ("norwegian", " like i verdighet og med rettigheter for alle", " equal in dignity and rights"),
        ("arithmetic", " 19\n", " 12 + 7 = 19"),
        ("python", "    return a + b\n\ndef (", "return a + b"),
        ("explanation", " a mapping from keys to values, which may be of any type", " a a a a the the the the a a the"),
        ("json", "]}", ", born"),
    ],
)
def test_rules(name: str, met: str, failed: str) -> None:
    prompt = BY_NAME[name]
    assert prompt.holds(prompt.text, met)
    assert not prompt.holds(prompt.text, failed)
    good, bad = Answer(met, True, False), Answer(failed, True, False)
    assert "breaks its rule" in problem_of(prompt, good, bad)
    assert not problem_of(prompt, bad, bad)
    assert not problem_of(prompt, bad, good)


def test_loops() -> None:
    fine, stuck = Answer("so it is", True, False), Answer("so so so", True, True)
    assert "runs in a loop" in problem_of(BY_NAME["json"], fine, stuck)
    assert not problem_of(BY_NAME["json"], stuck, stuck)
    assert loops([5, 9, 2, 7, 1, 1, 1, 1, 1, 1, 1])
    assert loops([5, 9, 2, 7, 8, 3, 1, 2, 3, 1, 2, 3, 1, 2, 3])
    assert not loops(list(range(32)))
    assert not loops([1, 1, 1])
