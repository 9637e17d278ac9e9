"""How much memory this machine has available."""

from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Allowed:
    """Bytes that a run may use; None: what is free when it begins. device: of each GPU."""

    host: int | None = None
    device: int | None = None


FREE = Allowed()


def available_memory() -> int | None:
    """Bytes that can be had without swapping; None where the system does not say (macOS)."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except FileNotFoundError:
        return None
    (kilobytes,) = (int(line.split()[1]) for line in lines if line.startswith("MemAvailable:"))
    return kilobytes * 1024
