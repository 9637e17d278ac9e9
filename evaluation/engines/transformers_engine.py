"""transformers behind an endpoint of our own, for folders where no other engine is: slow, and right."""

import sys
from importlib.metadata import version
from pathlib import Path

from evaluation.engines.engine import PORT, Demand, Engine


def transformers_engine(folder: Path, demand: Demand) -> Engine:
    """One request at a time, in the dtype that the folder states."""
    del demand
    return Engine(
        name="transformers",
        build=f"{version('transformers')}, torch {version('torch')}",
        command=(sys.executable, "-m", "evaluation.engines.transformers_server", str(folder), PORT),
        shown=f"python -m evaluation.engines.transformers_server {folder.name}",
        model=folder.name,
        environment={
            "PYTHONPATH": str(Path(__file__).parents[2]),
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
        },
    )
