"""sixfold budget: what it prints of a checkpoint, an artifact, a GGUF file and a config.json, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest

from sixfold import cli
from tests.cards import published
from tests.exporters.gguf_tools import export, recipe, source_of

DEMO = "demo/minimax-m2-4.6m"


def run(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str, str]:
    code = cli.run(("budget", *arguments))
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def data(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, Any]:
    code, out, err = run(capsys, *arguments, "--json")
    assert code == 0, err
    found: dict[str, Any] = json.loads(out)
    return found


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "config.json"
    path.write_text(json.dumps(published.MINIMAX_M2_7))
    return str(path)


def test_formats_of_a_checkpoint_are_budgeted_in_the_engines_that_read_them(
    capsys: pytest.CaptureFixture[str],
) -> None:
    found = data(capsys, DEMO, "fp8", "gguf-q8_0", "--context", "1k,4096", "--hardware", "gb10")
    rows = {(v["name"], v["engine"]): v for v in found["variants"]}
    assert set(rows) == {("fp8", "vllm"), ("fp8", "sglang"), ("gguf-q8_0", "llama.cpp")}
    assert found["contexts"] == [1024, 4096]
    plan = json.loads(_plan(capsys, "gguf-q8_0"))["variants"][0]
    assert rows["gguf-q8_0", "llama.cpp"]["weights"] == sum(t["bytes"] for t in plan["tensors"])
    for row in rows.values():
        assert row["longest"] == {"gb10": 4096}
        for memory in row["by_context"]:
            assert memory["total"] == sum(memory[part] for part in ("weights", "kv_cache", "compute", "reserve"))


def _plan(capsys: pytest.CaptureFixture[str], name: str) -> str:
    assert cli.run(("plan", DEMO, name, "--json")) == 0
    return capsys.readouterr().out


def test_tables_state_their_units_and_what_is_an_estimate(capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = run(capsys, DEMO, "fp8", "--hardware", "mac-studio-64", "--hardware", "2x-h100")
    assert code == 0
    assert "KV cache, bf16, in bytes" in out
    assert "1 GiB = 1,024 MiB = 1,073,741,824 bytes" in out
    assert " GB" not in out.replace("80 GB", "").replace("64 GB", "").replace("48 of 64 GiB", "")
    assert "Estimate: vLLM's compute buffers" in out
    fits = next(line for line in out.splitlines() if line.split()[:2] == ["fp8", "vllm"] and "MiB" not in line)
    assert fits.split()[2:] == ["-", "4,096"]


def test_a_config_alone_has_a_cache(capsys: pytest.CaptureFixture[str], config: str) -> None:
    code, out, _ = run(capsys, config, "--context", "8k,100000", "--engine", "vllm")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["vllm"])
    assert row == ["vllm", "253,952", "0", "0", f"{8192 * 253_952:,}", f"{100_000 * 253_952:,}"]
    assert "3 multi-token prediction layers" in out


def test_sequences_and_devices_count(capsys: pytest.CaptureFixture[str], config: str) -> None:
    alone = data(capsys, config, "--context", "8k", "--engine", "vllm")
    shared = data(capsys, config, "--context", "8k", "--engine", "vllm", "--sequences", "6", "--tensor-parallel", "2")
    assert shared["caches"][0]["by_context"] == [3 * alone["caches"][0]["by_context"][0]]


def test_a_gguf_file_says_all_that_is_needed_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan, file = export(source_of(Path(DEMO)), recipe("Q8_0"), tmp_path)
    for place in (file, tmp_path):
        found = data(capsys, str(place), "--context", "4k")
        (variant,) = found["variants"]
        assert (variant["name"], variant["engine"]) == (file.stem, "llama.cpp")
        assert variant["weights"] == sum(tensor.nbytes for tensor in plan.tensors)
        by_engine = {cache["engine"]: cache["growth"]["nbytes"] for cache in found["caches"]}
        assert by_engine["llama.cpp"] == 2 * 2 * 2 * 64 * 2


def test_an_artifact_weighs_what_its_headers_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(("export", DEMO, "fp8", "--out", str(tmp_path))) in {0, 3}
    folder = tmp_path / "minimax-m2-4.6m" / "minimax-m2-4.6m-FP8"
    capsys.readouterr()
    found = data(capsys, str(folder))
    plan = json.loads(_plan(capsys, "fp8"))["variants"][0]
    assert {v["weights"] for v in found["variants"]} == {sum(t["bytes"] for t in plan["tensors"])}
    assert [(v["name"], v["engine"]) for v in found["variants"]] == [("fp8", "vllm"), ("fp8", "sglang")]


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--hardware", "abacus"], 2, "there is no hardware 'abacus'"),
        (["--context", "8k,many"], 2, "is no list of contexts"),
        (["--engine", "llama.cpp", "--cache-type", "fp8"], 2, "llama.cpp has no fp8 cache"),
        (["--tensor-parallel", "5"], 2, "48 attention heads among 5 devices"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    found, out, err = run(capsys, config, *arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_an_attention_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**published.GPT_OSS_120B, "layer_types": ["astral_attention"] * 36}))
    code, out, err = run(capsys, str(path))
    assert (code, out) == (1, "")
    assert "astral_attention" in err
    assert len(err.splitlines()) == 1


def test_a_context_beyond_the_configs_is_said(capsys: pytest.CaptureFixture[str], config: str) -> None:
    _, out, _ = run(capsys, config, "--context", "300k")
    assert "The config allows 204,800 tokens" in out
