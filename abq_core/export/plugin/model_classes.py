"""Config and model class of each family in the project's own format."""

from functools import cache
from typing import Any, cast

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoModelForCausalLM

from abq_core.export.plugin.names import METHOD, VARIANT
from abq_core.export.plugin.quantizer import FolderError
from abq_core.models.architectures import SUPPORTED_FAMILIES


class PackedModel:
    """Of every family's model: the weights are in files that transformers opens only where they are named."""

    def __init__(self, config: Any, *arguments: Any, **options: Any) -> None:
        from abq_core.models.building import use_plain_linears

        super().__init__(config, *arguments, **options)  # type: ignore[call-arg]
        use_plain_linears(cast(Any, self))

    @classmethod
    def from_pretrained(cls, *arguments: Any, **options: Any) -> Any:
        """Load a folder or a hub id, as transformers does. Runs no code of the repository."""
        return super().from_pretrained(*arguments, **{"variant": VARIANT, **options})  # type: ignore[misc]

    def save_pretrained(self, *arguments: Any, **options: Any) -> None:
        """Save the packed model, as transformers does."""
        super().save_pretrained(*arguments, **{"variant": VARIANT, **options})  # type: ignore[misc]


def config_class(family: object) -> Any:
    """The config class of a family; AutoModelForCausalLM knows the model class of it. Raises FolderError."""
    if not isinstance(family, str) or family not in SUPPORTED_FAMILIES:
        raise FolderError(
            f"The folder's base_model_type is {family!r}, which is none of: {', '.join(sorted(SUPPORTED_FAMILIES))}."
        )
    return model_class(family).config_class


@cache
def model_class(family: str) -> Any:
    """The model class of a supported family, registered with AutoModelForCausalLM."""
    base_config = CONFIG_MAPPING[family]
    base = MODEL_FOR_CAUSAL_LM_MAPPING[base_config]
    config = type(f"Abq{base_config.__name__}", (base_config,), {"model_type": METHOD, "__module__": __name__})
    members = {"config_class": config, "__module__": __name__}
    made = type(f"Abq{base.__name__}", (PackedModel, base), members)
    AutoModelForCausalLM.register(config, made, exist_ok=True)
    return made
