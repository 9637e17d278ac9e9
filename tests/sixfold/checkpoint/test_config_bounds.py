from pathlib import Path

import pytest

from sixfold.checkpoint.carried_files import check_links
from sixfold.checkpoint.config_bounds import check_bounds
from sixfold.errors import SixfoldError


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("num_hidden_layers", 10**9),
        ("num_hidden_layers", 0),
        ("num_hidden_layers", -1),
        ("num_local_experts", 10**9),
        ("n_routed_experts", -5),
        ("hidden_size", 0),
        ("moe_intermediate_size", 10**12),
        ("vocab_size", -1),
        ("anything_else", 10**40),
        ("layers_of_experts", [1, 10**30]),
    ],
)
def test_numbers_that_no_model_has(key: str, value: object) -> None:
    for config in ({key: value}, {"text_config": {key: value}}):
        with pytest.raises(SixfoldError, match=key):
            check_bounds(config, "config.json")


def test_layers_times_experts() -> None:
    with pytest.raises(SixfoldError, match="experts in all layers"):
        check_bounds({"num_hidden_layers": 2000, "num_experts": 32000}, "config.json")


def test_a_link_out_of_the_folder(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "LICENSE").symlink_to("/etc/passwd")
    with pytest.raises(SixfoldError, match="is a link to /etc/passwd"):
        check_links(folder, ["LICENSE"])


def test_links_inside_and_to_the_blobs_of_a_cache(tmp_path: Path) -> None:
    snapshot, blobs = tmp_path / "models--a--b" / "snapshots" / "abc", tmp_path / "models--a--b" / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    (blobs / "123").write_text("license")
    (snapshot / "LICENSE").symlink_to("../../blobs/123")
    (snapshot / "NOTICE").symlink_to("LICENSE")
    check_links(snapshot, ["LICENSE", "NOTICE"])
