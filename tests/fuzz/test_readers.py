"""No file, however damaged, gets a traceback, hangs, or takes more memory than it has bytes and a margin."""

import math
import resource
import shutil
import time
from pathlib import Path
from random import Random

import pytest

from sixfold.errors import SixfoldError
from tests.exporters.exported import DEMO
from tests.fuzz.readers import Reader, readers

SECONDS = 5.0
MARGIN = 512 << 20
INPUTS = 100_000
"""Of the longer run, over all readers."""
PIECES = 16
"""Of the longer run, for as many processes (`pytest -n 16 -m bench tests/fuzz`)."""


@pytest.fixture(scope="module")
def all_readers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Reader]:
    return readers(tmp_path_factory.mktemp("seeds"))


def feed(reader: Reader, folder: Path, inputs: int, seed: int) -> None:
    """Mutations numbered from `seed`: each can be made again by its number."""
    for name in ("tokenizer_config.json", "generation_config.json", "model.safetensors", "tokenizer.json"):
        if name != reader.file:
            shutil.copy(DEMO / name, folder / name)
    path = folder / reader.file
    path.write_bytes(reader.seed)
    reader.read(path)  # what is not damaged is read
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(seed, seed + inputs):
        path.write_bytes(reader.mutated(Random(number)))
        started = time.process_time()
        try:
            reader.read(path)
        except SixfoldError:
            pass
        except BaseException as error:
            raise AssertionError(f"{folder.name}, input {number}: {type(error).__name__}: {error}") from error
        assert time.process_time() - started < SECONDS, f"{folder.name}, input {number}"
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < MARGIN


def test_damaged_files(all_readers: dict[str, Reader], tmp_path: Path) -> None:
    for name, reader in all_readers.items():
        folder = tmp_path / name
        folder.mkdir()
        feed(reader, folder, max(2, 20 // reader.costly), seed=0)


@pytest.mark.bench
@pytest.mark.parametrize("piece", range(PIECES))
def test_many_damaged_files(piece: int, all_readers: dict[str, Reader], tmp_path: Path) -> None:
    share = sum(1 / reader.costly for reader in all_readers.values())
    for name, reader in all_readers.items():
        folder = tmp_path / name
        folder.mkdir()
        inputs = math.ceil(INPUTS / share / reader.costly / PIECES)
        feed(reader, folder, inputs, seed=1_000 + piece * inputs)
