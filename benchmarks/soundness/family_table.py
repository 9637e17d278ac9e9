"""Which families of the installed transformers go into which format, as `plan` says.

`python -m benchmarks.soundness.family_table [FAMILY]...` writes docs/families.md and the counts in README.md; with
families named, their rows anew and the others as they are. Nothing is computed with weights here;
`benchmarks.soundness.families` takes the same families through everything that is promised.
"""

import json
import re
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from benchmarks.soundness.family_stages import FORMATS, recipes
from exporters.export.planning import plan_all
from pruning.anatomy import dissect
from sixfold.errors import SixfoldError
from sixfold.model.bare_config import described
from sixfold.model.derivation import derive_architecture
from sixfold.model.expert_stacks import with_single_experts
from sixfold.model.source import Source
from tests.every_family import families, tiny_config

FILE = Path(__file__).parents[2] / "docs" / "families.md"
README = FILE.parents[1] / "README.md"
FOLDERS = ("bf16", "fp8", "nvfp4", "nvfp4-gb10", "awq")
"""For any Linear; `mxfp4` is for experts alone."""

STAGES = (*FORMATS, "prune")
YES, DENSE = "yes", "-"

_HEAD = """# Families

Every text-capable family of the installed transformers, as a tiny random model, and what `sixfold plan` says of it
(`python -m benchmarks.soundness.family_table` writes this page; a test holds it to what is planned). Numbers are
reasons, below. `-`: there are no experts to prune.

"""


def row_of(family: str, folder: Path) -> dict[str, str]:
    """Stage -> YES, DENSE, or the sentence of the refusal. folder: any."""
    config = json.loads(tiny_config(family).to_json_string())
    try:
        checkpoint = with_single_experts(described(config, family, folder, name=family))
        source = Source(checkpoint, derive_architecture(checkpoint))
    except SixfoldError as error:
        return dict.fromkeys(STAGES, _said(error, family))
    planned = plan_all(source, recipes(FORMATS, "nearest"))
    found = {p.recipe.name: YES if p.refusal is None else _said(p.refusal, family) for p in planned}
    found["prune"] = DENSE
    if source.architecture.experts > 1:
        found["prune"] = YES
        try:
            dissect(source)
        except SixfoldError as error:
            found["prune"] = _said(error, family)
    return found


def _said(error: Exception, family: str) -> str:
    """One sentence for all families that it is said of, without the variant's name."""
    what = error.what if isinstance(error, SixfoldError) else f"{type(error).__name__}: {error}"
    for format in FORMATS:
        what = what.removeprefix(f"{format}: ").removeprefix(f"{format} ")
    return what.replace(family, "FAMILY").splitlines()[0]


def page(rows: Mapping[str, Mapping[str, str]]) -> str:
    reasons: dict[str, int] = {}
    lines = [f"| family | {' | '.join(STAGES)} |", "|---" * (len(STAGES) + 1) + "|"]
    counts: dict[str, int] = defaultdict(int)
    for family, row in rows.items():
        cells = []
        for stage in STAGES:
            said = row[stage]
            counts[stage] += said == YES
            cells.append(said if said in (YES, DENSE) else str(reasons.setdefault(said, len(reasons) + 1)))
        lines.append(f"| {family} | {' | '.join(cells)} |")
    total = f"Of {len(rows)} families: " + ", ".join(f"{counts[stage]} {stage}" for stage in STAGES) + "."
    notes = [f"{number}. {said}" for said, number in reasons.items()]
    return _HEAD + total + "\n\n" + "\n".join(lines) + "\n\n" + "\n".join(notes) + "\n"


def rows_of(text: str) -> dict[str, dict[str, str]]:
    """Of a page, what `page` made it from."""
    reasons = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    found: dict[str, dict[str, str]] = {}
    for line in text.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("| ") and len(cells) == len(STAGES) + 1 and cells[0] != "family":
            found[cells[0]] = {s: reasons.get(c, c) for s, c in zip(STAGES, cells[1:], strict=True)}
    return found


def counts_of(rows: Mapping[str, Mapping[str, str]]) -> str:
    """The README's sentence."""
    folders = sum(all(row[stage] == YES for stage in FOLDERS) for row in rows.values())
    files, mxfp4, pruned = (sum(row[s] == YES for row in rows.values()) for s in ("gguf-q4_k_m", "mxfp4", "prune"))
    experts = sum(row["prune"] != DENSE for row in rows.values())
    return (
        f"Of {len(rows)} families, {folders} go into every Hugging Face format, {mxfp4} have experts for MXFP4,"
        f" and {files} go into GGUF;\n{pruned} of {experts} with experts can be pruned"
    )


_COUNTED = re.compile(r"Of \d+ families, .*?\n\d+ of \d+ with experts can be pruned", re.DOTALL)


def main(names: Sequence[str]) -> int:
    rows = rows_of(FILE.read_text(encoding="utf-8"))
    for family in names or families():
        rows[family] = row_of(family, FILE.parent)
        print(family, *(row if row in (YES, DENSE) else "no" for row in rows[family].values()), flush=True)
    rows = {family: rows[family] for family in families()}
    FILE.write_text(page(rows), encoding="utf-8")
    text = README.read_text(encoding="utf-8")
    README.write_text(_COUNTED.sub(lambda found: counts_of(rows), text), encoding="utf-8")
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
