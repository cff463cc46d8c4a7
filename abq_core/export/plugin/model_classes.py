"""Config and model class of each family for transformers' Auto classes."""

from __future__ import annotations

from functools import cache
from typing import Any, cast

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, AutoModelForCausalLM, PreTrainedConfig

from abq_core.export.plugin.names import VARIANT
from abq_core.models.architectures import PACKED_PREFIX


class PackedConfig(PreTrainedConfig):
    """Of every family's config: reading one registers the family's model class."""

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """Read a config, as transformers does."""
        model_class(cls.model_type.removeprefix(PACKED_PREFIX))
        return super().from_dict(config_dict, **options)


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


@cache
def config_class(family: str) -> Any:
    """The config class of a family, whose model type is `abq_<family>`."""
    base = CONFIG_MAPPING[family]
    return type(
        f"Abq{base.__name__}", (PackedConfig, base), {"model_type": f"{PACKED_PREFIX}{family}", "__module__": __name__}
    )


@cache
def model_class(family: str) -> Any:
    """The model class of a family, registered with AutoModelForCausalLM."""
    config, base = config_class(family), MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family]]
    members = {"config_class": config, "__module__": __name__}
    made = type(f"Abq{base.__name__}", (PackedModel, base), members)
    AutoModelForCausalLM.register(config, made, exist_ok=True)
    return made


def register_configs(families: Any) -> None:
    """Make AutoConfig know the model types of these families."""
    for family in families:
        AutoConfig.register(f"{PACKED_PREFIX}{family}", config_class(family), exist_ok=True)
