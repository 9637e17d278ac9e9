"""Text that no calibration reads, cut into windows of tokens, by domain.

Of every file in calibration/texts/heldout the first CHARACTERS, of these at most TOKENS, in windows of WINDOW tokens
that do not overlap, without a BOS token of their own. Conversations go through the model's chat template.
"""

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from sixfold.errors import SixfoldError
from sixfold.workspace import digest_of, sha256_of

TEXTS = Path(__file__).parents[1] / "calibration" / "texts" / "heldout"
CHARACTERS = 12_000
TOKENS = 1024
WINDOW = 512
_SHORTEST = 32


@dataclass(frozen=True)
class Windows:
    """ids: int64 [length] each, longest first. domains: of each. digest: of the texts and how they were cut."""

    ids: tuple[torch.Tensor, ...]
    domains: tuple[str, ...]
    digest: str

    @property
    def tokens(self) -> int:
        return sum(len(window) for window in self.ids)


def held_out(tokenizer_folder: Path) -> Windows:
    """Raises SixfoldError where the folder has no tokenizer that transformers can read."""
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(tokenizer_folder, trust_remote_code=False)
    except Exception as error:  # every tokenizer class raises its own
        raise SixfoldError(
            f"divergence needs the source's tokenizer, and there is none in {tokenizer_folder} that can be loaded",
            "copy tokenizer.json and tokenizer_config.json from the base model",
        ) from error
    cut: list[tuple[torch.Tensor, str]] = []
    for path in sorted(TEXTS.glob("*/*")):
        ids = tokenizer.encode(_text(path, tokenizer), add_special_tokens=False)[:TOKENS]
        windows = (ids[start : start + WINDOW] for start in range(0, len(ids), WINDOW))
        cut += [(torch.tensor(w, dtype=torch.int64), path.parent.name) for w in windows if len(w) >= _SHORTEST]
    cut.sort(key=lambda item: -len(item[0]))
    ids_of_all = [window.tolist() for window, _ in cut]
    digest = digest_of({"ids": ids_of_all, "texts": {p.name: sha256_of(p) for p in sorted(TEXTS.glob("*/*"))}})
    return Windows(tuple(w for w, _ in cut), tuple(domain for _, domain in cut), digest)


def _text(path: Path, tokenizer: Any) -> str:
    if path.suffix != ".jsonl":
        return path.read_text(encoding="utf-8")[:CHARACTERS]
    return "".join(_conversations(path, tokenizer))[:CHARACTERS]


def _conversations(path: Path, tokenizer: Any) -> Iterator[str]:
    """Those that the chat template takes; many know no tools, or no system message."""
    for line in path.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        try:
            yield tokenizer.apply_chat_template(row["messages"], tools=row.get("tools"), tokenize=False)
        except Exception:  # templates raise what they like, jinja's errors or Python's
            continue
