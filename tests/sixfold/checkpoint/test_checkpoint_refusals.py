"""Every checkpoint that is refused, with the sentence that the user sees."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from sixfold.checkpoint.checkpoint import open_checkpoint
from sixfold.checkpoint.storage.safetensors_header import write_header
from sixfold.errors import SixfoldError
from tests.checkpoints import save_model

INDEX = "model.safetensors.index.json"
SECOND = "model-00002-of-00002.safetensors"
AGAIN = "download or copy the file again."
DIFFERENT_SAVES = "download or copy the index and the file again; they are from different saves."


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """m: two shards with "a", "b" and "c", "d"; tests name it by its relative path."""
    monkeypatch.chdir(tmp_path)
    tensors = {name: torch.zeros(4, 2).bfloat16() for name in "abcd"}
    shards = [{n: tensors[n] for n in names} for names in ("ab", "cd")]
    return save_model(tmp_path / "m", shards, {"tokenizer.json": "{}"})


def message(model: str = "./m") -> str:
    with pytest.raises(SixfoldError) as error:
        open_checkpoint(model)
    text = str(error.value)
    assert text.count("\n") == 0
    return text


def single(folder: Path, header: str | bytes, data: int = 0) -> None:
    """In place of the shards one file with this JSON (its length before it) and so many bytes of data."""
    for path in folder.glob("model*"):
        path.unlink()
    text = header.encode() if isinstance(header, str) else header
    (folder / "model.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + bytes(data))


@pytest.mark.parametrize(
    ("model", "expected"),
    [
        ("./absent", "there is no folder ./absent; check the path."),
        ("/absent/model", "there is no folder /absent/model; check the path."),
        ("../a/b", "there is no folder ../a/b; check the path."),
        ("~/a/no such", "there is no folder ~/a/no such; check the path."),
        ("", "the name of the model is empty; give a folder, or a hub id as owner/name."),
        ("a/b/c", "a/b/c is neither a folder here nor a hub id; check the path, or give the id as owner/name."),
        ("absent", "absent is neither a folder here nor a hub id; check the path, or give the id as owner/name."),
        (
            "lab/my model",
            "lab/my model is neither a folder here nor a hub id; check the path, or give the id as owner/name.",
        ),
        ("x.gguf", "x.gguf is a GGUF file, which is already quantized; give the folder of the safetensors checkpoint."),
        ("m/config.json", "m/config.json is a file; give the folder of the safetensors checkpoint."),
    ],
)
def test_what_is_no_folder(folder: Path, model: str, expected: str) -> None:
    Path("x.gguf").write_bytes(b"GGUF")
    assert message(model) == expected


def test_a_folder_has_no_revision(folder: Path) -> None:
    with pytest.raises(SixfoldError, match=r"^\./m is a folder, which has no revision v2; leave the revision out\.$"):
        open_checkpoint("./m", revision="v2")


def test_a_name_that_cannot_be_one(folder: Path) -> None:
    folder.rename(folder.with_name("my model"))
    assert message("./my model") == (
        "'my model' cannot name the output folders and repositories of ./my model;"
        " give a name of letters, digits, '-', '_' and '.' (--name, or NAME= in make)."
    )
    assert open_checkpoint("./my model", name="mine").name == "mine"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (None, "there is no config.json in ./m; give a model folder as transformers saves it."),
        ('{\n"a": 1,}', "config.json in ./m is not valid JSON: "),
        (b'{"a": "\xff"}', "config.json in ./m is not UTF-8: byte 7 begins no character"),
        ("[]", "config.json in ./m is not a JSON object; correct it or download it again."),
    ],
)
def test_the_config(folder: Path, text: str | bytes | None, expected: str) -> None:
    (folder / "config.json").unlink()
    if text is not None:
        (folder / "config.json").write_bytes(text.encode() if isinstance(text, str) else text)
    assert message().startswith(expected)


def without_weights(folder: Path, *others: str) -> None:
    for path in folder.glob("model*"):
        path.unlink()
    for name in others:
        (folder / name).write_bytes(b"")


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        ((), "there is no safetensors file in ./m; give a folder with model.safetensors, or shards and {INDEX}."),
        (
            ("pytorch_model.bin", "training_args.bin"),
            (
                "./m holds only pickled weights (pytorch_model.bin), which can run code when they are loaded;"
                " convert them to safetensors: load with transformers and save_pretrained."
            ),
        ),
        (("x.pt",), "./m holds only pickled weights (x.pt), which can run code when they are loaded; convert them to"),
        (("c.00.pth",), "./m holds only pickled weights (c.00.pth), which can run code when they are loaded; convert"),
        (
            ("x-Q4_K_M.gguf",),
            "./m holds GGUF files, which are already quantized; give the safetensors checkpoint they came from.",
        ),
        (
            ("adapter_model.safetensors",),
            "./m holds only an adapter; merge it into its base model and save the whole model.",
        ),
        (
            ("consolidated.safetensors",),
            (
                "./m holds consolidated.safetensors but no weights that transformers would load;"
                " give the folder with model.safetensors or its shards."
            ),
        ),
        (
            ("x.safetensors", "y.safetensors", "z.safetensors", "zz.safetensors"),
            (
                "./m holds several safetensors files and no {INDEX}:"
                " x.safetensors, y.safetensors, z.safetensors, zz.safetensors;"
                " keep one, or name the model's own file model.safetensors."
            ),
        ),
        (
            ("model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors", "model.safetensors"),
            (
                "./m holds shards such as model-00001-of-00002.safetensors but no {INDEX};"
                " download or copy the index as well."
            ),
        ),
    ],
)
def test_files_without_an_index(folder: Path, others: tuple[str, ...], expected: str) -> None:
    without_weights(folder, *others)
    assert message().startswith(expected.replace("{INDEX}", INDEX))


def write_index(folder: Path, change: Callable[[dict[str, str]], object]) -> None:
    weight_map = json.loads((folder / INDEX).read_text())["weight_map"]
    change(weight_map)
    (folder / INDEX).write_text(json.dumps({"weight_map": weight_map}))


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"weight_map": {}}', '{"weight_map": {"a": "pytorch_model.bin"}}'])
def test_an_index_that_is_none(folder: Path, text: str) -> None:
    (folder / INDEX).write_text(text)
    assert message() == f"{INDEX} in ./m is not an index of safetensors files; download or copy it again."


def test_an_index_that_leads_out_of_the_folder(folder: Path) -> None:
    write_index(folder, lambda index: index.update(a="../secret.safetensors"))
    assert message() == f"{INDEX} in ./m names ../secret.safetensors, outside of the folder; correct the index."


def test_a_shard_that_is_not_there(folder: Path) -> None:
    (folder / SECOND).unlink()
    assert message() == (
        f"{INDEX} in ./m names {SECOND}, which is not there;"
        " finish the download or copy, or remove the index if it belongs to other files."
    )


@pytest.mark.parametrize("name", ["model-00003-of-00003.safetensors", "model-extra.safetensors"])
def test_a_shard_that_the_index_does_not_know(folder: Path, name: str) -> None:
    save_file({"e": torch.zeros(2)}, folder / name)
    assert message() == (
        f"./m holds {name}, which {INDEX} does not know;"
        " remove the file if it is left over from another save, or restore the index that belongs to it."
    )


def test_a_single_file_beside_an_index(folder: Path) -> None:
    save_file({"a": torch.zeros(2)}, folder / "model.safetensors")
    assert message() == (
        "./m holds model.safetensors beside an index of other files; remove whichever of the two is out of date."
    )


def test_an_index_with_a_tensor_that_its_file_lacks(folder: Path) -> None:
    write_index(folder, lambda index: index.update(e=SECOND, f=SECOND))
    assert message() == f"{INDEX} in ./m places e in {SECOND}, which does not hold it (and 1 more); {DIFFERENT_SAVES}"


def test_an_index_that_places_a_tensor_in_the_wrong_file(folder: Path) -> None:
    write_index(folder, lambda index: index.update(a=SECOND))
    assert message() == f"{INDEX} in ./m places a in {SECOND}, which does not hold it; {DIFFERENT_SAVES}"


def test_a_tensor_that_the_index_lacks(folder: Path) -> None:
    write_index(folder, lambda index: index.pop("c"))
    assert message() == f"{SECOND} in ./m holds c, which {INDEX} does not list; {DIFFERENT_SAVES}"


def test_a_tensor_in_two_files(folder: Path) -> None:
    save_file({name: torch.zeros(2) for name in "acd"}, folder / SECOND)
    assert message() == (
        f"a is in two files of ./m: model-00001-of-00002.safetensors and {SECOND};"
        " remove the file that is left over from another save."
    )


@pytest.mark.parametrize(
    ("keep", "expected"),
    [
        (-1, "is truncated: {size} bytes of {whole}"),
        (40, "is truncated: its header alone is {header} bytes, the file has 40"),
        (5, "is truncated: 5 bytes do not hold a safetensors header"),
        (0, "is truncated: 0 bytes do not hold a safetensors header"),
    ],
)
def test_a_truncated_file(folder: Path, keep: int, expected: str) -> None:
    whole = (folder / SECOND).read_bytes()
    part = whole[:keep]
    (folder / SECOND).write_bytes(part)
    header = 8 + int.from_bytes(whole[:8], "little")
    assert message() == f"{SECOND} {expected.format(size=len(part), whole=len(whole), header=header)}; {AGAIN}"


def test_bytes_after_the_last_tensor(folder: Path) -> None:
    with (folder / SECOND).open("ab") as f:
        f.write(b"12345")
    assert message() == f"{SECOND} has 5 bytes after its last tensor; {AGAIN}"


def test_a_git_lfs_pointer(folder: Path) -> None:
    (folder / SECOND).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 64\n")
    assert message() == (f"{SECOND} is a git-lfs pointer, not weights; run `git lfs pull` in the folder it came from.")


@pytest.mark.parametrize("content", [b"\x93NUMPY" * 50, bytes(100), b"PK\x03\x04" + bytes(200)])
def test_garbage_in_place_of_a_header(folder: Path, content: bytes) -> None:
    (folder / SECOND).write_bytes(content)
    assert message() == f"{SECOND} does not begin with a safetensors header; {AGAIN}"


W = '"w": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}'
V = '"v": {"dtype": "F32", "shape": [2], "data_offsets": [%d, %d]}'


@pytest.mark.parametrize(
    ("header", "data", "expected"),
    [
        ("{nonsense", 0, "has a safetensors header that is not valid JSON: "),
        (b'{"\xff": 1}', 0, f"has a safetensors header that is not UTF-8: byte 2 begins no character; {AGAIN}"),
        (f"{{{W}, {W}}}", 8, f"has a safetensors header that is not valid JSON: w twice; {AGAIN}"),
        ('{"w": 3}', 0, f"has a malformed safetensors header: entry w; {AGAIN}"),
        ('{"w": {"dtype": "F32", "shape": [2]}}', 8, f"has a malformed safetensors header: entry w; {AGAIN}"),
        (f"{{{W.replace('[2]', '[-2]')}}}", 8, f"has a malformed safetensors header: entry w; {AGAIN}"),
        (f"{{{W.replace('[0, 8]', '[0, true]')}}}", 8, f"has a malformed safetensors header: entry w; {AGAIN}"),
        (f"{{{W.replace('[2]', '[3]')}}}", 8, f"gives w 8 bytes, but F32 [3] takes 12; {AGAIN}"),
        (f"{{{W}, {V % (4, 12)}}}", 12, f"has wrong offsets: v overlaps w; {AGAIN}"),
        (f"{{{W}, {V % (16, 24)}}}", 24, f"has wrong offsets: v leaves a hole after w; {AGAIN}"),
        (f"{{{V % (8, 16)}}}", 16, f"has wrong offsets: v leaves a hole after the header; {AGAIN}"),
        (
            f"{{{W.replace('F32', 'F33')}}}",
            8,
            "stores w as F33, a type that safetensors does not define; save it as BF16, F16 or F32.",
        ),
    ],
)
def test_a_header_against_the_rules(folder: Path, header: str | bytes, data: int, expected: str) -> None:
    single(folder, header, data)
    assert message().startswith(f"model.safetensors {expected}")


@pytest.mark.parametrize("method", ["compressed-tensors", "awq", "gptq", "bitsandbytes", "modelopt", "fbgemm_fp8"])
@pytest.mark.parametrize("nested", [False, True])
def test_a_quantized_source(folder: Path, method: str, nested: bool) -> None:
    config: dict[str, object] = {"quantization_config": {"quant_method": method}}
    (folder / "config.json").write_text(json.dumps({"text_config": config} if nested else config))
    assert message() == (
        f"./m is already quantized ({method}: quantization_config in its config.json); start from the BF16 checkpoint"
        " that it was made from; if its weights are BF16 after all, remove quantization_config."
    )


@pytest.mark.parametrize("algorithm", ["INT4_AWQ", "W4A8_AWQ", "NVFP4_AWQ", None])
def test_a_quantized_source_of_modelopt(folder: Path, algorithm: str | None) -> None:
    declared = {"quant_method": "modelopt", "quant_algo": algorithm}
    (folder / "config.json").write_text(json.dumps({"quantization_config": declared}))
    assert message().startswith("./m is already quantized (modelopt: quantization_config in its config.json);")


@pytest.mark.parametrize(
    "changes",
    [{"transform_config": {"config_groups": {"u": {}}}}, {"sparsity_config": {"format": "sparse-24-bitmask"}}],
)
def test_floats_that_are_rotated_or_sparse(folder: Path, changes: dict[str, object]) -> None:
    group = {"targets": ["Linear"], "weights": {"num_bits": 4, "type": "float"}}
    declared = {"quant_method": "compressed-tensors", "format": "nvfp4-pack-quantized", "config_groups": {"0": group}}
    (folder / "config.json").write_text(json.dumps({"quantization_config": {**declared, **changes}}))
    assert message().startswith("./m is already quantized (compressed-tensors:")


@pytest.mark.parametrize("dtype", ["I8", "U8", "I32", "F64", "F8_E5M2", "F4"])
def test_a_type_that_is_no_weight(folder: Path, dtype: str) -> None:
    single(folder, write_header([("w", dtype, (2, 8))], {})[8:])
    size = {"I8": 16, "U8": 16, "I32": 64, "F64": 128, "F8_E5M2": 16, "F4": 8}[dtype]
    with (folder / "model.safetensors").open("ab") as f:
        f.write(bytes(size))
    assert message() == (
        f"w in ./m is stored as {dtype}, which is not read as a weight;"
        " start from the BF16 checkpoint that it was made from."
    )


def test_a_file_that_cannot_be_read(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By an I/O error: permissions stop no test that root runs."""

    def fail(*_: object) -> None:
        raise OSError(5, "Input/output error")

    monkeypatch.setattr("sixfold.checkpoint.checkpoint.read_header", fail)
    assert message() == (
        "cannot read m/model-00001-of-00002.safetensors: Input/output error; check its permissions and the disk."
    )
