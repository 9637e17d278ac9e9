"""A pass that is killed, shared between processes, or short of memory measures what an undisturbed one does."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from calibration.forward_pass import batches as batching
from calibration.forward_pass import layer_pass
from calibration.forward_pass.batches import Batches, batched
from calibration.forward_pass.layer_pass import run_pass
from calibration.forward_pass.processes import run_on_devices
from calibration.forward_pass.unfinished import Reached, read_reached
from sixfold.errors import SixfoldError
from sixfold.model.source import Source, open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.layer_runner import LayerRunner
from tests.calibration.forward_pass.test_latent_inputs import deepseek
from tests.calibration.silent import silent
from tests.families import make_family

pytestmark = pytest.mark.arithmetic

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"
CPU = torch.device("cpu")
PROFILE = Calibration(samples=6, length=48, sample_rows=8)


NOTHING = Reached("", 0, 0, {}, {})


def texts_for(source: Source) -> Batches:
    generator = torch.Generator().manual_seed(1)
    return batched(torch.randint(0, source.checkpoint.config["vocab_size"], (6, 48), generator=generator), 0)


@pytest.fixture(autouse=True)
def small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batching, "BATCH_TOKENS", 96)


def bytes_in(work: Path, reached: Reached) -> dict[str, bytes]:
    return {name: (work / name).read_bytes() for name in reached.files}


def undisturbed(work: Path, folder: Path = DEMO) -> dict[str, bytes]:
    source = open_source(folder)
    reached = run_pass(source, texts_for(source), PROFILE, work, key="k", device=CPU, progress=silent)
    assert list(reached.files) == ["layer-00000.safetensors", "layer-00001.safetensors", "layer-other.safetensors"]
    return bytes_in(work, reached)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """What an undisturbed pass over the demo leaves."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(batching, "BATCH_TOKENS", 96)
        return undisturbed(tmp_path_factory.mktemp("whole"))


