"""The same job on a Ray cluster: two nodes on this machine, one of which is killed on the way."""

import hashlib
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from calibration.calibrate import calibrate
from exporters.export.planning import needs_statistics
from exporters.export.run import Exported, Wanted, export_all
from sixfold.artifact.workspace import Workspace
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.progress import Progress, unseen
from sixfold.recipes.recipe import load_recipes
from sixfold.runner.engine import HERE, Engine
from sixfold.runner.ray_engine import ray_engine

pytestmark = pytest.mark.engines
DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m-REAP-6"
FORMATS = ("bf16", "fp8", "nvfp4-gb10", "awq", "gguf-q4_k_m", "gguf-iq4_xs")
SETTINGS = ("calibration.samples=16", "calibration.length=128")


class Nodes:
    """A cluster whose driver has no cores: what is done, is done on its two nodes."""

    def __init__(self) -> None:
        cluster = pytest.importorskip("ray.cluster_utils", reason="ray is not installed").Cluster
        quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 500, "health_check_failure_threshold": 2}
        head = {"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False, "_system_config": quick}
        self.cluster = cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]

    def add(self) -> Any:
        return self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20)

    def kill(self) -> None:
        """As a machine goes: nothing is told to its processes."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


@pytest.fixture
def nodes() -> Iterator[Nodes]:
    found = Nodes()
    yield found
    import ray

    ray.shutdown()
    found.cluster.shutdown()


def killing_at(share: float, kill: Callable[[], None]) -> Progress:
    """Progress that kills once so much of the whole is done."""

    @contextmanager
    def progress(_description: str, total: int, _unit: str) -> Iterator[Callable[[int], None]]:
        done = 0
        killer: list[Thread] = []

        def advance(amount: int) -> None:
            nonlocal done
            done += amount
            if done >= share * total and not killer:
                killer.append(Thread(target=kill))
                killer[0].start()

        yield advance
        assert killer, "nothing was killed"
        killer[0].join()

    return progress


def exported(out: Path, engine: Engine, progress: Progress, settings: tuple[str, ...]) -> dict[str, str]:
    """sha256 of every file of every artifact, manifests and statistics included."""
    source, workspace = open_source(DEMO), Workspace(out, "model")
    recipes = [recipe for name in FORMATS for recipe in load_recipes(name, settings)]
    profile = recipes[-1].calibration
    statistics = calibrate(source, profile, workspace.calibration(profile), progress=unseen).statistics
    wanted = [Wanted(recipe, statistics if needs_statistics(recipe) else None) for recipe in recipes]
    made = export_all(source, wanted, workspace, threads=2, progress=progress, engine=engine)
    assert all(isinstance(one, Exported) for one in made), made
    files = [path for path in sorted(workspace.folder.rglob("*")) if path.is_file()]
    differ = ("run.json", "decisions.json")  # times; the mark by which a lost decision is known
    return {
        str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in files
        if not path.name.endswith(differ)
    }


@pytest.mark.parametrize("rounding", [(), ("rounding=nearest",)], ids=["compensated", "nearest"])
def test_artifacts_are_the_same_where_a_node_is_killed(nodes: Nodes, tmp_path: Path, rounding: tuple[str, ...]) -> None:
    settings = (*SETTINGS, *rounding)
    alone = exported(tmp_path / "alone", HERE, unseen, settings)
    engine = ray_engine(nodes.cluster.address)
    assert exported(tmp_path / "ray", engine, killing_at(0.3, nodes.kill), settings) == alone
    assert len(nodes.nodes) == 1


def test_an_address_without_a_cluster_is_one_sentence() -> None:
    pytest.importorskip("ray")
    with pytest.raises(SixfoldError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        ray_engine("127.0.0.1:1")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SixfoldError, match="Ray is not installed here; run `pip install"):
        ray_engine(None)
