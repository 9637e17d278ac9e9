"""Parts of one run side by side on a processor's cores.

PyTorch shares out every operation among all cores. Where batches are small, each begins and ends on all of them in
less time than it takes to wait for the last: two cores are hardly faster than one. Whole batches wait for nothing.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

from sixfold.artifact.streaming.torch_threads import torch_threads

MOST = 8
"""Parts at once, each of which holds what is computed of a batch; twice as many cores share out each one's
operations."""

Made = TypeVar("Made")


def shares(most: int) -> int:
    """Into how many parts work is best divided, at most `most`; a GPU is given its work by one thread."""
    return 1 if torch.cuda.is_available() else max(1, min(MOST, most, torch.get_num_threads()))


def on_cores(parts: Sequence[Callable[[], Made]]) -> list[Made]:
    """What each gives; one alone in this thread, several in threads of their own, under inference mode. Raises what one
    of them raised when all have ended."""
    if len(parts) == 1:
        return [parts[0]()]

    def made(part: Callable[[], Made]) -> Made:
        with torch.inference_mode():  # of a thread
            return part()

    with torch_threads(max(1, torch.get_num_threads() // len(parts))), ThreadPoolExecutor(len(parts)) as pool:
        return list(pool.map(made, parts))
