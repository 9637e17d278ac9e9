"""Every format of the bundled model, made once; tests damage copies."""

import pytest

from sixfold.model.source import Source, open_source
from tests.exporters.exported import DEMO
from tests.made_once import made_once
from tests.verification.artifacts import Artifacts, artifacts_in, make_all


@pytest.fixture(scope="session")
def demo() -> Source:
    return open_source(DEMO)


@pytest.fixture(scope="session")
def artifacts(tmp_path_factory: pytest.TempPathFactory) -> Artifacts:
    return artifacts_in(made_once(tmp_path_factory, "artifacts", lambda root: make_all(DEMO, root)))
