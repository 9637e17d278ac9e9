"""GGUF files of families of which `verify` has no table: nothing is said of sound ones, and what changed places in a
file is found, since what a tensor must be is asked of the libraries and of the source, never of the file."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from tests import every_family
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, export, recipe, save_tokenizer
from tests.gguf_families import ORDINARY
from tests.verification.damage import GgufData, rewrite_gguf
from verification.structure.gguf.structure import open_gguf_subject
from verification.verify import verify

KEYS, VALUES, QUERIES, NORM = (f"blk.1.attn_{part}.weight" for part in ("k", "v", "q", "norm"))


def exported(family: str, folder: Path, scheme: str = "BF16") -> tuple[Source, Path]:
    made = every_family.make_family(family, folder / "model", **ORDINARY[family].changes)
    save_tokenizer(byte_level_tokenizer([], size=300), made)
    source = open_source(made)
    return source, export(source, recipe(scheme), folder)[1]


def exchanged(data: GgufData) -> None:
    data[KEYS], data[VALUES] = data[VALUES], data[KEYS]


def interleaved(data: GgufData) -> None:
    """Rows of each half of a head in turns: once where the file must not have them so, twice where it must."""
    held, kind = data[QUERIES]
    heads = 4
    data[QUERIES] = (
        np.ascontiguousarray(held.reshape(heads, 2, -1, held.shape[-1]).swapaxes(1, 2)).reshape(held.shape),
        kind,
    )


def with_one_more(data: GgufData) -> None:
    held, kind = data[NORM]
    data[NORM] = (held.view(np.float32) + 1).astype(np.float32), kind


DAMAGES: dict[str, tuple[Callable[[GgufData], None], set[str]]] = {
    "keys and values exchanged": (exchanged, {"k_proj.weight", "v_proj.weight"}),
    "rows of queries in another order": (interleaved, {"q_proj.weight"}),
    "a norm with one more": (with_one_more, {"layernorm.weight"}),
}


@pytest.mark.parametrize("family", ORDINARY)
def test_nothing_is_said_of_a_sound_file(family: str, tmp_path: Path) -> None:
    source, file = exported(family, tmp_path)
    for against in (None, source):
        assert verify(file, against, unseen).findings == ()


@pytest.mark.parametrize("family", ORDINARY)
@pytest.mark.parametrize("scheme", ["BF16", "Q8_0"])
def test_what_changed_places_is_found(family: str, scheme: str, tmp_path: Path) -> None:
    """Tensors and names that a file would give for each other look sound to whoever asks the file which is which."""
    source, sound = exported(family, tmp_path, scheme)
    for number, (change, parts) in enumerate(DAMAGES.values()):
        file = tmp_path / f"damaged-{number}.gguf"
        file.write_bytes(sound.read_bytes())
        rewrite_gguf(file, tensors=change)
        found = {finding.where for finding in verify(file, source, unseen).failures}
        assert all(
            any(where.startswith("model.layers.1.") and where.endswith(part) for where in found) for part in parts
        )
        assert len(found) == len(parts)


def test_a_source_of_another_family(tmp_path: Path) -> None:
    """Also of one whose class is of no language model alone."""
    _, file = exported("arcee", tmp_path / "arcee")
    for other in ("llama", "minimax_m3_vl"):
        source = open_source(every_family.make_family(other, tmp_path / other))
        found = {(finding.check, finding.where) for finding in verify(file, source, unseen).failures}
        assert ("keys.value", "general.architecture") in found


def stacks(data: GgufData) -> list[str]:
    return [name for name in data if name.startswith("blk.1.") and "_exps." in name]


@pytest.mark.parametrize("family", ORDINARY)
def test_exchanged_experts_are_found(family: str, tmp_path: Path) -> None:
    """And where a family has no experts, so are exchanged layers' feed-forwards."""
    source, file = exported(family, tmp_path)
    expected: set[str] = set()

    def change(data: GgufData) -> None:
        if stacks(data):
            data[stacks(data)[0]][0][[0, 2]] = data[stacks(data)[0]][0][[2, 0]]
            expected.update(f".experts.{expert}." for expert in (0, 2))
        else:
            down = [f"blk.{layer}.ffn_down.weight" for layer in (0, 1)]
            data[down[0]], data[down[1]] = data[down[1]], data[down[0]]
            expected.update(f".layers.{layer}.mlp.down_proj" for layer in (0, 1))

    rewrite_gguf(file, tensors=change)
    found = {finding.where for finding in verify(file, source, unseen).failures}
    assert len(found) == len(expected)
    assert all(any(part in where for where in found) for part in expected)


@pytest.mark.parametrize("family", ORDINARY)
def test_a_tensor_that_is_missing_or_that_no_such_file_has(family: str, tmp_path: Path) -> None:
    source, file = exported(family, tmp_path)

    def change(data: GgufData) -> None:
        data["blk.1.attn_extra.weight"] = data.pop(KEYS)

    rewrite_gguf(file, tensors=change)
    for against in (None, source):
        found = {(finding.check, finding.where) for finding in verify(file, against, unseen).failures}
        assert {("names.unknown", "blk.1.attn_extra.weight"), ("names.missing", KEYS)} <= found


@pytest.mark.parametrize("family", ORDINARY)
def test_what_a_tensor_must_be_is_not_asked_of_the_file(family: str, tmp_path: Path) -> None:
    source, file = exported(family, tmp_path)
    sound = open_gguf_subject(file, source)
    names = list(sound.file.tensors)
    before = {name: sound.place_of(name) for name in names}
    rewrite_gguf(file, tensors=exchanged)
    damaged = open_gguf_subject(file, source)
    assert {name: damaged.place_of(name) for name in names} == before
    assert None not in before.values()
