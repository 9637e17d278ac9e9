"""Which engines read a variant, by cards/formats.yaml, and which of them budgets are known for."""

from cards.budget.hardware import ENGINES
from cards.facts.traced import Fact
from cards.facts.variant import Variant, table

TITLES = {"vllm": "vLLM", "sglang": "SGLang", "llama.cpp": "llama.cpp"}


def reader_of(variant: Variant) -> Fact:
    """The first entry that fits: `engines`, and `unfit` with a reason for each. No engines where none fits."""
    fitting = (
        entry
        for entry in table("formats.yaml").readers
        if entry.layout == variant.layout and (not entry.schemes or variant.artifact.scheme in entry.schemes)
    )
    return next(fitting, Fact({"engines": []}, ""))


def budgeted(variant: Variant) -> tuple[str, ...]:
    """Engines that read it and whose memory cards.budget.device_memory knows, in that table's order."""
    return tuple(name for engine in reader_of(variant).engines if (name := str(engine.value)) in ENGINES)
