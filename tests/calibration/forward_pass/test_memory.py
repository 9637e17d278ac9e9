"""What a pass needs is known before, kept to, and refused where it is not there."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from calibration.forward_pass import memory
from calibration.forward_pass.memory import predict, resources
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.recipes.recipe import Calibration
from sixfold.runner.available_memory import Allowed
from sixfold.sizes import parse_size
from tests.calibration.large import make_large
from tests.families import make_family

ROOT = Path(__file__).parents[3]
DEMO = ROOT / "demo" / "minimax-m2-4.6m"
PROFILE = Calibration(samples=8, length=256, sample_rows=16)
FEW_TOKENS = PROFILE.model_copy(update={"samples": 2})
"""What is large is the weights."""

LIMITED = """
import resource, sys
from pathlib import Path
from tests.calibration.forward_pass import test_memory as t
from calibration.calibrate import calibrate
from tests.calibration.silent import silent

def status(key):
    for line in open("/proc/self/status"):
        if line.startswith(key):
            return 1024 * int(line.split()[1])

limit, folder, out = int(sys.argv[1]), sys.argv[2], Path(sys.argv[3])
untouched = status("VmData:") - status("RssAnon:")  # what libraries map and do not use: more in CUDA builds of PyTorch
resource.setrlimit(resource.RLIMIT_DATA, (limit + untouched,) * 2)  # the system refuses every byte beyond
peak = []
def watched(description, total, unit):
    from contextlib import contextmanager
    @contextmanager
    def display():
        yield lambda amount: peak.append(status("RssAnon:"))
    return display()
source = t.open_source(folder)
profile = t.FEW_TOKENS.model_copy(update={"moments": sys.argv[4] == "1"})
calibrate(source, profile, out, progress=watched, allowed=t.Allowed(host=limit))
print(max(peak))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the limit is Linux's")
@pytest.mark.parametrize(
    ("moments", "limit", "experts", "layers"),
    [pytest.param(False, 900_000_000, 32, 18, marks=pytest.mark.bench), (True, 980_000_000, 16, 10)],
    ids=["sums", "moments"],
)
def test_a_checkpoint_larger_than_the_allowed_memory(
    moments: bool, limit: int, experts: int, layers: int, tmp_path: Path
) -> None:
    """Four times as large without second moments, which are of the layer that is run, as its weights are."""
    nbytes = make_large(tmp_path / "large", layers=layers, experts=experts, hidden=1024, intermediate=1024)
    assert nbytes > (1 if moments else 4) * limit
    arguments = [str(limit), str(tmp_path / "large"), str(tmp_path / "out"), str(int(moments))]
    done = subprocess.run(
        [sys.executable, "-c", LIMITED, *arguments],
        cwd=ROOT, env={**os.environ, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    profile = FEW_TOKENS.model_copy(update={"moments": moments})
    predicted = predict(open_source(tmp_path / "large"), profile, on_gpu=False, ahead=False)
    assert int(done.stdout) <= predicted.host <= 2 * int(done.stdout)
    assert len(list((tmp_path / "out").glob("layer-*.safetensors"))) == layers + 1
    assert (tmp_path / "out" / "imatrix.gguf").is_file()


def test_too_little_memory_is_refused_before_anything_is_read(tmp_path: Path) -> None:
    make_large(tmp_path / "large", layers=2, experts=32, hidden=1024, intermediate=1024)
    source = open_source(tmp_path / "large")
    with pytest.raises(SixfoldError) as refusal:
        resources(source, PROFILE, Allowed(host=parse_size("900MB")))
    assert str(refusal.value).startswith("calibrating large needs 1.")
    assert str(refusal.value).endswith(
        " GB of memory (one layer has 203 MB of weights), 900 MB are allowed; use a larger machine, or formats that"
        " need no calibration (bf16, fp8, gguf-q8_0), or set calibration.moments=false with rounding=nearest."
    )


def test_the_next_layer_is_read_ahead_where_there_is_room() -> None:
    source = open_source(DEMO)
    roomy, tight = (predict(source, PROFILE, on_gpu=False, ahead=ahead) for ahead in (True, False))
    assert roomy.host - tight.host == roomy.layer
    assert resources(source, PROFILE, Allowed(host=roomy.host)).ahead
    assert not resources(source, PROFILE, Allowed(host=roomy.host - 1)).ahead


def test_hidden_states_take_three_files_of_every_token() -> None:
    assert predict(open_source(DEMO), PROFILE, on_gpu=False, ahead=True).disk == 3 * 8 * 256 * 256 * 2


def test_layers_of_which_nothing_is_observed_are_no_trouble(tmp_path: Path) -> None:
    """Mamba's: what stands outside of attention and MLP is never quantized."""
    source = open_source(make_family("nemotron_h", tmp_path))
    assert predict(source, Calibration(samples=1), on_gpu=False, ahead=True).layer > 0


def test_a_gpu_that_is_too_small_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(memory.torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(memory.torch.cuda, "mem_get_info", lambda number: ((8, 1)[number] * 10**9, 9 * 10**9))
    source = open_source(DEMO)
    with pytest.raises(SixfoldError, match=r"of device memory \(one layer has .* of weights\), 1 GB are available"):
        resources(source, PROFILE, Allowed())
    on = resources(source, PROFILE, Allowed(device=8 * 10**9))
    assert (on.device, on.processes) == ("cuda", 2)


@pytest.mark.parametrize(
    ("text", "nbytes"), [("24GB", 24 * 10**9), ("1.5 GiB", 3 << 29), ("512", 512), ("2tb", 2 * 10**12)]
)
def test_sizes_are_read_as_they_are_written(text: str, nbytes: int) -> None:
    assert parse_size(text) == nbytes


@pytest.mark.parametrize("text", ["much", "-1GB", "24G", ""])
def test_no_size(text: str) -> None:
    with pytest.raises(ValueError, match="is not a size; write it like 24GB or 80GiB"):
        parse_size(text)
