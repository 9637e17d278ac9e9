"""sixfold prune as a user runs it: on the bundled checkpoint, again, elsewhere, and on mistakes."""

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import pytest

from cli.main import run
from tests.families import make_family
from tests.few_windows import few_windows
from tests.moe_families import make_moe

DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m"
SMALL = ("--set", "calibration.samples=8", "--set", "calibration.length=128", "--set", "calibration.sample_rows=32")


def prune(*arguments: str, code: int = 0) -> Any:
    printed = io.StringIO()
    with redirect_stdout(printed):
        assert run(["prune", *arguments, "--json"]) == code
    return json.loads(printed.getvalue())


@pytest.fixture(scope="module", autouse=True)
def _few_windows() -> Iterator[None]:
    with few_windows("sixfold.texts.held_out_text.held_out"):
        yield


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("artifacts")
    made = prune(str(DEMO), "--ratio", "0.25", "--artifacts", str(root), *SMALL)
    assert made["state"] == "made"
    assert made["folder"] == str(root / "minimax-m2-4.6m" / "minimax-m2-4.6m-WeightedEAN-6")
    assert made["passed"]
    return root


def folder_of(root: Path) -> Path:
    return root / "minimax-m2-4.6m" / "minimax-m2-4.6m-WeightedEAN-6"


def test_the_folder_is_complete(root: Path) -> None:
    folder = folder_of(root)
    assert {path.name for path in folder.iterdir()} == {
        *{path.name for path in DEMO.iterdir()},
        "README.md", "README.figures.json", "manifest.json", "plan.json", "run.json", "saliency.svg",
        "verification.json",
    }  # fmt: skip


def test_the_verdict_is_of_this_folder(root: Path) -> None:
    verdict = json.loads((folder_of(root) / "verification.json").read_text())
    assert verdict["masked"]["sound"]
    assert verdict["structure"]["experts"] == 6
    assert verdict["before"]["parameters"] - verdict["after"]["parameters"] == 2 * 2 * (3 * 256 * 256 + 256 + 1)
    assert verdict["before"]["active"] == verdict["after"]["active"] + 2 * 2 * (256 + 1)
    assert set(verdict["cost"]) == {"code", "english", "languages", "maths", "norwegian", "tools", "all"}
    assert all(cost["kl"] > 0.01 for cost in verdict["cost"].values())


def test_the_card_tells_what_the_files_say(root: Path) -> None:
    folder = folder_of(root)
    card = (folder / "README.md").read_text()
    verdict = json.loads((folder / "verification.json").read_text())
    cost = verdict["cost"]["maths"]
    assert f"| maths | {cost['tokens']:,} | {cost['perplexity_before']:.2f} | {cost['perplexity_after']:.2f} |" in card
    assert "license: apache-2.0" in card
    assert "2 of 8 experts of each of 2 layers pruned by the criterion weighted-ean" in " ".join(card.split())
    assert "Saliency was measured on 1,024 tokens (8 samples of 128)" in card
    assert "| experts per layer | 8 | 6 |" in card
    assert "6 experts do not divide by 4 or 8" in card


