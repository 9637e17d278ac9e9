"""How sizes are formatted and parsed."""

import re


def size(nbytes: float) -> str:
    """Decimal units, as disks and the Hub count: 12.3 MB is 12,300,000 bytes."""
    for unit in ("B", "kB", "MB", "GB"):
        if abs(nbytes) < 999.5:
            return f"{nbytes:.0f} {unit}" if unit == "B" else f"{nbytes:.3g} {unit}"
        nbytes /= 1000
    return f"{nbytes:.3g} TB"


def count(number: float) -> str:
    """Of parameters and the like: 4.59 million, 139 billion."""
    for unit in ("", " thousand", " million", " billion"):
        if abs(number) < 999.5:
            return f"{number:.0f}" if not unit else f"{number:.3g}{unit}"
        number /= 1000
    return f"{number:.3g} trillion"


_UNITS = {"": 1} | {f"{p}{b}": base**n for n, p in enumerate("kMGT", 1) for b, base in (("B", 1000), ("iB", 1024))}


def parse_size(text: str) -> int:
    """Bytes of "24GB" (1000s), "80 GiB" (1024s) or a plain number. Raises ValueError on anything else."""
    found = re.fullmatch(r"\s*(\d+(?:\.\d+)?)\s*([A-Za-z]*)\s*", text)
    units = {unit.lower(): factor for unit, factor in _UNITS.items()} | {"b": 1}
    if found is None or found[2].lower() not in units:
        raise ValueError(f"{text!r} is not a size; write it like 24GB or 80GiB")
    return int(float(found[1]) * units[found[2].lower()])
