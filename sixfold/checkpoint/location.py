"""What a MODEL on the command line refers to, found without imports that take long."""

from fnmatch import fnmatch
from pathlib import Path

from sixfold.checkpoint.storage.weight_files import INDEX, PICKLES
from sixfold.errors import SixfoldError

CONFIG = "config.json"
_WEIGHTS = ("*.safetensors", "*.gguf", INDEX, *PICKLES)


def check_location(model: str) -> None:
    """Raises SixfoldError where there is nothing at `model`, and it has not the form of a hub id."""
    if not model or not Path(model).expanduser().exists():
        local_folder(model)


def check_artifact(path: Path) -> None:
    """Raises SixfoldError where there is nothing at `path` nor a manifest of it, or a configuration alone."""
    if not path.exists() and not path.with_name(f"{path.name}.manifest.json").is_file():
        raise SixfoldError(f"there is no folder or file {path}", "check the path")
    if path.is_file() and config_alone(str(path)) is not None:
        raise SixfoldError(f"{path} is a configuration without weights", "give the artifact's folder, or its GGUF file")


def config_alone(model: str) -> Path | None:
    """The config.json that `model` is, or that its folder holds and no weights beside it; None for anything else."""
    path = Path(model).expanduser()
    if path.is_file():
        return path if path.suffix == ".json" else None
    if not (path / CONFIG).is_file():
        return None
    weights = any(fnmatch(entry.name, pattern) for entry in path.iterdir() for pattern in _WEIGHTS)
    return None if weights else path / CONFIG


def local_folder(model: str) -> Path | None:
    """The folder that `model` is; None where it is a hub id ("owner/name", where there is no such folder)."""
    if not model:
        raise SixfoldError("the name of the model is empty", "give a folder, or a hub id as owner/name")
    folder = Path(model).expanduser()
    if folder.is_dir():
        return folder
    if folder.exists():
        kind = "is a GGUF file, which is already quantized" if model.lower().endswith(".gguf") else "is a file"
        raise SixfoldError(f"{model} {kind}", "give the folder of the safetensors checkpoint")
    if model.startswith(("/", ".", "~")):
        kind = "file" if Path(model).suffix in (".json", ".gguf", ".safetensors") else "folder"
        raise SixfoldError(f"there is no {kind} {model}", "check the path")
    if not _is_hub_id(model):
        raise SixfoldError(
            f"{model} is neither a folder here nor a hub id", "check the path, or give the id as owner/name"
        )
    return None


def _is_hub_id(model: str) -> bool:
    if model.count("/") != 1:
        return False
    from sixfold.checkpoint.hub import is_hub_id

    return is_hub_id(model)