def test_a_rerun_skips_and_another_criterion_needs_no_pass(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from calibration import calibrate

    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("the statistics are there")

    monkeypatch.setattr(calibrate, "run_pass", never)
    assert prune(str(DEMO), "--ratio", "0.25", "--artifacts", str(root), *SMALL)["state"] == "current"
    other = ("--keep", "5", "--criterion", "frequency", "--no-proof")
    made = prune(str(DEMO), *other, "--artifacts", str(root), *SMALL)
    assert Path(made["folder"]).name == "minimax-m2-4.6m-Frequency-5"
    assert made["masked"] is None
    assert "It was not compared with the original." in (Path(made["folder"]) / "README.md").read_text()


def test_a_plan_is_applied_elsewhere_without_calibration(root: Path, tmp_path: Path) -> None:
    plan = folder_of(root) / "plan.json"
    out = tmp_path / "elsewhere"
    made = prune(str(DEMO), "--plan", str(plan), "--out", str(out), "--artifacts", str(tmp_path / "none"))
    assert made["state"] == "made"
    assert not (tmp_path / "none").exists()
    for name in ("model.safetensors", "config.json", "plan.json", "saliency.svg"):
        assert (out / name).read_bytes() == (folder_of(root) / name).read_bytes(), name


def test_healing_is_asked_for_stated_and_repeated_by_its_plan(root: Path, tmp_path: Path) -> None:
    made = prune(str(DEMO), "--ratio", "0.25", "--heal", "--artifacts", str(root), *SMALL)
    folder = Path(made["folder"])
    assert folder.name == "minimax-m2-4.6m-WeightedEAN-6-Healed"
    assert made["passed"]
    plain = json.loads((folder_of(root) / "verification.json").read_text())["cost"]
    for domain, cost in made["healed"]["plain"].items():
        assert cost["kl"] == pytest.approx(plain[domain]["kl"], abs=2e-5)
    plan = json.loads((folder / "plan.json").read_text())
    assert plan["layers"] == json.loads((folder_of(root) / "plan.json").read_text())["layers"]
    assert plan["healing"]["profile"]["samples"] == 8
    assert "refitted by least squares" in " ".join((folder / "provenance.yaml").read_text().split())
    assert "healing.json" in json.loads((folder / "manifest.json").read_text())["files"]
    assert "KL without the refit" in (folder / "README.md").read_text()
    assert prune(str(DEMO), "--ratio", "0.25", "--heal", "--artifacts", str(root), *SMALL)["state"] == "current"
    prune(str(DEMO), "--plan", str(folder / "plan.json"), "--out", str(tmp_path / "again"), "--no-proof")
    for name in ("model.safetensors", "healing.json", "plan.json"):
        assert (tmp_path / "again" / name).read_bytes() == (folder / name).read_bytes(), name


def test_an_edited_plan_is_another_checkpoint(root: Path, tmp_path: Path) -> None:
    found = json.loads((folder_of(root) / "plan.json").read_text())
    for layer in found["layers"]:
        layer["kept"] = [1, 2, 3]
    (tmp_path / "mine.json").write_text(json.dumps(found))
    made = prune(str(DEMO), "--plan", str(tmp_path / "mine.json"), "--out", str(tmp_path / "out"), "--no-proof")
    assert made["structure"]["experts"] == 3


def test_the_pruned_folder_exports(root: Path, tmp_path: Path) -> None:
    assert run(["export", str(folder_of(root)), "fp8", "gguf-q8_0", "--out", str(tmp_path), "--no-verify", *SMALL]) == 0
    card = (tmp_path / folder_of(root).name / f"{folder_of(root).name}-FP8" / "README.md").read_text()
    assert "2 of 8 experts of each of 2 layers pruned" in " ".join(card.split())


def test_a_dry_run_tells_the_bytes_and_does_nothing(root: Path, tmp_path: Path) -> None:
    told = prune(str(DEMO), "--ratio", "0.25", "--dry-run", "--artifacts", str(tmp_path / "none"))
    assert not (tmp_path / "none").exists()
    verdict = json.loads((folder_of(root) / "verification.json").read_text())
    assert (told["bytes_before"], told["bytes_after"]) == (verdict["before"]["bytes"], verdict["after"]["bytes"])
    assert told["kept"] == [6]
    healed = prune(str(DEMO), "--ratio", "0.25", "--heal", "--dry-run", "--artifacts", str(tmp_path / "none"))
    assert healed["bytes_after"] == told["bytes_after"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "it is not clear what to prune; give one of --ratio, --keep and --plan"),
        (("--ratio", "0.25", "--keep", "6"), "it is not clear what to prune"),
        (("--ratio", "25"), "a ratio of 25 is not between 0 and 1"),
        (("--keep", "1"), "a layer cannot keep 1 expert: the router chooses 2 of 8 for a token; keep 2 to 7"),
        (("--keep", "8"), "the checkpoint has 8 experts in each layer already"),
        (("--ratio", "0.25", "--budget", "global"), "config.json has one for all (num_local_experts)"),
        (("--ratio", "0.25", "--set", "keep=[]"), "--set keep=[] is not a key of the calibration"),
        (("--plan", "no-such.json"), "cannot read the plan no-such.json"),
        (("--keep", "6", "--out", "a b"), "'a b' cannot name a model; choose another --out"),
    ],
)
def test_a_mistake_is_one_sentence(
    arguments: tuple[str, ...], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["prune", str(DEMO), *arguments, "--artifacts", str(tmp_path / "none")]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "none").exists()


def test_a_dense_model_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = make_family("llama", tmp_path / "model")
    assert run(["prune", str(folder), "--ratio", "0.25", "--artifacts", str(tmp_path / "none")]) == 1
    assert "is a llama without routed experts: there is nothing to prune" in capsys.readouterr().err


def test_an_unsound_result_fails_the_gate(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Routers' rows in another order than their experts': no float comes near what that changes, on any processor."""
    monkeypatch.setattr("pruning.apply._runs", lambda rows: [(row, row + 1) for row in reversed(rows)])
    plan = folder_of(root) / "plan.json"
    made = prune(str(DEMO), "--plan", str(plan), "--out", str(tmp_path / "out"), code=3)
    assert not made["passed"]
    assert "**Not sound**" in (tmp_path / "out" / "README.md").read_text()


def test_experts_stacked_on_disk_are_judged_and_pruned(tmp_path: Path) -> None:
    """gpt-oss: one array for all experts of a layer, with biases."""
    folder = make_moe("gpt_oss", tmp_path / "model", vocab_size=2048)
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        shutil.copy(DEMO / name, folder / name)
    made = prune(str(folder), "--ratio", "0.4", "--artifacts", str(tmp_path / "artifacts"), *SMALL)
    assert made["structure"]["experts"] == 5
    assert made["masked"]["sound"]


def test_it_says_how_to_see_whether_answers_still_end(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["prune", str(DEMO), "--ratio", "0.25", "--artifacts", str(root), *SMALL]) == 0
    asked = f"evaluate {folder_of(root)} --baseline {DEMO} --task answers --max-more-looping 0.02"
    assert asked in capsys.readouterr().out
