"""How sizes are written for people."""


def size(nbytes: float) -> str:
    """Decimal units, as disks and the Hub count: 12.3 MB is 12,300,000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"
