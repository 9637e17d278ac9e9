"""The stream: same bytes whatever the threads, no final name before a file is whole, and a kill costs little."""

import errno
import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from sixfold.artifact.manifest import FileRecord
from sixfold.artifact.plan import ExportPlan, Unit
from sixfold.artifact.safetensors_layout import Draft, DraftTensor, place, whole
from sixfold.artifact.streaming import concurrent_file
from sixfold.artifact.streaming.stream import write_files
from sixfold.artifact.streaming.writing import Encode, Writing, one_by_one, singly
from sixfold.artifact.workspace import sha256_of
from sixfold.checkpoint.checkpoint import Checkpoint, open_checkpoint
from sixfold.errors import SixfoldError

ROWS = 40
EncodePairs = Callable[[Sequence[Unit], Sequence[Sequence[torch.Tensor]]], list[Sequence[torch.Tensor]]]


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    generator = torch.Generator().manual_seed(0)
    weights = {f"layer.{i}.weight": torch.randn(ROWS, 64, generator=generator).bfloat16() for i in range(6)}
    folder = tmp_path / "source"
    folder.mkdir()
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    return open_checkpoint(str(folder))


def doubled_plan(checkpoint: Checkpoint, shard_bytes: int = 21_000) -> ExportPlan:
    """Every tensor becomes its double and its row sums, as float32; two tensors to a shard."""
    drafts = [
        Draft(
            "double",
            (whole(tensor),),
            (DraftTensor(name, "F32", tensor.shape), DraftTensor(f"{name}_sum", "F32", (ROWS, 1))),
        )
        for name, tensor in checkpoint.tensors.items()
    ]
    return place(drafts, variant="double", folder="x", texts={}, shard_bytes=shard_bytes)


