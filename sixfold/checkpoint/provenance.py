"""A checkpoint's origin, for its card: from provenance.yaml beside the weights, or options."""

from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

import yaml

from sixfold.boundary.yaml_text import line_and_problem, parse_yaml
from sixfold.errors import SixfoldError

FILE = "provenance.yaml"


@dataclass(frozen=True)
class Provenance:
    """Empty strings where unknown. name: of the model, for output folders and cards. authors: comma-separated."""

    name: str = ""
    base_model: str = ""
    license: str = ""
    license_name: str = ""
    license_link: str = ""
    method: str = ""
    authors: str = ""


def read_provenance(folder: Path, options: Provenance | None) -> Provenance:
    """provenance.yaml in `folder` (if there is one), with values from `options` taking precedence."""
    path = folder / FILE
    written = parse_provenance(str(path), path.read_bytes()) if path.is_file() else Provenance()
    stated = {key: value for key, value in asdict(options or Provenance()).items() if value}
    return replace(written, **stated)


def provenance_text(provenance: Provenance) -> bytes:
    """The file that says it; what is not known is left out."""
    stated = {key: value for key, value in asdict(provenance).items() if value}
    return yaml.safe_dump(stated, sort_keys=False, allow_unicode=True, width=110).encode()


def parse_provenance(where: str, text: bytes) -> Provenance:
    known = [f.name for f in fields(Provenance)]
    try:
        entries = parse_yaml(text.decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        line = line_and_problem(error)[0] if isinstance(error, yaml.YAMLError) else None
        place = "" if line is None else f", line {line}"
        raise SixfoldError(f"{where} is not valid YAML{place}", "correct it or remove it") from None
    if entries is None:
        return Provenance()
    if not isinstance(entries, dict):
        raise SixfoldError(f"{where} does not consist of `key: value` lines", f"the keys are {', '.join(known)}")
    unknown = [str(key) for key in entries if key not in known]
    if unknown:
        raise SixfoldError(f"{where} has an unknown key {', '.join(unknown)}", f"the keys are {', '.join(known)}")
    return Provenance(**{key: _text(where, key, value) for key, value in entries.items()})


def _text(where: str, key: str, value: object) -> str:
    if isinstance(value, str):
        return value.strip()
    if key == "authors" and isinstance(value, list) and all(isinstance(v, str) for v in value):
        return ", ".join(value)
    raise SixfoldError(f"{where} has a {key} that is not text", f'write it in quotes: {key}: "..."')
