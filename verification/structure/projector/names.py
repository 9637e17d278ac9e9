"""Which tensor of a source each tensor of a projector's file is, and what was done to it."""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from verification.structure.projector.kinds import Kind

TOKEN = "v.token_embd.img_break"


@dataclass(frozen=True)
class Origin:
    """sources: how the source's name may end, and what was then done to it, "" for nothing."""

    sources: tuple[tuple[str, str], ...]

    def among(self, names: Iterable[str]) -> tuple[str, str] | None:
        """The one of `names` that it is, and what was done to it."""
        return next(((n, done) for n in names for end, done in self.sources if n == end or n.endswith(f".{end}")), None)


def origin_of(kind: Kind, name: str, deepstack: Sequence[int]) -> Origin | None:
    """None for a name that llama.cpp does not look for. deepstack: layers whose outputs have projectors of their own,
    which the source counts from 0."""
    if kind.token and name == TOKEN:
        return Origin((("embed_tokens.weight", f"row {kind.token}"),))
    module, _, end = name.rpartition(".")
    for pattern, stated in kind.modules.items():
        for held, suffix in ((name, ""), (module, f".{end}")):
            found = re.fullmatch(re.escape(pattern).replace(r"\*", r"(\d+)"), held)
            if not found:
                continue
            if suffix and (end not in ("weight", "bias") or f"{pattern}.{end}" in kind.modules):
                continue
            number = found[1] if found.groups() else ""
            if name.startswith("v.deepstack."):
                if int(number) not in deepstack:
                    return None
                number = str(list(deepstack).index(int(number)))
            return Origin(tuple((one.replace("*", number) + suffix, _done(done, end)) for one, done in _stated(stated)))
    return None


def parts_of(kind: Kind, source: str) -> int:
    """In how many tensors a file of this kind holds one of the source; one at least."""
    module, _, end = source.rpartition(".")
    count = 0
    for pattern, stated in kind.modules.items():
        named = "|".join(re.escape(one).replace(r"\*", r"\d+") for one, _ in _stated(stated))
        whole = re.search(rf"(^|\.)({named})$", source) is not None
        within = end in ("weight", "bias") and f"{pattern}.{end}" not in kind.modules
        count += whole or (within and re.search(rf"(^|\.)({named})$", module) is not None)
    return max(1, count)


def _stated(stated: str) -> Iterator[tuple[str, str]]:
    for one in stated.split("|"):
        source, _, done = one.partition(" = ")
        yield source, done


def _done(done: str, end: str) -> str:
    """A bias of a convolution has neither frames nor pixels."""
    return "" if end == "bias" and done.split()[:1] in (["frame"], ["pixels"], ["unflattened"]) else done