def double(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    weight = inputs[0].float()
    return [weight * 2, weight.sum(1, keepdim=True)]


def run(
    plan: ExportPlan,
    checkpoint: Checkpoint,
    folder: Path,
    encode: Encode = double,
    threads: int = 1,
    key: str = "k",
    pairs: EncodePairs | None = None,
) -> tuple[Mapping[str, FileRecord], int]:
    """(records, bytes reported as finished)."""
    total = 0

    def advance(nbytes: int) -> None:
        nonlocal total
        total += nbytes

    split, batched = (singly, one_by_one(encode)) if pairs is None else (in_pairs, pairs)
    writing = Writing(plan, folder, key, split, batched)
    (written,) = write_files([writing], checkpoint, threads=threads, advance=advance).each
    return written.whole(), total


def in_pairs(units: Sequence[Unit]) -> list[Sequence[Unit]]:
    return [units[start : start + 2] for start in range(0, len(units), 2)]


def failing_at(name: str, error: BaseException) -> Encode:
    def encode(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if unit.outputs[0].name == name:
            raise error
        return double(unit, inputs)

    return encode


def test_files_hold_what_was_planned(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = doubled_plan(checkpoint)
    records, total = run(plan, checkpoint, tmp_path / "out")
    assert len(plan.files) == 3
    assert total == sum(file.nbytes for file in plan.files)
    for file in plan.files:
        data = (tmp_path / "out" / file.name).read_bytes()
        assert records[file.name] == FileRecord(file.nbytes, hashlib.sha256(data).hexdigest())
        assert len(data) == file.nbytes
    for tensor in plan.tensors:
        with safe_open(tmp_path / "out" / tensor.file, "pt") as opened:
            found = opened.get_tensor(tensor.name)
        source = checkpoint.read(whole(checkpoint.tensors[tensor.inputs[0]])).float()
        expected = source.sum(1, keepdim=True) if tensor.name.endswith("_sum") else source * 2
        assert torch.equal(found, expected)


def test_threads_do_not_change_a_byte(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = doubled_plan(checkpoint)
    one, _ = run(plan, checkpoint, tmp_path / "one", threads=1)
    many, _ = run(plan, checkpoint, tmp_path / "many", threads=5)
    assert one == many


@pytest.mark.parametrize("threads", [1, 3])
def test_nothing_appears_under_its_name_before_it_is_whole(
    checkpoint: Checkpoint, tmp_path: Path, threads: int
) -> None:
    plan = doubled_plan(checkpoint)
    broken = next(t.name for t in plan.tensors if t.file == plan.files[1].name)
    with pytest.raises(SixfoldError, match="no such luck"):
        run(plan, checkpoint, tmp_path / "out", failing_at(broken, SixfoldError("no such luck")), threads)
    assert threads > 1 or (tmp_path / "out" / plan.files[0].name).exists()
    assert not (tmp_path / "out" / plan.files[1].name).exists()
    fresh, _ = run(plan, checkpoint, tmp_path / "fresh")
    for file in (plan.files[0], plan.files[2]):  # several threads read in no order of their own
        path = tmp_path / "out" / file.name
        assert not path.exists() or sha256_of(path) == fresh[file.name].sha256


def counting(calls: list[str]) -> Encode:
    def encode(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        calls.append(unit.outputs[0].name)
        return double(unit, inputs)

    return encode


def test_a_rerun_goes_on_with_the_unfinished_file(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = doubled_plan(checkpoint)
    broken = next(t.name for t in plan.tensors if t.file == plan.files[1].name)
    with pytest.raises(KeyboardInterrupt):
        run(plan, checkpoint, tmp_path / "out", failing_at(broken, KeyboardInterrupt()))
    calls: list[str] = []
    resumed, total = run(plan, checkpoint, tmp_path / "out", counting(calls))
    fresh, _ = run(plan, checkpoint, tmp_path / "fresh")
    assert resumed == fresh
    assert total == sum(file.nbytes for file in plan.files)
    first = {t.name for t in plan.tensors if t.file == plan.files[0].name}
    assert calls
    assert not first & set(calls)


def test_a_rerun_goes_on_inside_a_large_file(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GGUF of 100 GB is one file: what is known to be on disk is not made again."""
    plan = doubled_plan(checkpoint, shard_bytes=10**9)
    last = stop_before_the_last_unit(plan, checkpoint, tmp_path / "out", monkeypatch)
    calls: list[str] = []
    resumed, _ = run(plan, checkpoint, tmp_path / "out", counting(calls))
    assert calls == [last]
    fresh, _ = run(plan, checkpoint, tmp_path / "fresh")
    assert resumed == fresh


def stop_before_the_last_unit(
    plan: ExportPlan, checkpoint: Checkpoint, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> str:
    """Run until all but the last unit is noted as safe; returns the name of what is missing."""
    last = plan.units[-1].outputs[0].name
    follow = _wait_for_prefix(folder, plan)
    with monkeypatch.context() as patch:
        patch.setattr(concurrent_file, "_SAFE_EVERY", 1)
        with pytest.raises(SixfoldError, match="stop"):
            run(plan, checkpoint, folder, follow(failing_at(last, SixfoldError("stop")), last))
    return last


def _wait_for_prefix(folder: Path, plan: ExportPlan) -> Callable[[Encode, str], Encode]:
    """Hold the last unit back until the note beside the file says that all before it is safe."""
    import time

    note = folder / f"{plan.files[0].name}.json"
    start = next(t.offset for t in plan.tensors if t.name == plan.units[-1].outputs[0].name)

    def wrap(encode: Encode, last: str) -> Encode:
        def held(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
            deadline = time.monotonic() + 10
            while unit.outputs[0].name == last and time.monotonic() < deadline:
                if note.exists() and json.loads(note.read_text())["safe"] >= start:
                    break
                time.sleep(0.01)
            return encode(unit, inputs)

        return held

    return wrap


def test_a_rerun_encodes_a_batch_as_before_and_writes_what_is_missing_of_it(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What stands beside a unit may change its last bits, so a resumed batch is as large as it was."""
    plan = doubled_plan(checkpoint, shard_bytes=10**9)
    last = stop_before_the_last_unit(plan, checkpoint, tmp_path / "out", monkeypatch)
    seen: list[list[str]] = []

    def encode(units: Sequence[Unit], inputs: Sequence[Sequence[torch.Tensor]]) -> list[Sequence[torch.Tensor]]:
        seen.append([unit.outputs[0].name for unit in units])
        return [double(unit, of) for unit, of in zip(units, inputs, strict=True)]

    resumed, total = run(plan, checkpoint, tmp_path / "out", pairs=encode)
    assert [len(batch) for batch in seen] == [2]
    assert last in seen[0]
    fresh, _ = run(plan, checkpoint, tmp_path / "fresh")
    assert resumed == fresh
    assert total == plan.files[0].nbytes


def test_another_key_makes_everything_anew(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = doubled_plan(checkpoint)
    run(plan, checkpoint, tmp_path / "out", key="old")
    calls: list[str] = []
    run(plan, checkpoint, tmp_path / "out", counting(calls), key="new")
    assert len(calls) == len(plan.units)


def test_a_note_is_not_believed_once_another_key_has_begun_its_file(
    checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Stopped with the file safe to its last unit, begun with another key and stopped at once, taken up again."""
    plan = doubled_plan(checkpoint, shard_bytes=10**9)
    last = stop_before_the_last_unit(plan, checkpoint, tmp_path / "out", monkeypatch)

    def tripled(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [tensor * 1.5 for tensor in failing_at(last, SixfoldError("stop"))(unit, inputs)]

    with pytest.raises(SixfoldError, match="stop"):
        run(plan, checkpoint, tmp_path / "out", tripled, key="other")
    again, _ = run(plan, checkpoint, tmp_path / "out")
    fresh, _ = run(plan, checkpoint, tmp_path / "fresh")
    assert again == fresh


def test_padding_is_zero_whatever_an_earlier_run_left(checkpoint: Checkpoint, tmp_path: Path) -> None:
    plan = doubled_plan(checkpoint, shard_bytes=10**9)
    with pytest.raises(SixfoldError, match="stop"):
        run(plan, checkpoint, tmp_path / "out", failing_at(plan.units[-1].outputs[0].name, SixfoldError("stop")))
    # As in GGUF, tensors begin later than those before them end: here the last four do, two of which were written.
    (file,) = plan.files
    moved = [replace(tensor, offset=tensor.offset + 32) for tensor in plan.tensors[-4:]]
    apart = replace(plan, files=(replace(file, nbytes=file.nbytes + 32),), tensors=(*plan.tensors[:-4], *moved))
    again, _ = run(apart, checkpoint, tmp_path / "out", key="other")
    fresh, _ = run(apart, checkpoint, tmp_path / "fresh", key="other")
    assert again == fresh


def test_an_exporter_that_breaks_its_plan_is_named(checkpoint: Checkpoint, tmp_path: Path) -> None:
    def short(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        return [inputs[0], inputs[0][:, :1].float()]

    with pytest.raises(
        SixfoldError, match=r"layer\.0\.weight was planned with 10240 bytes, but its exporter made 5120"
    ):
        run(doubled_plan(checkpoint), checkpoint, tmp_path / "out", short)


def test_a_file_that_lacks_bytes_is_not_waited_for(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """It would never come to an end."""
    (file, *_) = doubled_plan(checkpoint).files
    growing = concurrent_file.GrowingFile(file, tmp_path, "k")
    growing.write(memoryview(file.header), 0)
    with pytest.raises(RuntimeError, match=rf"nothing was written from byte {len(file.header)} on"):
        growing.whole()
    growing.abandon()


def test_a_full_disk_is_one_sentence(checkpoint: Checkpoint, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, data: memoryview, offset: int) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(concurrent_file.os, "pwrite", full)
    with pytest.raises(SixfoldError, match="writing the artifact failed: No space left on device; check the disk"):
        run(doubled_plan(checkpoint), checkpoint, tmp_path / "out")


def test_unaligned_tensors_are_ordered_by_element_size(checkpoint: Checkpoint, tmp_path: Path) -> None:
    """Three bytes before a float32 would leave it unreadable in place."""
    tensor = next(iter(checkpoint.tensors.values()))
    drafts = [
        Draft("odd", (whole(tensor),), (DraftTensor("bytes", "U8", (3,)), DraftTensor("floats", "F32", (5,)))),
        Draft("odd", (whole(tensor),), (DraftTensor("halves", "BF16", (7,)),)),
    ]
    plan = place(drafts, variant="odd", folder="x", texts={})
    sizes = {"floats": 4, "halves": 2, "bytes": 1}
    assert all(t.offset % sizes[t.name] == 0 for t in plan.tensors)

    def encode(unit: Unit, inputs: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
        if len(unit.outputs) == 2:
            return [torch.tensor([1, 2, 3], dtype=torch.uint8), torch.arange(5.0)]
        return [torch.ones(7, dtype=torch.bfloat16)]

    run(plan, checkpoint, tmp_path / "out", encode)
    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as opened:
        assert opened.get_tensor("floats").tolist() == [0, 1, 2, 3, 4]
        assert opened.get_tensor("bytes").tolist() == [1, 2, 3]


def test_writings_that_hold_more_together_than_alone_are_done_in_groups_where_memory_is_short(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    """Of six tensors one encodes every second side by side, the other the first with the fourth and so on: apart they
    hold three and two at a time, together four."""
    plan = doubled_plan(checkpoint, shard_bytes=10**9)
    batches = {"seconds": ((0, 2, 4), (1, 3, 5)), "thirds": ((0, 3), (1, 4), (2, 5))}

    def writing(name: str) -> Writing:
        def split(units: Sequence[Unit]) -> list[list[Unit]]:
            return [[units[place] for place in batch] for batch in batches[name]]

        return Writing(plan, tmp_path / name, "k", split, one_by_one(double))

    def walked(memory: int | None) -> tuple[int, int]:
        """Groups, and bytes that were read."""
        groups: list[object] = []
        writings = [replace(writing(name), folder=tmp_path / f"{name}-{memory}") for name in batches]
        done = write_files(
            writings, checkpoint, threads=2, advance=lambda n: None, memory=memory, in_groups=groups.extend
        )
        assert done.each[0].whole() == done.each[1].whole() == expected
        return len(groups), done.read_bytes

    expected, _ = run(plan, checkpoint, tmp_path / "expected")
    once = sum(tensor.nbytes for tensor in checkpoint.tensors.values())
    assert walked(None) == walked(10**9) == (0, once)
    assert walked(1) == (2, 2 * once)
