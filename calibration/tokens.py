"""Texts -> the token ids that a calibration runs, and the record of what they are made of."""

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import torch

from calibration.chat import render
from calibration.corpus import Chat, TextFile, pieces, text_files
from sixfold.errors import SixfoldError
from sixfold.recipe import Calibration

BYTES_PER_TOKEN = 4  # about; plain text is cut into pieces of about one sample's length


@dataclass(frozen=True)
class TokenBatches:
    """ids: int64 [samples, length], no padding. record: what they are made of, for manifest and card."""

    ids: torch.Tensor
    record: dict[str, Any]


@dataclass(frozen=True)
class _Window:
    ids: tuple[int, ...]
    files: tuple[int, ...]  # index of the file that each id came from


def load_tokenizer(folder: Path) -> Any:
    """Raises SixfoldError where the checkpoint's folder has no tokenizer that transformers can read."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # every tokenizer class raises its own
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__).rstrip(".")
        raise SixfoldError(
            f"the tokenizer in {folder} cannot be loaded ({reason})",
            "calibration needs one: copy tokenizer.json and tokenizer_config.json from the base model",
        ) from error


def special_ids(tokenizer: Any) -> set[int]:
    """Tokens that stand for no text: BOS, EOS, turn markers."""
    added = {number for number, token in tokenizer.added_tokens_decoder.items() if token.special}
    return added | set(tokenizer.all_special_ids)


def token_batches(profile: Calibration, tokenizer: Any) -> TokenBatches:
    """`profile.samples` windows of `profile.length` tokens, drawn with `profile.seed`, one domain after the other.

    Plain text is cut into pieces of about one window; conversations go through the chat template. Within a domain
    both are shuffled and joined; what a piece has beyond one window comes last. Each window starts with BOS where the
    tokenizer would put one. A domain that runs out leaves its turns to the others, which the record says. Raises
    SixfoldError where all of them run out.
    """
    files = text_files(profile.texts)
    bos = _bos(tokenizer)
    domains = list(dict.fromkeys(file.domain for file in files))
    rendered: Counter[str] = Counter()
    streams = {d: _windows(files, d, profile, tokenizer, bos, rendered) for d in domains}
    windows: list[_Window] = []
    drawn: Counter[str] = Counter()
    exhausted: list[str] = []
    while streams and len(windows) < profile.samples:
        for domain in list(streams):
            window = next(streams[domain], None)
            if window is None:
                del streams[domain]
                exhausted.append(domain)
                continue
            drawn[domain] += 1
            windows.append(window)
            if len(windows) == profile.samples:
                break
    if len(windows) < profile.samples:
        raise SixfoldError(
            f"the calibration texts ({', '.join(profile.texts)}) hold {len(windows)} samples"
            f" of {profile.length} tokens, {profile.samples} are asked for",
            "name more texts, or ask for fewer samples",
        )
    ids = torch.tensor([w.ids for w in windows], dtype=torch.int64)
    used = Counter(i for w in windows for i in w.files)
    return TokenBatches(
        ids,
        {
            "samples": profile.samples,
            "length": profile.length,
            "ids_sha256": sha256(ids.numpy().tobytes()).hexdigest(),
            "bos": bos,
            "domains": {d: {"samples": drawn[d], "exhausted": d in exhausted} for d in domains},
            "conversations": dict(sorted(rendered.items())),
            "files": {f.name: _file_record(f, used[i]) for i, f in enumerate(files)},
        },
    )


def _file_record(file: TextFile, tokens: int) -> dict[str, Any]:
    return {"sha256": file.digest, "licence": file.licence, "tokens": tokens}


def _bos(tokenizer: Any) -> int | None:
    """The id that the tokenizer itself puts before every text, None where it puts none."""
    ids = tokenizer("a")["input_ids"]
    return ids[0] if len(ids) > 1 and ids[0] == tokenizer.bos_token_id else None


def _windows(
    files: tuple[TextFile, ...],
    domain: str,
    profile: Calibration,
    tokenizer: Any,
    bos: int | None,
    rendered: Counter[str],
) -> Iterator[_Window]:
    size = profile.length - (bos is not None)
    found = [
        (number, piece)
        for number, file in enumerate(files)
        if file.domain == domain
        for piece in pieces(file, BYTES_PER_TOKEN * profile.length)
    ]
    Random(f"{profile.seed} {domain}").shuffle(found)
    ids: list[int] = []
    owners: list[int] = []
    for number, new in _first_things_first(tokenizer, found, size, bos, rendered):
        ids += new
        owners += [number] * len(new)
        while len(ids) >= size:
            start, source = ([], []) if bos is None else ([bos], owners[:1])
            yield _Window((*start, *ids[:size]), (*source, *owners[:size]))
            del ids[:size], owners[:size]


def _first_things_first(
    tokenizer: Any, found: list[tuple[int, str | Chat]], size: int, bos: int | None, rendered: Counter[str]
) -> Iterator[tuple[int, list[int]]]:
    """At most `size` ids of every piece, then what is left: one long conversation must not fill many windows."""
    rest: list[tuple[int, list[int]]] = []
    for number, piece in found:
        ids = _encode(tokenizer, piece, bos, rendered)
        yield number, ids[:size]
        if len(ids) > size:
            rest.append((number, ids[size:]))
    yield from rest


def _encode(tokenizer: Any, piece: str | Chat, bos: int | None, rendered: Counter[str]) -> list[int]:
    if isinstance(piece, Chat):
        text, how = render(tokenizer, piece)
        rendered[how] += 1
        if bos is not None:  # every window has its own
            text = text.removeprefix(tokenizer.bos_token)
    else:
        text = piece
    ids: list[int] = tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
    return ids
