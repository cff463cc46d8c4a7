"""The sizes of a model, read from its config without its weights."""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from abq_core.models import hub
from abq_core.models.architectures import blocks_of
from abq_core.models.attention.head_layout import HeadLayout
from abq_core.models.building import checked_files, empty_model, parameter_count, read_config
from abq_core.models.files import check_config
from abq_core.models.gguf.folder import header_in
from abq_core.models.gguf.weights import StoredWeights, stored_weights
from abq_core.models.mapped.weights import MAPPED_BYTES
from abq_core.models.reference import local_folder
from abq_core.quantization.quant_linear import linears_of

LinearShapes = dict[str, tuple[int, int]]


@dataclass(frozen=True)
class ModelShape:
    """Sizes of a model.

    linears: (out, in) of each linear of a block, by its name relative to the block.
    exceptions: by index, the linears of blocks that differ (dense blocks in a mixture of experts).
    stored: how a GGUF file stores the weights of the blocks; None for safetensors.
    intermediate: width of the MLP, or of one expert.  parameters: tied embeddings count once.
    tied: whether embedding and LM head are one table.  table_width: their channels, None for `hidden`.
    """

    ref: str
    family: str
    blocks: int
    hidden: int
    heads: int
    kv_heads: int
    intermediate: int
    vocabulary: int
    context: int
    linears: LinearShapes
    parameters: int
    exceptions: Mapping[int, LinearShapes] = field(default_factory=dict)
    stored: StoredWeights | None = None
    tied: bool = False
    table_width: int | None = None

    @property
    def table(self) -> tuple[int, int]:
        """(rows, channels) of the embedding, and of the LM head."""
        return self.vocabulary, self.table_width or self.hidden

    @property
    def is_mapped(self) -> bool:
        """Whether the weights stay in the checkpoint's files on the CPU, assuming 16 bits per parameter."""
        return self.stored is None and 2 * self.parameters >= MAPPED_BYTES

    def block_linears(self, block: int) -> LinearShapes:
        """(out, in) of each linear of one block, by name."""
        return self.exceptions.get(block, self.linears)


def model_shape(ref: str) -> ModelShape:
    """The sizes of a model from its config alone; weights are not read, and only those of a GGUF file are downloaded.

    Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    local = local_folder(ref)
    if local is not None:
        check_config(local)
    folder = local or hub.hub_folder(ref, weights=False)
    with checked_files(ref, folder, weights=False) as links:
        shape = shape_of(ref, read_config(links))
    header = header_in(folder)
    return shape if header is None else replace(shape, stored=stored_weights(header))


def shape_of(ref: str, config: Any) -> ModelShape:
    """The sizes of the model that a transformers config describes, named `ref`.

    Allocates no weights.
    """
    model: Any = empty_model(config)
    sizes = [{n: (m.out_features, m.in_features) for n, m in linears_of(b).items()} for b in blocks_of(model)]
    layout = HeadLayout.of(config)
    width = int(model.get_input_embeddings().weight.shape[1])
    return ModelShape(
        ref=ref,
        family=config.model_type,
        blocks=len(sizes),
        hidden=config.hidden_size,
        heads=layout.heads,
        kv_heads=layout.kv_heads,
        intermediate=_intermediate(config),
        vocabulary=config.vocab_size,
        context=int(config.max_position_embeddings),
        linears=sizes[0],
        parameters=parameter_count(model),
        exceptions={index: shapes for index, shapes in enumerate(sizes) if shapes != sizes[0]},
        tied=has_tied_tables(model),
        table_width=None if width == config.hidden_size else width,
    )


def has_tied_tables(model: Any) -> bool:
    """Whether the embedding and the LM head of a transformers model are one table."""
    return model.get_output_embeddings().weight is model.get_input_embeddings().weight


def _intermediate(config: Any) -> int:
    """The width of the MLP or of one expert; families store it under different names."""
    names = ("moe_intermediate_size", "ffn_dim", "ffn_hidden_size", "intermediate_size")
    return next(int(width) for name in names if (width := getattr(config, name, None)))
