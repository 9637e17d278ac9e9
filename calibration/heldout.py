"""The held-out texts as token ids: what the cost of pruning, or of anything else, is measured on."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from calibration.chat import render
from calibration.conversations import Chat
from calibration.corpus import TEXTS

CHARACTERS, TOKENS, WINDOW = 12_000, 1_024, 512


def heldout_windows(tokenizer: Any, folder: Path = TEXTS / "heldout") -> dict[str, tuple[torch.Tensor, ...]]:
    """Domain (subfolder) -> int64 [up to 512] windows without overlap and without BOS.

    Of each file the first 12,000 characters (conversations through the chat template), and of these at most 1024
    tokens; a last window of one token, which predicts nothing, is left out.
    """
    found: dict[str, list[torch.Tensor]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.suffix in (".txt", ".jsonl")):
        text = _text(tokenizer, path)[:CHARACTERS]
        ids = torch.tensor(tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"][:TOKENS])
        windows = [window for window in ids.long().split(WINDOW) if len(window) > 1]
        found.setdefault(path.relative_to(folder).parts[0], []).extend(windows)
    return {domain: tuple(windows) for domain, windows in found.items()}


def _text(tokenizer: Any, path: Path) -> str:
    text = path.read_text(encoding="utf-8")
    if path.suffix == ".txt":
        return text
    rows: list[Mapping[str, Any]] = [json.loads(line) for line in text.splitlines() if line.strip()]
    return "".join(render(tokenizer, Chat(row["messages"], row.get("tools") or []))[0] for row in rows)
