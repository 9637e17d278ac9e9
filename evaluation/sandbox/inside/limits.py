"""What one program may use, set by the process itself before the first line of foreign code runs in it."""

import resource

MEMORY = 1 << 30
"""Bytes of address space."""
FILE = 16 << 20
"""Bytes of one file."""
FILES = 64
"""Open at a time."""
PROCESSES = 64
"""With threads; the filter of system calls allows no process at all."""
CPU = 20
"""Seconds."""


def limit() -> None:
    """Soft and hard limits alike: none can be raised again."""
    for which, most in (
        (resource.RLIMIT_CPU, CPU),
        (resource.RLIMIT_AS, MEMORY),
        (resource.RLIMIT_FSIZE, FILE),
        (resource.RLIMIT_NOFILE, FILES),
        (resource.RLIMIT_NPROC, PROCESSES),
        (resource.RLIMIT_CORE, 0),
    ):
        _, hard = resource.getrlimit(which)
        allowed = most if hard == resource.RLIM_INFINITY else min(most, hard)
        resource.setrlimit(which, (allowed, allowed))