@pytest.mark.parametrize("finished", [0, 1, 2])
@pytest.mark.parametrize("batches", [0, 2])
def test_a_broken_pass_goes_on_and_ends_in_the_same_bytes(
    finished: int, batches: int, whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken after some layers, and some batches into the next."""
    source = open_source(DEMO)
    texts = texts_for(source)
    ran: list[int | None] = []
    step, finish = layer_pass._step, LayerRunner.finish

    def counted_step(runner: LayerRunner, layer: int, *rest: object) -> torch.Tensor:
        ran.append(layer)
        if ran.count(layer) > batches and layer == finished and "broken" not in breaking:
            breaking.add("broken")
            raise KeyboardInterrupt
        return step(runner, layer, *rest)  # type: ignore[arg-type]

    def counted_finish(self: LayerRunner, ids: torch.Tensor, hidden: torch.Tensor) -> object:
        if finished == 2 and "broken" not in breaking:
            breaking.add("broken")
            raise KeyboardInterrupt
        return finish(self, ids, hidden)

    breaking: set[str] = set()
    monkeypatch.setattr(layer_pass, "_step", counted_step)
    monkeypatch.setattr(LayerRunner, "finish", counted_finish)
    with pytest.raises(KeyboardInterrupt):
        run_pass(source, texts, PROFILE, tmp_path, key="k", device=CPU, progress=silent)
    ran.clear()
    reached = run_pass(source, texts, PROFILE, tmp_path, key="k", device=CPU, progress=silent)
    assert bytes_in(tmp_path, reached) == whole
    assert set(ran) == set(range(finished, 2))


def test_what_another_calibration_left_is_not_used(whole: dict[str, bytes], tmp_path: Path) -> None:
    source = open_source(DEMO)
    texts = texts_for(source)
    run_pass(source, texts, PROFILE, tmp_path, key="other", device=CPU, progress=silent)
    assert read_reached(tmp_path, "k") is None
    reached = run_pass(source, texts, PROFILE, tmp_path, key="k", device=CPU, progress=silent)
    assert bytes_in(tmp_path, reached) == whole


def test_torn_hidden_states_are_noticed(
    whole: dict[str, bytes], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After a power loss the files of hidden states may be older than what stands beside them."""
    source = open_source(DEMO)
    with monkeypatch.context() as broken:
        broken.setattr(layer_pass, "without_logits", lambda model: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run_pass(source, texts_for(source), PROFILE, tmp_path, key="k", device=CPU, progress=silent)
    left = read_reached(tmp_path, "k")
    assert left is not None
    (tmp_path / f"hidden-{left.turn}.bin").write_bytes(b"")
    reached = run_pass(source, texts_for(source), PROFILE, tmp_path, key="k", device=CPU, progress=silent)
    assert bytes_in(tmp_path, reached) == whole


@pytest.mark.parametrize(("written", "layer"), [(1, 1), (1, 2), (2, 2)], ids=["behind", "two behind", "at the end"])
def test_a_killed_process_leaves_what_the_next_one_needs(
    written: int, layer: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the second batch of a layer, when so many layers were on the disk: the one before may still be on its
    way there, and the hidden states to go on from are whole."""
    folder, work = tmp_path / "model", tmp_path / "work"
    make_family("qwen3_moe", folder, num_hidden_layers=3)
    script = f"""
import os, signal, time
from pathlib import Path
from tests.calibration.forward_pass import test_layer_pass as t
from calibration.forward_pass import batches, layer_files, layer_pass
batches.BATCH_TOKENS = 96
step, seen = layer_pass._step, []
write = layer_files.write_reached
def held_back(work, reached):
    while len(reached.files) > {written}:
        time.sleep(0.01)
    write(work, reached)
def killed(runner, layer, *rest):
    seen.append(layer)
    if seen.count({layer}) == 2:
        while len((t.read_reached(work, "k") or t.NOTHING).files) < {written}:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGKILL)
    return step(runner, layer, *rest)
layer_files.write_reached, layer_pass._step = held_back, killed
source, work = t.open_source(Path({str(folder)!r})), Path({str(work)!r})
layer_pass.run_pass(source, t.texts_for(source), t.PROFILE, work, key="k", device=t.CPU, progress=t.silent)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=Path(__file__).parents[3], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    left = read_reached(work, "k")
    assert left is not None
    assert len(left.files) == written
    ran: list[int] = []
    step = layer_pass._step

    def counted(runner: LayerRunner, layer: int, *rest: object) -> torch.Tensor:
        ran.append(layer)
        return step(runner, layer, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(layer_pass, "_step", counted)
    source = open_source(folder)
    reached = run_pass(source, texts_for(source), PROFILE, work, key="k", device=CPU, progress=silent)
    assert set(ran) == set(range(written, 3))
    whole = run_pass(source, texts_for(source), PROFILE, tmp_path / "whole", key="k", device=CPU, progress=silent)
    assert bytes_in(work, reached) == bytes_in(tmp_path / "whole", whole)


def test_processes_share_the_batches(tmp_path: Path) -> None:
    """Of a model with every kind of statistics: experts, and the halves of latent attention."""
    source = deepseek(tmp_path / "model")
    folder = source.checkpoint.folder
    want = {name: load_file(tmp_path / "whole" / name) for name in undisturbed(tmp_path / "whole", folder)}
    assert want["layer-00001.safetensors"]["model.layers.1.self_attn.kv_b_proj/query_count"] == 6 * 48
    reached = run_on_devices(
        source,
        texts_for(source),
        PROFILE,
        tmp_path / "shared",
        key="k",
        device="cpu",
        size=2,
        progress=silent,
        ahead=True,
    )
    for name in reached.files:
        found = load_file(tmp_path / "shared" / name)
        assert found.keys() == want[name].keys()
        for key, tensor in found.items():
            rtol, atol = 0.0, 0.0
            if "/moments" in key:  # float32 sums, and what is made of them
                rtol, atol = 1e-3, 1e-4
            elif key.endswith(("query_sq", "attended_sq")):  # float32 sums too
                rtol = 1e-5
            elif key.endswith(("sum", "sum_sq", "sum_abs", "norm_sq_sum")):
                rtol = 1e-6
            torch.testing.assert_close(tensor, want[name][key], rtol=rtol, atol=atol)


def test_a_refusal_in_a_process_reaches_the_user(tmp_path: Path) -> None:
    source = open_source(DEMO)
    texts = batched(torch.full((2, 8), 5000), 0)
    with pytest.raises(SixfoldError, match=r"^the tokenizer of .* makes token 5000, but the model has 2048 embeddings"):
        run_on_devices(source, texts, PROFILE, tmp_path, key="k", device="cpu", size=1, progress=silent, ahead=True)
