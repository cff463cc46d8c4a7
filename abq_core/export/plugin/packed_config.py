"""The config that transformers finds for the project's own format."""

from typing import Any

from transformers.configuration_utils import PreTrainedConfig

from abq_core.export.plugin.names import METHOD


class PackedConfig(PreTrainedConfig):
    """Reads the config of every family: the class that it gives is made at that moment.

    It imports no family's modules, so it can be registered while transformers is still being imported: another thread
    may be importing them.
    """

    model_type = METHOD

    @classmethod
    def from_dict(cls, config_dict: dict[str, Any], **options: Any) -> Any:
        """Read a config, as transformers does. Raises FolderError."""
        from abq_core.export.plugin.model_classes import config_class

        return config_class(config_dict.get("base_model_type")).from_dict(config_dict, **options)
