"""The same job on a Ray cluster: two nodes on this machine, one of which is killed on the way."""

import hashlib
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import torch

from calibration.calibrate import calibrate
from calibration.forward_pass.batches import Batches, batched
from calibration.forward_pass.processes import run_on_devices
from cli.results.verdicts import artifact_of
from exporters.export.planning import needs_statistics
from exporters.export.run import Exported, Wanted, export_all
from sixfold.artifact.workspace import Workspace
from sixfold.errors import SixfoldError
from sixfold.model.source import open_source
from sixfold.progress import Progress, unseen
from sixfold.recipes.recipe import Calibration, load_recipes
from sixfold.runner import ray_engine as ray_engine_module
from sixfold.runner.engine import HERE, Engine
from sixfold.runner.ray_engine import ray_engine
from verification.stored_result import judged_all

pytestmark = pytest.mark.engines
DEMO = Path(__file__).parents[2] / "demo" / "minimax-m2-4.6m-REAP-6"
FORMATS = ("bf16", "fp8", "nvfp4-gb10", "awq", "gguf-q4_k_m", "gguf-iq4_xs")
SETTINGS = ("calibration.samples=16", "calibration.length=128")
LIMIT = 240
"""Seconds after which a test is ended: what waits for a lost node waits forever."""


class Nodes:
    """A cluster whose driver has no cores: what is done, is done on its two nodes."""

    def __init__(self) -> None:
        cluster = pytest.importorskip("ray.cluster_utils", reason="ray is not installed").Cluster
        quick = {"health_check_period_ms": 500, "health_check_timeout_ms": 3000, "health_check_failure_threshold": 2}
        head = {"num_cpus": 0, "object_store_memory": 100 << 20, "include_dashboard": False, "_system_config": quick}
        self.cluster = cluster(initialize_head=True, head_node_args=head)
        self.nodes = [self.add(), self.add()]

    def add(self, **resources: int) -> Any:
        """Not from a thread: with that, the node ends."""
        return self.cluster.add_node(num_cpus=1, object_store_memory=100 << 20, resources=resources)

    def kill(self) -> None:
        """As a machine goes: nothing is told to its processes."""
        self.cluster.remove_node(self.nodes.pop(), allow_graceful=False)


@pytest.fixture(autouse=True)
def limited() -> Iterator[None]:
    def late(_signal: int, _frame: object) -> None:
        raise TimeoutError(f"not done after {LIMIT} seconds")

    before = signal.signal(signal.SIGALRM, late)
    signal.alarm(LIMIT)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


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
    statistics = calibrate(source, profile, workspace.calibration(profile), progress=unseen, engine=engine).statistics
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


def shared(engine: Engine, work: Path, texts: Batches, size: int = 2, progress: Progress = unseen) -> dict[str, bytes]:
    """Contents of the statistics' files, of the demo over texts."""
    source, profile = open_source(DEMO), Calibration(samples=40, length=512)
    on = {"device": "cpu", "size": size, "ahead": True, "progress": progress, "engine": engine}
    reached = run_on_devices(source, texts, profile, work, key="k", **on)
    return {file: (work / file).read_bytes() for file in reached.files}


def test_workers_that_share_the_batches_measure_what_processes_here_do(nodes: Nodes, tmp_path: Path) -> None:
    """One on each node; and again where a node is killed after the first layer, and a third takes its place."""
    texts = batched(torch.randint(0, 2048, (40, 512), generator=torch.Generator().manual_seed(0)), 0)
    here = shared(HERE, tmp_path / "here", texts)
    engine = ray_engine(nodes.cluster.address)
    assert shared(engine, tmp_path / "ray", texts) == here

    from ray.util.placement_group import placement_group, remove_placement_group

    nodes.add(spare=1)
    kept_free = placement_group([{"CPU": 1, "spare": 1}])
    assert kept_free.wait(60)

    def replace() -> None:
        nodes.kill()
        remove_placement_group(kept_free)

    assert shared(engine, tmp_path / "killed", texts, progress=killing_at(0.3, replace)) == here


def test_too_little_room_for_all_is_one_sentence(nodes: Nodes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ray_engine_module, "PATIENCE", 2.0)
    engine = ray_engine(nodes.cluster.address)
    with pytest.raises(SixfoldError, match="for 2 seconds the cluster had no room for 3 tasks that work together"):
        shared(engine, tmp_path, batched(torch.zeros(3, 8, dtype=torch.int64), 0), size=3)


def test_a_refusal_of_a_unit_reaches_the_user(nodes: Nodes, tmp_path: Path) -> None:
    engine = ray_engine(nodes.cluster.address)
    with pytest.raises(SixfoldError, match="makes token 5000, but the model has 2048 embeddings"):
        shared(engine, tmp_path, batched(torch.full((2, 8), 5000), 0))


def test_variants_are_verified_by_themselves_to_the_same_results(nodes: Nodes, tmp_path: Path) -> None:
    """Four on two nodes, one of which is killed when the first of them is done."""
    settings = (*SETTINGS, "rounding=nearest")
    exported(tmp_path, HERE, unseen, settings)
    source, folder = open_source(DEMO), Workspace(tmp_path, "model").folder
    artifacts = [artifact_of(path.parent, path.name) for path in sorted(folder.glob("*/*manifest.json"))]
    artifacts = [path for path in artifacts if path.suffix != ".gguf"]
    assert len(artifacts) == 4

    def results(engine: Engine, progress: Progress) -> list[dict[str, Any]]:
        for path in folder.rglob("verification.json"):
            path.unlink()
        return [found | {"run": None} for found in judged_all(artifacts, source, progress, engine)]

    here = results(HERE, unseen)
    assert all(found["passed"] and found["divergence"] for found in here)
    engine = ray_engine(nodes.cluster.address)
    assert results(engine, killing_at(0.25, nodes.kill)) == here


def test_an_address_without_a_cluster_is_one_sentence() -> None:
    pytest.importorskip("ray")
    with pytest.raises(SixfoldError, match=r"no Ray cluster answers at 127\.0\.0\.1:1 "):
        ray_engine("127.0.0.1:1")


def test_what_is_not_installed_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(SixfoldError, match="Ray is not installed here; run `pip install"):
        ray_engine(None)
