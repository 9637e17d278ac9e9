"""What `sixfold verify` finds of damages: all of the tests' corpora, in every format.

Usage: python -m benchmarks.soundness.damages [--artifacts FOLDER] [--processes N] [--only WORD ...]

Makes every format of the bundled model, and some of a small random DeepSeek-V3, in FOLDER (kept for the next run; a
temporary one without it). Every damage is done to a copy, which is verified with its source (and run, if nothing is
found before) and, where the artifact contradicts itself, without. Prints each miss, and three rates: found with the
source, found alone, and of those found the share of which a finding names the damaged tensor, file or key. --only:
damages whose name or variant has one of the words in it.
"""

import argparse
import json
import shutil
import sys
import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from multiprocessing import get_context
from pathlib import Path
from uuid import uuid4

from sixfold.model.source import Source, open_source
from sixfold.progress import unseen
from tests.exporters.exported import DEMO
from tests.exporters.ggml.gguf_tools import byte_level_tokenizer, save_tokenizer
from tests.families import make_family
from tests.verification.artifacts import make_all
from tests.verification.corpus import CORPUS
from tests.verification.corpus.changes import Damage
from tests.verification.corpus.rare import RARE
from tests.verification.damage import copy_folder, copy_gguf
from verification.finding import Finding
from verification.judge import judge
from verification.verify import verify

DAMAGES = (*CORPUS, *RARE)
_FAMILY = "deepseek"
_FORMATS = ("bf16", "fp8", "nvfp4", "awq", "gguf-q8_0")
_YARN = {
    "rope_type": "yarn",
    "rope_theta": 10000.0,
    "factor": 4.0,
    "original_max_position_embeddings": 64,
    "mscale": 1.0,
    "mscale_all_dim": 1.0,
}


@dataclass(frozen=True)
class Outcome:
    """number: of the damage. with_source, alone: what was found; None where it was not asked. named: whether the place
    was, in all of them."""

    number: int
    with_source: tuple[Finding, ...]
    alone: tuple[Finding, ...] | None
    named: bool

    @property
    def damage(self) -> Damage:
        return DAMAGES[self.number]


def main(arguments: list[str]) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--artifacts", type=Path)
    parser.add_argument("--processes", type=int, default=1)
    parser.add_argument("--only", nargs="+", default=[""])
    options = parser.parse_args(arguments)
    chosen = [n for n, d in enumerate(DAMAGES) if any(word in f"{d.name} {d.variant}" for word in options.only)]
    with tempfile.TemporaryDirectory() as scratch:
        folder = (options.artifacts or Path(scratch) / "artifacts").absolute()
        made(folder)
        # forked, a process would wait for threads of PyTorch's that it does not have
        with ProcessPoolExecutor(options.processes, get_context("spawn")) as pool:
            outcomes = list(pool.map(partial(tried, folder, Path(scratch)), chosen))
    report(outcomes)
    return 0


def made(folder: Path) -> None:
    """The artifacts, and where each is: `folder`/made.json."""
    if (folder / "made.json").is_file():
        return
    model = folder / _FAMILY / "model"
    make_family("deepseek_v3", model, rope_parameters=_YARN, routed_scaling_factor=2.5, num_nextn_predict_layers=0)
    save_tokenizer(byte_level_tokenizer([], size=300), model)
    paths = {f"{_FAMILY}/{name}": path for name, path in make_all(model, folder / _FAMILY, _FORMATS).items()}
    (folder / "demo").mkdir()
    paths |= make_all(DEMO, folder / "demo")
    (folder / "made.json").write_text(json.dumps({name: str(path) for name, path in paths.items()}))


@cache
def _opened(folder: Path) -> Source:
    return open_source(folder)


def tried(folder: Path, scratch: Path, number: int) -> Outcome:
    """number: of a damage among DAMAGES, whose changes cannot be sent to another process."""
    damage = DAMAGES[number]
    sound = Path(json.loads((folder / "made.json").read_text())[damage.variant])
    source = _opened(folder / _FAMILY / "model" if damage.variant.startswith(_FAMILY) else DEMO)
    path = scratch / f"{uuid4()}{'' if sound.is_dir() else '.gguf'}"
    (copy_folder if sound.is_dir() else copy_gguf)(sound, path)
    damage.do(path)
    found = verify(path, source, unseen).findings or judge(path, source, unseen).findings
    alone = verify(path, None, unseen).findings if damage.alone else None
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()
    named = all(any(damage.is_named(finding.where) for finding in group) for group in (found, alone) if group)
    return Outcome(number, found, alone, named)


def report(outcomes: Sequence[Outcome]) -> None:
    for outcome in outcomes:
        for how, found in (("with the source", outcome.with_source), ("alone", outcome.alone)):
            where = [finding.where for finding in found or ()]
            if found is not None and not found:
                print(f"missed {how}: {outcome.damage.variant}: {outcome.damage.name}")
            elif found and not any(map(outcome.damage.is_named, where)):
                print(f"named otherwise {how}: {outcome.damage.variant}: {outcome.damage.name}: {where[:3]}")
    caught = [bool(outcome.with_source) for outcome in outcomes]
    alone = [bool(outcome.alone) for outcome in outcomes if outcome.alone is not None]
    named = [o.named for o in outcomes if o.damage.where and o.with_source]
    for what, held in (("found with the source", caught), ("found alone", alone), ("named", named)):
        print(f"{what}: {sum(held)} of {len(held)} ({sum(held) / max(1, len(held)):.1%})")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
