"""Which families of the installed transformers go into which format, as `plan` says.

`python -m benchmarks.soundness.family_table` writes docs/families.md. Nothing is computed with weights here;
`benchmarks.soundness.families` takes the same families through everything that is promised.
"""

import json
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


def main(names: Sequence[str]) -> int:
    rows = {}
    for family in names or families():
        rows[family] = row_of(family, FILE.parent)
        print(family, *(row if row in (YES, DENSE) else "no" for row in rows[family].values()), flush=True)
    if not names:
        FILE.write_text(page(rows), encoding="utf-8")
    return 0


if __name__ == "__main__":
    with suppress(KeyboardInterrupt):
        sys.exit(main(sys.argv[1:]))
