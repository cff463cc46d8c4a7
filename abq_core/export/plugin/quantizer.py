"""The quantizer of `quant_method: "abq"`: replaces linears before the weights are read, and packs them after."""

from typing import Any

from torch import nn
from transformers.quantizers import HfQuantizer, register_quantization_config, register_quantizer
from transformers.utils.quantization_config import QuantizationConfigMixin

from abq_core.export.plugin.names import FORMAT_VERSION, METHOD
from abq_core.precision import FULL_BITS, Precision, PrecisionError


class FolderError(ValueError):
    """A folder of the project's format that this version cannot load."""


@register_quantization_config(METHOD)
class AbqConfig(QuantizationConfigMixin):
    """The quantization config of a folder.

    precision, mix: as in a stored calibration (`spec.read_precision`).  version: of the format.
    tied: whether the LM head is the embedding's table.
    """

    def __init__(
        self, precision: str = "", mix: Any = None, tied: bool = False, version: int = FORMAT_VERSION, **_: Any
    ) -> None:
        self.quant_method = METHOD
        self.precision, self.mix, self.tied, self.version = precision, mix, tied, version
        if version != FORMAT_VERSION:
            raise FolderError(
                f"The folder has version {version} of the format {METHOD}, and this program reads {FORMAT_VERSION}: "
                "install the version of abq-explorer that wrote it."
            )

    def model_precision(self) -> Any:
        """The precision of the model. Raises FolderError."""
        from abq_core.spec import read_precision

        try:
            return read_precision({"precision": self.precision, "mix": self.mix})
        except PrecisionError as error:
            raise FolderError(f"The folder's precision cannot be read: {error}") from error


@register_quantizer(METHOD)
class AbqQuantizer(HfQuantizer):
    """Loads folders that `abq export --to transformers` or `save_pretrained` wrote."""

    requires_calibration = True
    quantization_config: AbqConfig

    def update_attn_implementation(self, config: Any) -> Any:
        """Use the project's attention where K and V are quantized."""
        from abq_core.models.attention.function import ATTENTION
        from abq_core.models.registration import register_attention

        if self.quantization_config.model_precision().kv_bits is not None:
            register_attention()
            config._attn_implementation = ATTENTION
        return config

    def _process_model_before_weight_loading(self, model: Any, **_: Any) -> None:
        from abq_core.export.plugin.modules import StoredWeight
        from abq_core.models.architectures import blocks_of
        from abq_core.quantization.quant_linear import linears_of, replace_module

        precision = self.quantization_config.model_precision()
        for index, block in enumerate(blocks_of(model)):
            for name, linear in linears_of(block).items():
                own = precision.of_linear(index, name)
                if own.quantizes_weights:
                    replace_module(block, name, StoredWeight(linear.out_features, linear.in_features, own, linear.bias))
        self._table_forms = model.get_input_embeddings(), model.get_output_embeddings()
        embedding, head = self._table_forms
        if precision.embedding_bits is not None:
            rows, width = embedding.weight.shape
            stored = StoredWeight(rows, width, Precision(precision.embedding_bits, FULL_BITS), None)
            model.set_input_embeddings(stored)
        if precision.head_bits is not None:
            rows, width = head.weight.shape
            own = Precision(precision.head_bits, FULL_BITS)
            model.set_output_embeddings(
                nn.Identity() if self.quantization_config.tied else StoredWeight(rows, width, own, head.bias)
            )

    def _process_model_after_weight_loading(self, model: Any, **_: Any) -> Any:
        from abq_core.export.plugin.modules import EngineEmbedding, EngineHead, StoredWeight, wrap_unquantized
        from abq_core.mix import block_precisions
        from abq_core.models.architectures import blocks_of
        from abq_core.models.attention.function import set_kv_bits
        from abq_core.quantization.quant_linear import linears_of, replace_module

        precision = self.quantization_config.model_precision()
        for index, block in enumerate(blocks_of(model)):
            for name, module in list(block.named_modules()):
                if isinstance(module, StoredWeight):
                    replace_module(block, name, module.linear())
            wrap_unquantized(block, block_precisions(precision, index, linears_of(block)))
            set_kv_bits(block, precision.kv_bits)
        embedding, head = self._table_forms
        table: Any = None
        if isinstance(stored := model.get_input_embeddings(), StoredWeight):
            table = stored.table()
            model.set_input_embeddings(EngineEmbedding(embedding, table, model.dtype))
        if precision.head_bits is not None:
            stored = model.get_output_embeddings()
            own = isinstance(stored, StoredWeight)
            table = stored.table() if own else table
            assert table is not None
            model.set_output_embeddings(EngineHead(table, head.bias, saves=own))
        return model

    def is_serializable(self) -> bool:
        """`save_pretrained` works."""
        return True

    @property
    def is_trainable(self) -> bool:
        """The packed engine has no gradients."""
        return False
