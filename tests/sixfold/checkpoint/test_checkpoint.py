"""Opening folders and reading slices; safetensors is the oracle."""

import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sixfold.checkpoint.checkpoint import Provenance, SourceTensor, open_checkpoint
from sixfold.checkpoint.storage import positional_reads
from sixfold.checkpoint.storage.safetensors_header import read_header, write_header
from sixfold.checkpoint.tensor_slice import TensorSlice
from sixfold.errors import SixfoldError
from tests.checkpoints import save_model

DEMO = Path(__file__).parents[3] / "demo" / "minimax-m2-4.6m"


def test_every_tensor_and_slice_of_the_demo_model() -> None:
    checkpoint = open_checkpoint(str(DEMO))
    with safe_open(DEMO / "model.safetensors", "pt") as stored:
        assert set(checkpoint.tensors) == set(stored.keys())
        for name, tensor in checkpoint.tensors.items():
            expected = stored.get_tensor(name)
            assert tensor.shape == tuple(expected.shape)
            assert tensor.nbytes == expected.nbytes
            rows = tensor.shape[0]
            assert torch.equal(checkpoint.read(TensorSlice(name, 0, rows)), expected)
            assert torch.equal(
                checkpoint.read(TensorSlice(name, rows // 3, rows // 2)), expected[rows // 3 : rows // 2]
            )
    assert checkpoint.name == "minimax-m2-4.6m"
    assert (checkpoint.revision, checkpoint.config["model_type"]) == ("", "minimax_m2")


def test_any_shape_and_type(tmp_path: Path) -> None:
    tensors = {
        "scalar": torch.tensor(3.5),
        "vector": torch.arange(7).half(),
        "stacked": torch.randn(5, 6, 3).bfloat16(),
        "empty": torch.empty(0, 4),
        "table": torch.arange(10).reshape(5, 2),
        "mask": torch.tensor([True, False, True]),
    }
    checkpoint = open_checkpoint(str(save_model(tmp_path / "m", [tensors])))
    assert checkpoint.tensors["stacked"] == SourceTensor("stacked", "BF16", (5, 6, 3), 180)
    for name, expected in tensors.items():
        rows = expected.shape[0] if expected.dim() else 1
        whole = checkpoint.read(TensorSlice(name, 0, rows))
        assert whole.dtype == expected.dtype
        assert torch.equal(whole, expected)
        for start in range(rows if expected.dim() else 0):
            for stop in range(start, rows + 1):
                assert torch.equal(checkpoint.read(TensorSlice(name, start, stop)), expected[start:stop])


def test_slices_out_of_range_and_unknown_names(tmp_path: Path) -> None:
    checkpoint = open_checkpoint(str(save_model(tmp_path / "m", [{"w": torch.zeros(4, 2)}])))
    with pytest.raises(ValueError, match="w has 4 rows, not 2 to 5"):
        checkpoint.read(TensorSlice("w", 2, 5))
    with pytest.raises(SixfoldError, match=r"m has no tensor v; see `sixfold inspect` for what it has\."):
        checkpoint.read(TensorSlice("v", 0, 1))


def test_tensors_are_in_the_order_of_files_and_offsets(tmp_path: Path) -> None:
    shards = [{"z": torch.zeros(2), "a": torch.zeros(2)}, {"m": torch.zeros(2), "b": torch.zeros(2)}]
    folder = save_model(tmp_path / "m", shards)
    expected = []
    for file in sorted(folder.glob("*.safetensors")):
        expected += [tensor.name for tensor in read_header(folder, file.name).tensors]
    assert list(open_checkpoint(str(folder)).tensors) == expected


def test_opening_reads_no_weights(tmp_path: Path) -> None:
    """A sparse file of 1 TB opens at once; only its header is there to be read."""
    folder = save_model(tmp_path / "m", [{"w": torch.zeros(2)}])
    header = write_header([("w", "BF16", (1 << 19, 1 << 20))], {})
    with (folder / "model.safetensors").open("wb") as f:
        f.write(header)
        f.truncate(len(header) + (1 << 40))
    checkpoint = open_checkpoint(str(folder))
    assert checkpoint.tensors["w"].nbytes == 1 << 40
    assert torch.equal(checkpoint.read(TensorSlice("w", 524_287, 524_288)), torch.zeros(1, 1 << 20).bfloat16())


def test_many_threads_and_fewer_descriptors_than_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(positional_reads, "MAX_OPEN", 2)
    shards = [{f"w{i}": torch.full((64, 64), float(i))} for i in range(12)]
    checkpoint = open_checkpoint(str(save_model(tmp_path / "m", shards)))
    with ThreadPoolExecutor(8) as threads:
        parts = [(i, r) for r in range(60) for i in range(12)]
        read = threads.map(lambda p: checkpoint.read(TensorSlice(f"w{p[0]}", p[1], p[1] + 4)), parts)
        for (i, _), tensor in zip(parts, read, strict=True):
            assert torch.equal(tensor, torch.full((4, 64), float(i)))


def test_a_file_that_shrinks_under_the_reader(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", [{"w": torch.zeros(1000)}])
    checkpoint = open_checkpoint(str(folder))
    with (folder / "model.safetensors").open("r+b") as f:
        f.truncate(500)
    with pytest.raises(SixfoldError) as error:
        checkpoint.read(TensorSlice("w", 0, 1000))
    assert str(error.value) == (
        "model.safetensors ended early while it was read; leave the checkpoint unchanged while it is in use."
    )


def test_a_snapshot_of_symbolic_links(tmp_path: Path) -> None:
    """As huggingface_hub's cache holds a model; it is named after the repository."""
    cached = tmp_path / "models--lab--Tiny-4B"
    snapshot = cached / "snapshots" / "0123abc"
    snapshot.mkdir(parents=True)
    blobs = save_model(cached / "blobs", [{"a": torch.ones(3)}, {"b": torch.ones(3)}], {"tokenizer.json": "{}"})
    for file in blobs.iterdir():
        (snapshot / file.name).symlink_to(file)
    checkpoint = open_checkpoint(str(snapshot))
    assert (checkpoint.name, checkpoint.extras, set(checkpoint.tensors)) == ("Tiny-4B", ("tokenizer.json",), {"a", "b"})
    assert checkpoint.fingerprint == open_checkpoint(str(blobs)).fingerprint


@pytest.mark.parametrize("shards", [1, 2])
def test_other_safetensors_files_do_not_confuse(tmp_path: Path, shards: int) -> None:
    folder = save_model(tmp_path / "m", [{f"w{i}": torch.zeros(2)} for i in range(shards)])
    for name in ("consolidated.safetensors", "consolidated-00001-of-00002.safetensors", "adapter_model.safetensors"):
        save_file({"other": torch.zeros(1)}, folder / name)
    assert set(open_checkpoint(str(folder)).tensors) == {f"w{i}" for i in range(shards)}


def test_the_only_file_may_have_any_name(tmp_path: Path) -> None:
    folder = save_model(tmp_path / "m", [{"w": torch.zeros(2)}])
    (folder / "model.safetensors").rename(folder / "weights.safetensors")
    assert set(open_checkpoint(str(folder)).tensors) == {"w"}


def test_extras_are_what_a_copy_must_carry(tmp_path: Path) -> None:
    carried = [
        "LICENSE", "LICENSE.txt", "NOTICE", "added_tokens.json", "chat_template.jinja", "chat_template.json",
        "configuration_tiny.py", "generation_config.json", "merges.txt", "preprocessor_config.json", "qwen.tiktoken",
        "special_tokens_map.json", "tokenizer.json", "tokenizer.model", "tokenizer_config.json", "vocab.json",
    ]  # fmt: skip
    left = ["README.md", "pytorch_model.bin", "provenance.yaml", "training_args.bin", "notes.txt", "tokenizer.pt"]
    folder = save_model(tmp_path / "m", [{"w": torch.zeros(2)}], dict.fromkeys([*carried, *left], ""))
    assert open_checkpoint(str(folder)).extras == tuple(sorted(carried))


class TestFingerprint:
    def test_a_copy_has_the_same(self, tmp_path: Path) -> None:
        shutil.copytree(DEMO, tmp_path / "copy")
        assert open_checkpoint(str(tmp_path / "copy")).fingerprint == open_checkpoint(str(DEMO)).fingerprint

    @pytest.mark.parametrize("change", ["weights", "config", "tokenizer"])
    def test_another_fine_tune_of_the_same_shape_has_another(self, tmp_path: Path, change: str) -> None:
        weights = {"a": torch.randn(5000, 4), "b": torch.randn(64, 64)}
        folder = save_model(tmp_path / "m", [weights], {"tokenizer.json": "{}"})
        before = open_checkpoint(str(folder)).fingerprint
        if change == "weights":  # one small tensor is a little off
            save_file({**weights, "b": weights["b"] * 1.0001}, folder / "model.safetensors", {"format": "pt"})
        elif change == "config":
            (folder / "config.json").write_text('{"model_type": "llama", "rope_theta": 5}')
        else:
            (folder / "tokenizer.json").write_text("{ }")
        assert open_checkpoint(str(folder)).fingerprint != before

    def test_what_is_not_part_of_the_model_does_not_matter(self, tmp_path: Path) -> None:
        folder = save_model(tmp_path / "m", [{"w": torch.zeros(2)}])
        before = open_checkpoint(str(folder)).fingerprint
        (folder / "README.md").write_text("# read me")
        assert open_checkpoint(str(folder), name="other").fingerprint == before


class TestProvenance:
    def open(self, folder: Path, text: str, options: Provenance | None = None) -> Provenance:
        save_model(folder, [{"w": torch.zeros(2)}], {"provenance.yaml": text})
        return open_checkpoint(str(folder), provenance=options).provenance

    def test_file_and_options(self, tmp_path: Path) -> None:
        text = "name: Tiny-P40\nbase_model: lab/big\nlicense: other\nlicense_name: tiny\nauthors: [Ada, Bo]\n"
        past = self.open(tmp_path / "m", text, Provenance(license="mit", method="REAP"))
        assert past == Provenance("Tiny-P40", "lab/big", "mit", "tiny", "", "REAP", "Ada, Bo")
        assert open_checkpoint(str(tmp_path / "m")).name == "Tiny-P40"
        assert open_checkpoint(str(tmp_path / "m"), name="mine").name == "mine"

    def test_an_empty_file(self, tmp_path: Path) -> None:
        assert self.open(tmp_path / "m", "# nothing known\n") == Provenance()

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            (
                "licence: mit",
                (
                    "has an unknown key licence; the keys are"
                    " name, base_model, license, license_name, license_link, method, authors."
                ),
            ),
            ("license: no", 'has a license that is not text; write it in quotes: license: "...".'),
            ("name: a\nlicense: [", "is not valid YAML, line 2; correct it or remove it."),
            ("just text", "does not consist of `key: value` lines; the keys are name, base_model, license,"),
        ],
    )
    def test_refusals(self, tmp_path: Path, text: str, message: str) -> None:
        with pytest.raises(SixfoldError) as error:
            self.open(tmp_path / "m", text)
        assert str(error.value).startswith(f"{tmp_path}/m/provenance.yaml {message}")


def test_a_written_header_is_what_safetensors_reads(tmp_path: Path) -> None:
    header = write_header([("a", "F32", (2, 3)), ("é", "BF16", (4,)), ("c", "F8_E4M3", (0,))], {"format": "pt"})
    assert len(header) % 8 == 0
    data = torch.arange(6.0).numpy().tobytes() + torch.ones(4).bfloat16().view(torch.uint8).numpy().tobytes()
    (tmp_path / "x.safetensors").write_bytes(header + data)
    with safe_open(tmp_path / "x.safetensors", "pt") as stored:
        assert stored.metadata() == {"format": "pt"}
        assert torch.equal(stored.get_tensor("a"), torch.arange(6.0).reshape(2, 3))
        assert torch.equal(stored.get_tensor("é"), torch.ones(4).bfloat16())
    parsed = read_header(tmp_path, "x.safetensors")
    assert (parsed.raw, parsed.metadata) == (header, {"format": "pt"})
    assert [(t.name, t.shape, t.offset - len(header)) for t in parsed.tensors] == [
        ("a", (2, 3), 0),
        ("é", (4,), 24),
        ("c", (0,), 32),
    ]
