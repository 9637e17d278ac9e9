"""sixfold budget: what it prints of a checkpoint, an artifact, a GGUF file and a config.json, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter

from cli import main as cli
from sixfold.model.source import open_source
from tests.cards import published
from tests.exporters.ggml.gguf_tools import export, recipe

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
    """MiniMax-M2.7's, of four layers and 16 experts."""
    fields = {**published.MINIMAX_M2_7, "num_hidden_layers": 4, "attn_type_list": [1] * 4, "num_local_experts": 16}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(fields))
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
    assert "decimal: a GB is 1,000,000,000 bytes" in out
    assert "iB" not in out.split("Notes")[0]
    assert "Estimate: vLLM's compute buffers" in out
    fits = next(line for line in out.splitlines() if line.split()[:2] == ["fp8", "vllm"] and "MB" not in line)
    assert fits.split()[2:] == ["-", "4,096"]


def test_a_wrong_machine_is_told_at_once(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Before the model is looked at, which is not there."""
    code, out, err = run(capsys, DEMO, "--hardware", "2xh100")
    assert (code, out) == (2, "")
    assert err == "sixfold: there is no hardware '2xh100'; perhaps 2x-h100 is meant.\n"


def test_gpt_oss_is_budgeted_as_it_ships(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """One layer of four experts: 3 * 64 * 64 codes of four bits and a scale for 32 of them; all else in BF16."""
    fields = {
        "model_type": "gpt_oss", "architectures": ["GptOssForCausalLM"], "num_hidden_layers": 1, "hidden_size": 64,
        "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 32, "vocab_size": 128,
        "num_local_experts": 4, "num_experts_per_tok": 2, "max_position_embeddings": 4096, "sliding_window": 128,
        "layer_types": ["full_attention"],
    }  # fmt: skip
    (tmp_path / "bf16.json").write_text(json.dumps(fields))
    (tmp_path / "mxfp4.json").write_text(json.dumps({**fields, "quantization_config": {"quant_method": "mxfp4"}}))
    whole, shipped = (
        {v["name"]: v["weights"] for v in data(capsys, str(tmp_path / f"{name}.json"))["variants"]}
        for name in ("bf16", "mxfp4")
    )
    codes = 4 * 3 * 64 * 64
    assert shipped["as it ships (MXFP4)"] == whole["bf16"] - 2 * codes + codes // 2 + codes // 32
    assert "as it ships (MXFP4)" not in whole


def test_what_cannot_be_made_has_the_exit_code_of_plan(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """Where it was named; by default everything that can be made is told, and the same reason once."""
    recipe_file = tmp_path / "blocks.yaml"
    recipe_file.write_text(
        "name: blocks\nextends: fp8\nsuffix: BLOCKS\nscheme: FP8_BLOCK\noptions: {layout: modelopt}\n"
    )
    code, out, _ = run(capsys, DEMO, str(recipe_file), "bf16")
    assert cli.run(("plan", DEMO, str(recipe_file), "bf16")) == code != 0
    assert "Cannot be made: blocks: " in out


def test_a_config_alone_is_planned_as_its_checkpoint_would_be(capsys: pytest.CaptureFixture[str], config: str) -> None:
    token = 4 * 2 * 8 * 128 * 2
    code, out, _ = run(capsys, config, "gguf-q8_0", "--context", "8k,100000", "--engine", "llama.cpp")
    assert code == 0
    row = next(line.split() for line in out.splitlines() if line.split()[:1] == ["llama.cpp"])
    assert row == ["llama.cpp", f"{token:,}", "0", "0", f"{8192 * token:,}", f"{100_096 * token:,}"]
    assert "3 multi-token prediction layers" in out
    assert "Known from config.json alone" in out
    weights = [data(capsys, config, "gguf-q8_0", *more)["variants"][0]["weights"] for more in ([], ["--experts", "10"])]
    expert = 4 * 3 * 3072 * 1536 * 34 // 32
    router = 4 * 4 * 3072 + 4 * 4
    assert weights[0] - weights[1] == 6 * (expert + router)


def test_a_config_that_cannot_be_planned_has_a_cache(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**published.STEP_3_7, "quantization_config": {"quant_method": "abacus"}}))
    found = data(capsys, str(path), "--engine", "vllm")
    assert found["variants"] == []
    assert found["caches"][0]["growth"] == {"nbytes": 12 * 2 * 8 * 128 * 2, "tokens": 1}
    assert "Weights are not counted" in found["notes"][0]


def test_sequences_and_devices_count(capsys: pytest.CaptureFixture[str], config: str) -> None:
    alone = data(capsys, config, "fp8", "--context", "8k", "--engine", "vllm")
    shared = data(
        capsys, config, "fp8", "--context", "8k", "--engine", "vllm", "--sequences", "6", "--tensor-parallel", "2"
    )
    assert shared["caches"][0]["by_context"] == [3 * alone["caches"][0]["by_context"][0]]


def test_what_llama_cpp_sees_with_is_counted(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    _, path = export(open_source(Path(DEMO)), recipe("Q8_0"), tmp_path)
    (alone,) = data(capsys, str(path))["variants"]
    writer = GGUFWriter(tmp_path / "mmproj-model-BF16.gguf", "clip")
    writer.add_tensor("v.patch_embd.weight", np.zeros((25, 1000), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    for place in (path, tmp_path):
        found = data(capsys, str(place))
        (beside,) = found["variants"]
        assert beside["weights"] == alone["weights"] + 100_000
        assert any("100 kB of the projector" in note for note in found["notes"])


def test_a_gguf_file_says_all_that_is_needed_itself(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    plan, file = export(open_source(Path(DEMO)), recipe("Q8_0"), tmp_path)
    for place in (file, tmp_path):
        found = data(capsys, str(place), "--context", "4k")
        (variant,) = found["variants"]
        assert (variant["name"], variant["engine"]) == (file.stem, "llama.cpp")
        assert variant["weights"] == sum(tensor.nbytes for tensor in plan.tensors)
        by_engine = {cache["engine"]: cache["growth"]["nbytes"] for cache in found["caches"]}
        assert by_engine["llama.cpp"] == 2 * 2 * 2 * 64 * 2


def test_an_artifact_weighs_what_its_headers_say(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert cli.run(("export", DEMO, "fp8", "--out", str(tmp_path), "--no-verify")) == 0
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
        (["--context", "8k,many"], 2, "is not a list of contexts"),
        (["--engine", "llama.cpp", "--cache-type", "fp8"], 2, "llama.cpp has no fp8 cache"),
        (["--tensor-parallel", "5"], 2, "48 attention heads among 5 devices"),
    ],
)
def test_mistakes_are_one_sentence(
    arguments: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str], config: str
) -> None:
    found, out, err = run(capsys, config, "fp8", *arguments)
    assert (found, out) == (code, "")
    assert said in err


def test_an_attention_that_is_not_known_is_named(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**published.GPT_OSS_120B, "layer_types": ["astral_attention"] * 36}))
    code, out, err = run(capsys, str(path))
    assert (code, out) == (1, "")
    assert "astral_attention" in err
    assert len(err.splitlines()) == 1


def test_an_engine_whose_cache_is_not_known_leaves_the_others(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**published.DEEPSEEK_V4_FLASH, "quantization_config": {"quant_method": "abacus"}}))
    found = data(capsys, str(path))
    assert [cache["engine"] for cache in found["caches"]] == ["llama.cpp"]
    assert any("vLLM pools the compressed attention" in note for note in found["notes"])
    code, out, err = run(capsys, str(path), "--engine", "vllm")
    assert (code, out) == (1, "")
    assert "DeepSeek-V4" in err


def test_a_context_beyond_the_configs_is_said(capsys: pytest.CaptureFixture[str], config: str) -> None:
    _, out, _ = run(capsys, config, "fp8", "--context", "300k")
    assert "The config allows 204,800 tokens" in out


def test_a_pruned_checkpoint_is_a_model_to_be_planned(capsys: pytest.CaptureFixture[str]) -> None:
    (variant, *_) = data(capsys, "demo/minimax-m2-4.6m-REAP-6", "awq", "--context", "4k")["variants"]
    assert variant["name"] == "awq"


def test_a_format_that_no_engine_left_reads_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    found = data(capsys, DEMO, "awq", "gguf-q8_0", "--engine", "llama.cpp")
    assert [variant["name"] for variant in found["variants"]] == ["gguf-q8_0"]
    assert any(note.startswith("awq is read by vLLM, ") for note in found["notes"])
    code, _, err = run(capsys, DEMO, "awq", "--engine", "llama.cpp")
    assert code == 2
    assert err.startswith("sixfold: awq is read by vLLM, ")


@pytest.mark.parametrize("more", [["awq"], ["--experts", "4"]])
def test_an_artifact_has_its_format_and_experts(
    more: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    _, file = export(open_source(Path(DEMO)), recipe("Q8_0"), tmp_path)
    code, out, err = run(capsys, str(file), *more)
    assert (code, out) == (2, "")
    assert "is an artifact, whose format and experts are fixed" in err
