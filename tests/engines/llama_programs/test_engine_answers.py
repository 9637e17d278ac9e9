"""What llama.cpp's server says of the bundled model's files is what was measured of them, until a key is changed."""

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
from gguf import GGUFReader

from cli.main import run
from sixfold.model.source import open_source
from sixfold.progress import unseen
from sixfold.texts.held_out_text import Windows, held_out
from verification import measure
from verification.divergence.engine_answers import TOLERANCE, EngineAnswers, answers_of_engine
from verification.judge import judge_all

pytestmark = pytest.mark.engines

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m-REAP-6"


def test_the_bundled_model(llama_tools: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SIXFOLD_LLAMA_CPP", str(llama_tools))
    calls = []

    def recorded(*arguments: object) -> EngineAnswers | None:
        calls.append(arguments)
        return answers_of_engine(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(measure, "answers_of_engine", recorded)
    monkeypatch.setattr(measure, "held_out", _some)
    assert (
        run(
            [
                "export",
                str(DEMO),
                "gguf-q8_0",
                "gguf-iq4_xs",
                "--out",
                str(tmp_path),
                "--set",
                "rounding=nearest",
                "--no-verify",
            ]
        )
        == 0
    )
    files = sorted(tmp_path.glob("*/*-GGUF/minimax*.gguf"))
    for verification in judge_all(files, open_source(DEMO), unseen):
        assert verification.divergence is not None
        found = verification.divergence.engine
        assert found is not None
        sys.stdout.write(f"{verification.path.name}: {found}\n")
        assert found.difference is not None
        assert found.difference < TOLERANCE / 2
    sound, windows, losses = calls[0]
    damaged = Path(shutil.copy(str(sound), tmp_path / "damaged.gguf"))
    field = GGUFReader(damaged, "r+").fields["minimax-m2.rope.freq_base"]
    field.parts[field.data[0]][0] /= 1000
    found = answers_of_engine(damaged, windows, losses)  # type: ignore[arg-type]
    sys.stdout.write(f"another base of rotary positions: {found}\n")
    assert found is not None
    assert found.difference is not None
    assert found.difference > TOLERANCE


def _some(tokenizer: Any) -> Windows:
    whole = held_out(tokenizer)
    return Windows(whole.ids[::5], whole.domains[::5], f"{whole.digest}/5")
