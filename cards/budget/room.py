"""How many bytes of weights a machine has room for, beside the cache, buffers and reserve of a context."""

from collections.abc import Mapping, Sequence
from typing import Any

from cards.budget.device_memory import longest_trained, memory
from cards.budget.hardware import hardware_named
from sixfold.errors import SixfoldError, UsageError


def room_for_weights(config: Mapping[str, Any], machine: str, context: int, engines: Sequence[str]) -> int:
    """Bytes of all weights on all devices of the machine, one sequence of `context` tokens.

    machine: its name in hardware.yaml. engines: as a recipe lists them; the first that the machine runs counts.
    Raises UsageError where there is no such machine or none of the engines runs on it, and SixfoldError where the
    context alone does not fit, or is longer than the model allows.
    """
    found = hardware_named(machine)
    engine = next((name.lower() for name in engines if name.lower() in found.engines), None)
    if engine is None:
        raise UsageError(
            f"{found.title} runs {', '.join(found.engines)}, and the format is for {', '.join(engines)}",
            "choose another machine (`sixfold budget --help`) or format",
        )
    if context > (allowed := longest_trained(config)):
        raise SixfoldError(
            f"the model allows {allowed:,} tokens, and {context:,} must fit", "ask for a shorter context"
        )
    needed = memory(config, 0, engine, context, tensor_parallel=found.devices, device_bytes=found.bytes_each).total
    room = (found.usable(engine) - needed) * found.devices
    if room <= 0:
        raise SixfoldError(
            f"{context:,} tokens take all of the memory of {found.title} before any weight", "ask for a shorter context"
        )
    return room
