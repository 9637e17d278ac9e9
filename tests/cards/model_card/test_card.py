"""A card shows what the files around it say, and nothing that nobody stated."""

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gguf import GGUFWriter
from huggingface_hub import ModelCard

from cards.budget.device_memory import memory
from cards.facts.model_facts import read_model
from cards.facts.origins import wrong_figures
from cards.model_card.card import card_of, write_cards
from sixfold.artifact.verification_record import content_digest
from sixfold.sizes import size
from sixfold.statistics.statistics import SCHEMA, existing_statistics
from tests.cards.model_folder import (
    PROVENANCE,
    finding,
    manifest,
    prompt,
    pruned,
    put,
    result,
    since_original,
    source,
    write,
)
from tests.cards.reported import CONFIG


@pytest.fixture
def root(tmp_path: Path) -> Path:
    source(tmp_path / "Tiny", **PROVENANCE)
    return tmp_path / "Tiny"


def card(root: Path, folder: Path, owner: str = "") -> str:
    """As it is read: a space that breaks no line is a space."""
    return card_of(read_model(root), folder, owner).text.replace("\N{NO-BREAK SPACE}", " ")


def test_every_file_with_its_size_and_every_note(root: Path) -> None:
    text = card(root, put(root, manifest("FP8")))
    assert f"| `model.safetensors` | 1,234,567,890 | `{'a' * 64}` |" in text
    assert "| Size | 1.23 GB |" in text
    assert "2 Linears stay in BF16." in text


def test_front_matter_is_what_the_hub_reads(root: Path) -> None:
    quantized = {"quantization_config": {"quant_method": "compressed-tensors"}}
    data = ModelCard(card(root, put(root, manifest("FP8"), **quantized))).data
    assert (data.license, data.license_name, data.license_link) == ("other", "their-license", "LICENSE")
    assert (data.library_name, data.pipeline_tag) == ("vllm", "text-generation")
    assert data.tags == ["compressed-tensors", "fp8_dynamic", "sixfold"]


def base_of(text: str) -> tuple[str | None, str | None]:
    data = ModelCard(text).data.to_dict()
    return data.get("base_model"), data.get("base_model_relation")


def test_the_base_model_is_the_checkpoint_where_the_hub_has_it(root: Path) -> None:
    """What was pruned before it was quantized is not a quantization of the original."""
    bf16, fp8 = put(root, manifest("BF16")), put(root, manifest("FP8"))
    assert base_of(card(root, fp8)) == ("someone/Original", None)
    assert base_of(card(root, fp8, "lab")) == ("lab/Tiny-BF16", "quantized")
    assert base_of(card(root, bf16, "lab")) == ("someone/Original", None)
    source(root, "lab/Tiny", **PROVENANCE)
    assert base_of(card(root, fp8)) == ("lab/Tiny", "quantized")


def test_a_base_model_that_nothing_was_done_to_is_quantized(root: Path) -> None:
    source(root, base_model="someone/Original")
    assert base_of(card(root, put(root, manifest("FP8")))) == ("someone/Original", "quantized")


def test_the_license_leads_to_its_text(root: Path) -> None:
    source(root, license="other", license_name="their-license")
    folder = put(root, manifest("FP8", files={"model.safetensors": 9, "LICENSE-v2.txt": 3}))
    (folder / "LICENSE-v2.txt").write_text("All yours.")
    text = card(root, folder)
    assert ModelCard(text).data.license_link == "LICENSE-v2.txt"
    assert "| License | [their-license](LICENSE-v2.txt) |" in text


def test_what_nobody_stated_is_left_out(root: Path) -> None:
    source(root)
    text = card(root, put(root, manifest("FP8")))
    assert ModelCard(text).data.license is None
    assert "No license was stated for the checkpoint" in text
    for absent in (
        "base_model",
        "It was made from",
        "The original model",
        "Calibration",
        "Pruning",
        "Evaluation",
        "KL",
    ):
        assert absent not in text
    assert "Not measured: FP8." in text
    assert "FP8 was not verified" in text


def test_one_card_for_all_gguf_files_smallest_first(root: Path) -> None:
    large = manifest("GGUF", "Q8_0", {"Tiny-Q8_0.gguf": 20})
    put(root, large, result(large, 0.001))
    small = manifest("GGUF", "Q3_K_M", {"Tiny-Q3_K_M.gguf": 10})
    text = card(root, put(root, small, result(small, 0.5)))
    assert "| [Tiny-Q3_K_M.gguf](Tiny-Q3_K_M.gguf) | 10 B | 0.5000 | 99.0% | where nothing larger fits |" in text
    assert "| [Tiny-Q8_0.gguf](Tiny-Q8_0.gguf) | 20 B | 0.0010 | 99.0% | where memory is no question |" in text
    assert text.index("[Tiny-Q3_K_M.gguf]") < text.index("[Tiny-Q8_0.gguf]")
    assert ModelCard(text).data.tags == ["gguf", "q3_k_m", "q8_0", "sixfold"]


