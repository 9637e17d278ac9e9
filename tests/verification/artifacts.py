"""Artifacts to verify: the shipped variants and the other layouts, made as a user makes them."""

import io
import json
from collections.abc import Mapping
from contextlib import redirect_stdout
from pathlib import Path

from cli.main import run

_SMALL = tuple(
    f"--set={key}"
    for key in (
        "calibration.samples=8",
        "calibration.length=128",
        "calibration.sample_rows=32",
        "rounding=nearest",  # so that tests can damage one code among codes that are all the nearest
    )
)
_LAYOUTS = {
    "fp8-block": "extends: fp8\nscheme: FP8_BLOCK\n",
    "fp8-modelopt": "extends: fp8\nscheme: FP8\noptions: {layout: modelopt}\n",
    "nvfp4-modelopt": "extends: nvfp4-gb10\noptions: {layout: modelopt}\n",
    "nvfp4a16-modelopt": "extends: nvfp4\noptions: {layout: modelopt}\n",
    "nvfp4-auto-modelopt": "extends: nvfp4-auto\noptions: {layout: modelopt}\n",
    "awq-packed": "extends: awq\noptions: {layout: pack-quantized}\n",
}
"""Recipes beside the shipped ones, by name."""

_CACHES = {
    "fp8-cache": "extends: fp8\noptions: {kv_cache: fp8}\n",
    "nvfp4-auto-modelopt-cache": "extends: nvfp4-auto\noptions: {layout: modelopt, kv_cache: fp8}\n",
}
"""Those that are made where they are asked for."""

Artifacts = Mapping[str, Path]
"""Recipe -> folder, or GGUF file."""


def make_all(model: Path, root: Path, recipes: tuple[str, ...] = ("all-formats", "mxfp4", *_LAYOUTS)) -> Artifacts:
    """Every recipe that the model has a format for; those that fail (no GGUF names for it) are left out."""
    named, own = [], _LAYOUTS | _CACHES
    for name in recipes:
        if name in own:
            path = root / f"{name}.yaml"
            path.write_text(f"name: {name}\nsuffix: {name.upper()}\ntitle: {name}\n{own[name]}")
            named.append(str(path))
        else:
            named.append(name)
    printed = io.StringIO()
    with redirect_stdout(printed):
        run(
            [
                "export",
                str(model),
                *named,
                "--out",
                str(root / "out"),
                "--threads",
                "1",
                "--no-verify",
                "--json",
                *_SMALL,
            ]
        )
    (root / "made.json").write_text(printed.getvalue())
    return artifacts_in(root)


def artifacts_in(root: Path) -> Artifacts:
    """What `make_all` made there, also where the folder has been copied to."""
    found = {}
    for row in json.loads((root / "made.json").read_text()):
        if row["state"] == "made":
            folder = root / "out" / Path(row["folder"]).parent.name / Path(row["folder"]).name
            file = row["manifest"].removesuffix("manifest.json").removesuffix(".")
            found[row["recipe"]] = folder / file if file else folder
    return found
