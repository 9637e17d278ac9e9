"""Model types that publishers bring their own code for, around a decoder that transformers knows.

That code is never run. transformers gets a class for each that runs the decoder; what lies around it on disk, such as a
tower for pictures and its projector, become parameters that nothing computes with, so that every tensor has its place.
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import nn

from sixfold.checkpoint.checkpoint import SourceTensor

NOTHING = r"(?!)"
"""An expression that no name fits."""

_ATTRIBUTE = "lies_around_its_decoder"


@dataclass(frozen=True)
class Wrapper:
    """around: an expression on the names of all tensors but the decoder's. inside: what those begin with, "" for
    nothing. decoder: the field of config.json that describes the decoder, "" where config.json itself does: of a
    decoder of the type `kind`, as transformers calls it."""

    around: str
    inside: str = ""
    decoder: str = ""
    kind: str = ""


WRAPPERS: Mapping[str, Wrapper] = {
    "deepseek_v4": Wrapper(r"^(vision|aligner)\.|^image_(newline|start|end|pad)$", kind="deepseek_v4"),
    "dots_ocr": Wrapper(r"^vision_tower\.", kind="qwen2"),
    "glm5v": Wrapper(r"^(vision_tower|mm_projector)\.", decoder="text_config"),
    "internvl_chat": Wrapper(r"^(vision_model|mlp1)\.", "language_model", "llm_config"),
    "kimi_vl": Wrapper(r"^(vision_tower|multi_modal_projector)\.", "language_model", "text_config"),
    "phi4-siglip": Wrapper(r"^model\.(vision_tower|mm_projector)\.", kind="phi3"),
    "step_robotics": Wrapper(r"^(vision_model|vit_large_projector)\.", decoder="text_config"),
    "youtu_vl": Wrapper(r"^(siglip2|merger)\.", kind="youtu"),
}
"""By the model type of config.json."""


def decoder_fields(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """What config.json says of the decoder in a mapping of its own; {} where it has none."""
    wrapper = WRAPPERS.get(str(config.get("model_type")))
    found = config.get("text_config") or (config.get(wrapper.decoder) if wrapper else None)
    return found if isinstance(found, Mapping) else {}


def lies_around(model_type: str, name: str) -> bool:
    """Whether a tensor lies around the decoder of a model type in WRAPPERS."""
    wrapper = WRAPPERS.get(model_type)
    return wrapper is not None and re.search(wrapper.around, name) is not None


@cache
def register_wrappers() -> None:
    """Make transformers know those of WRAPPERS whose config.json its own classes cannot read."""
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForImageTextToText

    for model_type, wrapper in WRAPPERS.items():
        if wrapper.decoder and model_type not in CONFIG_MAPPING:
            config_class = _config_class(model_type)
            AutoConfig.register(model_type, config_class)
            AutoModelForImageTextToText.register(config_class, _model_class(config_class, wrapper))


def place_around(model: nn.Module, config: Mapping[str, Any], tensors: Mapping[str, SourceTensor]) -> None:
    """Give a model a parameter on the meta device for each tensor that lies around its decoder, and let `around_of`
    tell."""
    model_type = str(config.get("model_type"))
    if model_type in WRAPPERS:
        setattr(model, _ATTRIBUTE, WRAPPERS[model_type].around)
    for name, tensor in tensors.items():
        if not lies_around(model_type, name):
            continue
        *path, leaf = name.split(".")
        module = model
        for part in path:
            if not hasattr(module, part):
                module.add_module(part, nn.Module())
            module = getattr(module, part)
        empty = torch.empty(tensor.shape, dtype=torch.bfloat16, device="meta")
        module.register_parameter(leaf, nn.Parameter(empty, requires_grad=False))


def around_of(model: nn.Module) -> str:
    """An expression on the names of what `place_around` gives a model."""
    return str(getattr(model, _ATTRIBUTE, NOTHING))


def _config_class(name: str) -> Any:
    from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

    from sixfold.model.meta_model import known_type

    class WrapperConfig(PreTrainedConfig):
        model_type = name
        sub_configs = {"text_config": AutoConfig}  # noqa: RUF012  # as all of transformers' classes
        text_config: dict[str, Any] | PreTrainedConfig | None = None

        def __post_init__(self, **fields: Any) -> None:
            given = self.text_config or fields.get(WRAPPERS[name].decoder) or {"model_type": "llama"}
            if not isinstance(given, Mapping | PreTrainedConfig):
                raise ValueError(f"its {WRAPPERS[name].decoder} describes no decoder")
            if not isinstance(given, PreTrainedConfig):
                self.text_config = CONFIG_MAPPING[known_type(given)].from_dict(dict(given))
            super().__post_init__(**fields)

    return WrapperConfig


def _model_class(of: Any, wrapper: Wrapper) -> Any:
    """A decoder that lies in a module, or the decoder itself."""
    from transformers import AutoModelForCausalLM, GenerationMixin, PreTrainedModel

    class WrapperModel(PreTrainedModel, GenerationMixin):
        config_class = of

        def __init__(self, config: Any) -> None:
            super().__init__(config)
            chosen = {"dtype": torch.get_default_dtype(), "attn_implementation": config._attn_implementation}
            self.add_module(wrapper.inside, AutoModelForCausalLM.from_config(config.text_config, **chosen))
            self.post_init()

        @property
        def decoder(self) -> Any:
            return self.get_submodule(wrapper.inside)

        def get_input_embeddings(self) -> Any:
            return self.decoder.get_input_embeddings()

        def get_output_embeddings(self) -> Any:
            return self.decoder.get_output_embeddings()

        def forward(self, *given: Any, **named: Any) -> Any:
            return self.decoder(*given, **named)

    class BareModel(PreTrainedModel):
        config_class = of

        @classmethod
        def _from_config(cls, config: Any, **chosen: Any) -> Any:
            return AutoModelForCausalLM.from_config(config.text_config, **chosen)

    return WrapperModel if wrapper.inside else BareModel