def test_a_domain_that_one_of_the_files_was_not_measured_on_has_no_figure(root: Path) -> None:
    large, small = (manifest("GGUF", scheme, {f"Tiny-{scheme}.gguf": 10}) for scheme in ("Q8_0", "Q3_K_M"))
    on_less = result(large)
    on_less["divergence"]["scores"]["engine"]["domains"] = {"prose": 0.01}
    put(root, large, on_less)
    text = card(root, put(root, small, result(small)))
    assert "| Q3_K_M | 0.0200 |" in text
    assert "| Q8_0 | - |" in text


def test_no_figure_is_parted_from_its_unit_in_a_narrow_column(root: Path) -> None:
    bf16 = put(root, manifest("BF16"), **LLAMA)
    text = card_of(read_model(root), bf16).text
    assert "| 8,192 | 1.23\N{NO-BREAK SPACE}GB | 16.8\N{NO-BREAK SPACE}MB |" in text
    gguf = put(root, manifest("GGUF", "Q8_0"))
    put(root, manifest("GGUF", "Q6_K"))
    assert ".gguf) | 1.23\N{NO-BREAK SPACE}GB |" in card_of(read_model(root), gguf).text


def test_siblings_are_told_with_size_and_quality(root: Path) -> None:
    fp8 = manifest("FP8")
    put(root, fp8, result(fp8))
    nvfp4 = put(root, manifest("NVFP4", files={"model.safetensors": 600_000_000}))
    assert "| FP8 | 1.23 GB | 0.0235 | 99.0% |" in card(root, nvfp4)
    assert "| [FP8](https://huggingface.co/lab/Tiny-FP8) | 1.23 GB |" in card(root, nvfp4, "lab")
    assert "| **NVFP4** (this one) | 600 MB | - | - | four bits on NVIDIA GPUs" in card(root, nvfp4)


def test_what_to_take_if_unsure_is_what_agrees_most_for_its_bytes(root: Path) -> None:
    """Top-1 to the fourth power for each byte of the three that passed; one that failed is never named."""
    for scheme, nbytes, top1, failed in (
        ("Q8_0", 30, 1.0, False),
        ("Q6_K", 20, 0.95, False),
        ("Q4_K_M", 15, 0.99, True),
        ("Q3_K_M", 10, 0.69, False),
    ):
        made = manifest("GGUF", scheme, {f"Tiny-{scheme}.gguf": nbytes})
        verdict = result(made, findings=[finding("it failed", "error")] if failed else [])
        for score in verdict["divergence"]["scores"].values():
            score["top1"] = top1
        folder = put(root, made, verdict)
    text = card(root, folder)
    assert "**If unsure: [Tiny-Q6_K.gguf](Tiny-Q6_K.gguf).** Of the files that passed, it agrees most" in text
    assert "The next smaller, Q3_K_M, has 10 B and top-1 69.0%; the next larger, Q8_0, 30 B and 100.0%." in text
    assert "llama-server -m Tiny-Q6_K.gguf" in text


