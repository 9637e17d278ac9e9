"""One entry of a calibration's `texts:`: the built-in set, a file, a folder, or a dataset of the Hugging Face Hub."""

from typing import Annotated, Any

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_serializer, model_validator

BUILTIN = "builtin"


class TextSource(BaseModel):
    """Written as a string ("builtin", a path) or as a mapping with `path:` or `dataset:`; dumped in the shorter way."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        use_attribute_docstrings=True,
        json_schema_extra={"oneOf": [{"required": ["path"]}, {"required": ["dataset"]}]},
    )

    path: str = ""
    """"builtin", or the path of a .txt, .jsonl, .json or .parquet file or of a folder of them, relative to the current
    folder."""
    dataset: Annotated[str, Field(pattern=r"^([\w.-]+(/[\w.-]+)?)?$")] = ""
    """Id of a dataset on the Hugging Face Hub, in place of `path`."""
    subset: str = ""
    """The dataset's configuration, where it has several."""
    split: Annotated[str, Field(min_length=1)] = "train"
    """The dataset's split."""
    revision: str = ""
    """The dataset's branch, tag or commit; the newest commit of its default branch where unset."""
    weight: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1.0
    """Share of the samples, relative to the other entries."""

    @model_validator(mode="after")
    def _one_origin(self) -> "TextSource":
        if bool(self.path) == bool(self.dataset):
            raise ValueError("name a path or a dataset, and not both")
        alien = sorted(self.model_fields_set & {"subset", "split", "revision"})
        if self.path and alien:
            raise ValueError(f"a path has no {alien[0]}; that is a key of datasets")
        return self

    @model_serializer
    def _shortest(self) -> str | dict[str, Any]:
        stated = {name: value for name in type(self).model_fields if (value := getattr(self, name))}
        if self.weight == 1:
            del stated["weight"]
        if self.path:
            del stated["split"]
        return self.path if list(stated) == ["path"] else stated

    @property
    def name(self) -> str:
        """What manifests and cards call it: the path as it was written, or dataset:subset:split@revision."""
        return f"{self.domain}@{self.revision}" if self.revision else self.domain

    @property
    def domain(self) -> str:
        """`name` without the revision: pinning a dataset to the commit that was used draws the same rows."""
        return self.path or ":".join(part for part in (self.dataset, self.subset, self.split) if part)


def _from_string(value: Any) -> Any:
    if not isinstance(value, str | dict | TextSource):
        raise ValueError("is neither a path nor a mapping with `path:` or `dataset:`")
    return {"path": value} if isinstance(value, str) else value


Text = Annotated[TextSource, BeforeValidator(_from_string, json_schema_input_type=str | TextSource)]
"""A field of `texts:`."""