def test_experts_in_the_computers_memory_leave_the_rest_to_the_gpu(root: Path) -> None:
    """Two tensors of experts of 64 bytes, one of another kind of 32; the file has what its tensors have, in whole."""
    folder = root / "Tiny-GGUF"
    folder.mkdir(parents=True)
    writer = GGUFWriter(folder / "Tiny-Q8_0.gguf", "llama")
    for name, rows in (("blk.0.ffn_up_exps.weight", 4), ("blk.1.ffn_up_exps.weight", 4), ("blk.0.attn_q.weight", 2)):
        writer.add_tensor(name, np.zeros((rows, 4), dtype=np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    source(root, **PROVENANCE)
    write(root / "source/config.json", CONFIG)
    made = manifest("GGUF", "Q8_0", {"Tiny-Q8_0.gguf": 31 * 10**9})
    put(root, made, result(made))
    text = card(root, folder)
    needed = memory(CONFIG, 31 * 10**9 - 128, "llama.cpp", 8192).total
    assert "with `--cpu-moe` llama.cpp leaves all experts" in text
    assert "At 8,192 tokens that takes:\n\n| file | experts, in the computer's memory | the rest, on the GPU |" in text
    assert f"| Q8_0 | 128 B | {size(needed)} |" in text
    write_cards(read_model(root))
    assert wrong_figures((folder / "README.md").read_text(), folder) == ()


def test_warnings_stand_beside_what_was_verified(root: Path) -> None:
    made = manifest("FP8")
    smoke = {"not_run": "", "engine": "", "prompts": [prompt("prose", "it runs in a loop"), prompt("code")]}
    found = result(made, findings=[finding("it runs in a loop", "warning")], smoke=smoke)
    text = card(root, put(root, made, found))
    assert "| Verified | structure, divergence from BF16, gates; 1 warning (see the known limits) |" in text
    assert "- FP8: 1 of 2 passed; prose: it runs in a loop\n" in text
    assert "it does not say that the answer is right" in text


def test_the_card_of_the_checkpoint_itself_has_no_table_of_zeros(root: Path) -> None:
    made = manifest("BF16")
    text = card(root, put(root, made, result(made, 0.0)))
    assert "**The checkpoint itself, in BF16**: not quantized" in text
    assert "Its perplexity there is 13.70." in text
    assert "Quality compared with BF16" not in text
    assert "of Tiny" not in text.split("<!-- yours: introduction")[0]


def test_a_figure_says_whether_it_is_from_the_pruned_or_from_the_unpruned_model(root: Path) -> None:
    made = manifest("FP8")
    pruned(root)
    folder = put(root, made, result(made))
    text = card(root, folder)
    assert "Its mean KL divergence from BF16 (of the pruned checkpoint) is 0.0235 nats per token" in text
    assert "unpruned" not in text
    put(root, made, since_original(result(made), 0.3456))
    text = card(root, folder)
    assert "Measured from Big, the unpruned model, they are 0.3456 and 75.0%." in text.split("\n## ")[0]
    assert "**Since Big**, the unpruned model, over the same text; its own perplexity is 12.00" in text
    assert "| FP8 | 0.34560 | 0.00500 | 0.500 | 75.0% | 98.0% | 0.0200 |" in text
    put(root, manifest("NVFP4", files={"model.safetensors": 600_000_000}))
    assert "| **FP8** (this one) | 1.23 GB | 0.0235 | 99.0% | 0.3456 | 75.0% |" in card(root, folder)


def test_a_healed_checkpoint_is_not_said_to_give_what_the_original_gives(root: Path) -> None:
    """The proof is of what was cut, before the refit."""
    made = manifest("FP8")
    pruned(root)
    path = root / "source/pruning/verification.json"
    masked = {"sound": True, "tokens": 20000, "layers": [{"largest": 1e-7}]}
    write(path, json.loads(path.read_text()) | {"masked": masked})
    folder = put(root, made, result(made))
    assert "afterwards. Every layer gives the same output as the original's" in card(root, folder)
    plan = root / "source/pruning/plan.json"
    write(plan, json.loads(plan.read_text()) | {"healing": {"profile": {}}})
    text = card(root, folder)
    assert "and the projections of the kept ones refitted by least squares; nothing was trained" in text
    assert "afterwards. Before the refit, every layer gives the same output as the original's" in text


def test_the_unpruned_model_is_as_far_from_bf16_everywhere_on_a_card(root: Path) -> None:
    """The BF16 variant is the pruned checkpoint: its own figure is told, not the one of the pruner's proof (0.25)."""
    made, quantized = manifest("BF16"), manifest("FP8")
    pruned(root)
    own = put(root, made, since_original(result(made, 0.0), 0.2468))
    text = card(root, own)
    assert "Its mean KL divergence from Big, the unpruned model, is 0.2468 nats per token, and its top-1 75.0%." in text
    for shown in (text, card(root, put(root, quantized, result(quantized)))):
        assert "relative to Big, the pruned checkpoint itself has a mean KL of 0.2468 and a top-1 of 75.0%" in shown


def test_the_command_that_makes_it_again_has_the_settings_of_its_recipe(root: Path) -> None:
    """As `make all-formats` rounds FP8, which its own recipe does not."""
    made = manifest("FP8")
    folder = put(root, made)
    assert "\nsixfold export MODEL fp8\n" in card(root, folder)
    made["recipe"] |= {"rounding": "compensated", "calibration": {"texts": ["my own.txt"], "samples": 64}}
    settings = "--set rounding=compensated --set 'calibration.texts=[my own.txt]'"
    assert f"\nsixfold export MODEL fp8 {settings}\n" in card(root, put(root, made))
    made["recipe"]["name"] = "ours"
    assert "\nsixfold export MODEL ours.yaml\n" in card(root, put(root, made))


def test_quality_is_what_was_measured_of_these_files(root: Path) -> None:
    made = manifest("FP8")
    folder = put(root, made, result(made))
    row = "| FP8 | 0.02346 | 0.03000 | 0.01000 | 0.00500 | 0.500 | 99.0% | 98.0% | 13.70 |"
    assert row in card(root, folder)
    put(root, manifest("FP8", files={"model.safetensors": 1}))
    assert "0.02346" not in card(root, folder)
    put(root, manifest("FP8", source={"fingerprint": "e" * 64}))
    assert "0.02346" not in card(root, folder)


@pytest.mark.parametrize(
    ("allowed", "head", "said"),
    [
        ({"max_mean_kl": 0.03}, "| | KL as run | max KL | weights alone |", "Max KL is the gate that it must"),
        ({"min_top1": 0.9}, "| 99th percentile | top-1 | min top-1 | top-5 |", "min top-1 is the gate that it must"),
        ({"max_mean_kl": 0.03, "min_top1": 0.9}, "| top-1 | min top-1 |", "Max KL and min top-1 are the gates that"),
        ({}, "| | KL as run | weights alone | median | 99th percentile | top-1 | top-5 |", "does. BF16's own"),
    ],
)
def test_a_gate_has_a_column_where_one_was_set(root: Path, allowed: dict[str, float], head: str, said: str) -> None:
    made = manifest("FP8")
    text = card(root, put(root, made, result(made, allowed=allowed)))
    assert head in text
    assert said in text
    (table,) = re.findall(r"(\| \| KL as run .*\n\|.*\n\|.*)\n", text)
    assert len({line.count("|") for line in table.splitlines()}) == 1


def test_what_holds_for_several_files_is_said_once(root: Path) -> None:
    for scheme, changes in {"Q8_0": {}, "Q6_K": {"device": "cpu"}, "Q3_K_M": {"device": "cpu"}}.items():
        folder = put(root, manifest("GGUF", scheme, **changes))
    text = card(root, folder)
    assert text.count("Rounded with errors compensated") == 1
    assert "- Q3_K_M, Q6_K: Rounded with errors compensated: scales" in text
    assert text.count("\n- 2 Linears stay in BF16.\n") == 1
    assert "- Rounded with errors compensated: " in card(root, put(root, manifest("FP8", device="cpu")))


def test_files_are_named_as_they_are_called_beside_a_gguf(root: Path) -> None:
    """As a folder's manifest.json and verification.json beside one file, and with its name before theirs for GGUFs."""
    smoke = {"engine": "transformers", "not_run": "", "prompts": [prompt("prose")]}
    for suffix, name in {"FP8": "`verification.json`", "GGUF": "`<file>.verification.json`"}.items():
        made = manifest(suffix, "Q8_0" if suffix == "GGUF" else "")
        assert f"answers and rules are in {name}." in card(root, put(root, made, result(made, smoke=smoke)))


def test_a_failed_gate_stands_on_the_card(root: Path) -> None:
    made = manifest("FP8")
    text = card(root, put(root, made, result(made, 0.5, findings=[finding("the mean KL is 0.5", "error")])))
    assert "| Verified | **failed**: FP8 (see the known limits) |" in text
    assert "- **FP8 is not sound.** gates.max_mean_kl: the mean KL is 0.5; it answers worse than it should." in text


def test_a_warning_is_a_limit(root: Path) -> None:
    made = manifest("FP8")
    uneven = {"2": [], "4": ["model.layers.*.self_attn.o_proj"]}
    found = result(made, findings=[finding("it runs in a loop", "warning")], tensor_parallel=uneven)
    text = card(root, put(root, made, found))
    assert "- FP8: gates.max_mean_kl: it runs in a loop." in text
    assert "- Tensor parallelism over 4 GPUs does not divide `model.layers.*.self_attn.o_proj` evenly" in text
    assert "over 2 GPUs" not in text


def calibrated(root: Path, **changes: Any) -> Path:
    text = {"license": "MIT", "tokens": 32768, "rows": 70, "overlap": {}}
    dataset = {"license": "", "tokens": 9, "rows": 1, "overlap": {"HumanEval": 3}, "revision": "0123456789abcdef"}
    files = {"own.txt": text, "lab/set:train": dataset, "unused.txt": {**text, "tokens": 0}}
    domains = {"code": {"samples": 40}, "prose": {"samples": 24}}
    coverage = [{"layer": 0, "tokens": [5, 900, 700], "unreached": [], "few": [0]}]
    content = {
        "schema": SCHEMA,
        "profile": {"texts": ["builtin", {"dataset": "lab/set"}], "min_tokens": 32, "starved": "average"},
        "method": {"dtype": "bfloat16"},
        "tokens": {"samples": 64, "length": 512, "domains": domains, "files": files},
        "coverage": coverage,
        "without_statistics": ["model.layers.9.mtp.weight"],
        "files": {"layer-00000.safetensors": {"sha256": "b" * 64}},
        **changes,
    }
    write(root / "calibration/manifest.json", content)
    statistics = existing_statistics(root / "calibration")
    assert statistics is not None
    return put(root, manifest("FP8", statistics=statistics.digest))


def test_the_calibration_is_told_with_its_texts_and_licenses(root: Path) -> None:
    text = card(root, calibrated(root))
    assert "**Calibration** (FP8): 32,768 tokens, 64 windows of 512, from 2 texts" in text
    assert "Windows by domain: code 40, prose 24." in text
    assert "  - MIT: own.txt\n" in text
    assert "  - no license stated: lab/set:train at 0123456789ab\n" in text
    assert "unused.txt" not in text
    assert ModelCard(text).data.datasets == ["lab/set"]


def test_experts_that_calibration_hardly_reached_are_a_limit(root: Path) -> None:
    text = card(root, calibrated(root))
    assert "Of 3 experts in 1 layer, the least used saw 5 tokens, the median 700; 1 saw fewer than 32." in text
    assert "- 1 expert saw fewer than 32 tokens in calibration; their statistics are replaced by the average" in text
    assert "(multi-token prediction): `model.layers.9.mtp.weight`." in text
    assert "- The calibration text lab/set:train shares 3 sequences of thirteen words with HumanEval" in text


def test_calibration_is_named_only_where_it_was_used(root: Path) -> None:
    folder = calibrated(root)
    for digest in (None, "c" * 64):
        put(root, manifest("FP8", statistics=digest))
        assert "Calibration" not in card(root, folder)


def test_the_calibration_s_importance_matrix_is_named_where_it_lies_beside(root: Path) -> None:
    """Not where it is another calibration's, which the files of one folder can be made of too."""
    folder, sentence = calibrated(root), "Its importance matrix, which `llama-quantize --imatrix` takes, is"
    assert sentence not in card(root, folder)
    for path in (root / "calibration", folder):
        (path / "imatrix.gguf").write_bytes(b"one")
    assert f"{sentence} `imatrix.gguf`." in card(root, folder)
    (folder / "imatrix.gguf").write_bytes(b"other")
    assert sentence not in card(root, folder)


def test_an_importance_matrix_from_elsewhere_is_told(root: Path) -> None:
    imatrix = {
        "file": "theirs.gguf", "kept_as": "imatrix-theirs.gguf", "sha256": "c" * 64,
        "chunks": 100, "chunk_size": 512, "datasets": ["wiki.txt"],
    }  # fmt: skip
    text = card(root, calibrated(root, imatrix=imatrix, tokens=None, coverage=None, without_statistics=[]))
    assert "included as `imatrix-theirs.gguf` (`theirs.gguf`, sha256 `cccccccccccccccc`), of 100 chunks of" in text
    assert "from wiki.txt. Its texts were not compared with evaluation sets." in text


def test_only_engines_that_read_the_format(root: Path) -> None:
    compressed = {"quant_method": "compressed-tensors"}
    text = card(root, put(root, manifest("NVFP4"), quantization_config=compressed))
    assert "### vLLM" in text
    assert "### SGLang" not in text
    assert "**Not with transformers**: it loads this layout without the global scales of the experts" in text
    text = card(root, put(root, manifest("FP8"), quantization_config=compressed))
    assert "### SGLang" in text
    assert "TensorRT-LLM" not in text
    modelopt = {"quant_method": "modelopt"}
    fp8 = manifest("FP8")
    fp8["recipe"]["scheme"] = "FP8"
    assert "trtllm-serve Tiny-FP8" in card(root, put(root, fp8, quantization_config=modelopt))
    assert "print(generate" in card(root, put(root, manifest("BF16")))


def test_the_flags_that_a_model_and_a_machine_need(root: Path) -> None:
    config = {"model_type": "minimax_m2", "auto_map": {"AutoConfig": "configuration.py"}}
    folder = put(root, manifest("BF16"), **config)
    text = card(root, folder)
    assert "vllm serve Tiny-BF16 --trust-remote-code\n" in text
    assert "On a DGX Spark (GB10) 128 GB add `--gpu-memory-utilization 0.85` ([why](https://github.com/vllm" in text
    (folder / "chat_template.jinja").write_text("{% for tool in tools %}{% endfor %}")
    assert "--trust-remote-code --enable-auto-tool-choice --tool-call-parser minimax_m2" in card(root, folder)


def test_commands_name_the_repository_where_it_is_known(root: Path) -> None:
    folder = put(root, manifest("GGUF", "Q4_K_M"))
    assert "llama-server -m Tiny-Q4_K_M.gguf" in card(root, folder)
    assert "llama-server -hf lab/Tiny-GGUF:Q4_K_M" in card(root, folder, "lab")
    assert "ollama run hf.co/lab/Tiny-GGUF:Q4_K_M" in card(root, folder, "lab")


def test_a_model_that_sees_is_told_what_it_sees_with(root: Path) -> None:
    files = {"Tiny-Q4_K_M.gguf": 4000, "mmproj-Tiny-BF16.gguf": 500}
    folder = put(root, manifest("GGUF", "Q4_K_M", files))
    text = card(root, folder)
    assert "llama-server -m Tiny-Q4_K_M.gguf --mmproj mmproj-Tiny-BF16.gguf\n" in text
    assert size(4000) in text
    assert size(4500) not in text  # it is in no variant's size
    assert "It takes in more than text by `mmproj-Tiny-BF16.gguf`, which comes along" in card(root, folder, "lab")


def test_a_mix_to_a_budget_is_named_by_its_file(root: Path) -> None:
    """Its type is none that the Hub knows a file by."""
    mix = manifest("GGUF", "AUTO")
    mix["recipe"]["budget"] = {"bits": 4.5}
    text = card(root, put(root, mix), "lab")
    assert "llama-server -hf lab/Tiny-GGUF -hff Tiny-AUTO.gguf\n" in text
    assert "ollama run hf.co/lab/Tiny-GGUF:Tiny-AUTO.gguf\n" in text


def test_a_card_lists_no_file_that_its_readers_do_not_find(root: Path) -> None:
    for scheme in ("Q8_0", "Q4_K_M", "Q3_K_M"):
        folder = put(root, manifest("GGUF", scheme))
    fp8 = put(root, manifest("FP8"))
    without = read_model(root).without(folder, ("gguf-q8_0", "fp8"))
    assert "Q8_0" not in card_of(without, folder, "lab").text
    assert "Tiny-FP8" in card_of(without, folder, "lab").text  # another folder's
    assert "# Tiny-FP8" in card_of(without, fp8, "lab").text


def test_ollama_is_not_told_to_read_a_model_in_several_files(root: Path) -> None:
    parts = {f"Tiny-Q4_K_M-0000{i}-of-00002.gguf": 10 for i in (1, 2)}
    put(root, manifest("GGUF", "Q8_0", {"Tiny-Q8_0-00001-of-00002.gguf": 50, "Tiny-Q8_0-00002-of-00002.gguf": 50}))
    text = card(root, put(root, manifest("GGUF", "Q4_K_M", parts)))
    assert "llama-gguf-split --merge Tiny-Q8_0-00001-of-00002.gguf" in text
    assert "ollama run" not in text
    assert "| [Q4_K_M, 2 files](Tiny-Q4_K_M-00001-of-00002.gguf) | 20 B |" in text


def test_an_evaluation_is_told_with_its_method(root: Path) -> None:
    made = manifest("FP8")
    folder = put(root, made)
    write(folder / "evaluation.json", evaluation(content_digest(made)))
    write(folder / "speed.json", SPEED | {"artifact": {"content": content_digest(made)}})
    text = card(root, folder)
    assert "Answers by an engine, with their method; intervals are at 95%." in text
    assert (
        "| FP8 | 120 of 164 (73.2%; 65.7% to 79.8%) | 120 of 161 (74.5%; 67.1% to 81.1%) | 98 of 164 (59.8%; 51.8% to"
        " 67.3%) | 3 | Tiny-BF16: 123 of 164, 1 gained, 4 lost, p = 0.38 |"
    ) in text
    assert "FP8: vLLM 9.9, temperature 0.0, at most 4,096 tokens. Greedy, the first code block. vLLM 9.9, " in text
    assert "| FP8 | 238 of 240 (99.2%; 97.0% to 99.9%) | 2 (0.8%; 0.1% to 3.0%) | 412 | 4,096 | 0.7 |" in text
    assert "Tiny-BF16: 239 ended, 1 in a loop, p = 1 |" in text
    assert (
        "- FP8: 51.2 tokens a second written, 800.0 read, 12.3 GB of memory at its peak, 1 request at a time;" in text
    )
    assert "on a chip, 16 cores, a GPU: `vllm serve Tiny-FP8`" in text
    write_cards(read_model(root))
    assert not wrong_figures(text, folder)
    put(root, manifest("FP8", files={"model.safetensors": 1}))
    assert "HumanEval" not in card(root, folder)


def test_what_was_not_evaluated_is_left_out(root: Path) -> None:
    """Raw completions alone; and nothing that ended before the cap."""
    made = manifest("FP8")
    folder = put(root, made)
    whole = evaluation(content_digest(made))
    write(folder / "evaluation.json", whole | {"benchmarks": [{"name": "HumanEval", "raw": RAW}], "endings": None})
    text = card(root, folder)
    assert "| FP8 | - | - | 98 of 164 (59.8%; 51.8% to 67.3%) | - | - |" in text
    assert "Answers that end" not in text
    cut = STRICT | {"completed": {"answers": 0, "passed": 0, "interval": [0, 1]}}
    write(folder / "evaluation.json", whole | {"benchmarks": [{"name": "HumanEval", **cut}]})
    assert "| FP8 | 120 of 164 (73.2%; 65.7% to 79.8%) | - | - | 3 |" in card(root, folder)


ENGINE = {"name": "vLLM", "build": "9.9"}
ASKED = {"engine": ENGINE, "max_tokens": 4096, "temperature": 0.0, "samples": 1}
RAW = {
    **ASKED, "method": "gone on with", "problems": 164, "answers": 164, "passed": 98, "interval": [0.5182, 0.6732],
    "truncated": 0, "completed": {"answers": 164, "passed": 98, "interval": [0.5182, 0.6732]}, "baseline": None,
}  # fmt: skip
STRICT = {
    **ASKED, "method": "greedy, the first code block", "problems": 164, "answers": 164, "passed": 120,
    "interval": [0.6571, 0.7979], "truncated": 3,
    "completed": {"answers": 161, "passed": 120, "interval": [0.6710, 0.8106]},
    "baseline": {
        "name": "Tiny-BF16", "engine": ENGINE, "answers": 164, "passed": 123, "gained": ["HumanEval/1"],
        "lost": [f"HumanEval/{n}" for n in (2, 3, 4, 5)], "p": 0.375,
    },
}  # fmt: skip
SPEED = {
    "engine": ENGINE, "command": "vllm serve Tiny-FP8", "concurrency": 1, "prompt": 800.0, "generation": 51.2,
    "peak_memory": 12_300_000_000, "machine": {"cpu": "a chip", "cores": 16, "memory": 1, "gpus": ["a GPU"]},
}  # fmt: skip


def test_answers_are_compared_with_the_unpruned_model_too(root: Path) -> None:
    made = manifest("FP8")
    folder = put(root, made)
    found = evaluation(content_digest(made))
    assert "unpruned" not in card(root, folder).split("## Evaluation")[-1]
    original = {
        "name": "Big",
        "engine": ENGINE,
        "answers": 164,
        "passed": 130,
        "gained": ["a"],
        "lost": ["b", "c"],
        "p": 1.0,
    }
    found["benchmarks"][0]["original"] = original
    found["endings"]["original"] = {
        "name": "Big",
        "engine": ENGINE,
        "answers": 240,
        "ended": 240,
        "looping": 0,
        "p": 0.5,
    }
    write(folder / "evaluation.json", found)
    text = card(root, folder)
    assert "| against | since the original, unpruned |\n|---|---|---|---|---:|---|---|\n" in text
    assert "| Big: 130 of 164, 1 gained, 2 lost, p = 1 |" in text
    assert "| Big: 240 ended, 0 in a loop, p = 0.5 |" in text


def evaluation(content: str) -> dict[str, Any]:
    """As evaluation/result.py documents it, as far as a card reads it."""
    endings = {
        "rule": "an answer loops where it ends in one piece over and over", "engine": ENGINE, "answers": 240,
        "ended": 238, "ended_interval": [0.9702, 0.9990], "looping": 2, "looping_interval": [0.0010, 0.0298],
        "mean_tokens": 412.3, "max_tokens": 4096, "temperature": 0.7,
        "baseline": {"name": "Tiny-BF16", "engine": ENGINE, "answers": 240, "ended": 239, "looping": 1, "p": 1.0},
    }  # fmt: skip
    return {
        "schema": 1, "level": 0.95, "artifact": {"content": content}, "findings": [], "endings": endings,
        "benchmarks": [{"name": "HumanEval", **STRICT, "raw": RAW}],
    }  # fmt: skip


def test_text_from_a_file_cannot_break_the_card(root: Path) -> None:
    source(root, **{**PROVENANCE, "authors": "a lab | of *two*\n# people --> <script>"})
    text = card(root, put(root, manifest("FP8")))
    assert r"- The checkpoint, Tiny: a lab \| of \*two\* # people --> \<script>." in text
    assert text.endswith("]}\n-->\n")
    assert text.count("-->\n") == text.count("<!--")


def test_cards_are_written_once(root: Path) -> None:
    put(root, manifest("FP8"))
    assert [written.changed for written in write_cards(read_model(root))] == [True]
    assert [written.changed for written in write_cards(read_model(root))] == [False]


LLAMA = {
    "model_type": "llama", "num_hidden_layers": 4, "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 64,
    "hidden_size": 256, "intermediate_size": 512, "vocab_size": 1000, "max_position_embeddings": 16384,
}  # fmt: skip


def test_memory_is_told_where_the_attention_is_known(root: Path) -> None:
    text = card(root, put(root, manifest("BF16"), **LLAMA))
    assert "The cache grows by 2,048 bytes per token." in text
    assert "| 8,192 | 1.23 GB | 16.8 MB |" in text
    assert "| 16,384 | 1.23 GB | 33.6 MB |" in text
    assert "16,384 tokens, the model's longest context, fit on each of these: RTX 4090 24 GB, RTX 5090" in text
    large = manifest("BF16", files={"model.safetensors": 100_000_000_000})
    text = card(root, put(root, large, **LLAMA))
    assert "4 x RTX 5090 32 GB" in text
    assert "2 x H100 80 GB, H200 141 GB" in text
    assert "4090" not in text
    long = put(root, manifest("BF16"), **{**LLAMA, "max_position_embeddings": 100_000_000})
    assert re.search(r"^\| RTX 4090 24 GB \| 10,\d{3},\d{3} \|$", card(root, long), re.MULTILINE)
    assert "Memory requirements" not in card(root, put(root, manifest("BF16"), model_type="no_such_attention"))


def test_machines_are_those_that_the_recipe_is_for(root: Path) -> None:
    made = manifest("FP8")
    for meant, there, absent in (
        (["NVIDIA Blackwell"], {"5090", "B200"}, {"H100", "MI300X", "4090"}),
        (["NVIDIA Hopper", "AMD MI300"], {"H100", "MI300X"}, {"4090", "B200"}),
        (["NVIDIA"], {"H100", "4090"}, {"MI300X"}),
        ([], {"H100", "4090", "MI300X"}, set()),
    ):
        made["recipe"]["hardware"] = meant
        text = card(root, put(root, made, **LLAMA))
        assert all(name in text for name in there)
        assert not any(name in text for name in absent)


def test_charts_are_shown_where_they_are(root: Path) -> None:
    made = manifest("FP8")
    folder = put(root, made, result(made))
    (root / "charts").mkdir()
    drawn = {"kl-by-domain.svg", "kl-by-domain.png", "kl-by-domain-dark.png"}
    assert "![" not in card(root, folder)
    for name in (*drawn, "memory-vllm.svg", "memory-llama-cpp.svg", "another.svg"):
        (root / "charts" / name).write_text("<svg/>")
    write_cards(read_model(root))
    text = (folder / "README.md").read_text()
    assert (
        '\n<a href="charts/kl-by-domain.svg"><picture><source media="(prefers-color-scheme: dark)"'
        ' srcset="charts/kl-by-domain-dark.png"><img alt="Divergence by kind of text" src="charts/kl-by-domain.png">'
        "</picture></a>\n"
    ) in text
    assert (folder / "charts/kl-by-domain.svg").read_text() == "<svg/>"
    there = {path.name for path in (folder / "charts").iterdir()}
    assert there == {*drawn, "memory-vllm.svg"}
    (root / "charts/memory-vllm.svg").unlink()
    write_cards(read_model(root))
    assert not (folder / "charts/memory-vllm.svg").exists()


@pytest.mark.parametrize(("suffix", "scheme", "prefix"), [("FP8", "", ""), ("GGUF", "Q4_K_M", "Tiny-Q4_K_M.gguf.")])
def test_what_the_parts_cost_is_shown_of_these_files(suffix: str, scheme: str, prefix: str, root: Path) -> None:
    made = manifest(suffix, scheme)
    folder = put(root, made, result(made))
    write(folder / f"{prefix}attribution.json", {"artifact": {"content": content_digest(made)}})
    (folder / f"{prefix}attribution.svg").write_text("<svg/>")
    image = f"]({prefix}attribution.svg)"
    assert image in card(root, folder)
    write(folder / f"{prefix}attribution.json", {"artifact": {"content": "of other files"}})
    assert image not in card(root, folder)


def test_a_card_is_rendered_over_another_than_the_one_that_is_there(root: Path) -> None:
    folder = put(root, manifest("FP8"))
    write_cards(read_model(root))
    there = (folder / "README.md").read_text()
    edited = there.replace("<!-- yours: notes -->\n", "<!-- yours: notes -->\nFrom the Hub.\n")
    assert card_of(read_model(root), folder, "", edited).text == edited
    assert "From the Hub." not in card(root, folder)


def test_verified_says_what_was(root: Path) -> None:
    made = manifest("FP8")
    folder = put(root, made, result(made, weights={"formats": [], "groups": [], "worst": []}))
    assert "| Verified | structure, every weight against the checkpoint, divergence from BF16, gates |" in card(
        root, folder
    )
    put(root, made, result(made, divergence=None, gates={}, weights=None))
    assert "| Verified | structure |" in card(root, folder)


def test_an_artifact_without_a_record_of_its_source_has_a_card(tmp_path: Path) -> None:
    text = card(tmp_path, put(tmp_path, manifest("GGUF", "Q8_0")))
    assert "**1 GGUF file** of Tiny, of 1.23 GB" in text
