"""The quantized model that an export writes: blocks of a run, embedding, LM head and everything around them."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import Tensor, nn

from abq_core.calibration.artifacts import BlockArtifact, CheckpointStore
from abq_core.calibration.quantized_block import stored_artifact
from abq_core.calibration.rotation import starting_model
from abq_core.export.errors import ExportError
from abq_core.mix import ModelPrecision
from abq_core.models.architectures import blocks_of
from abq_core.models.building import parameter_count
from abq_core.models.loading import LoadedModel
from abq_core.models.shape import has_tied_tables
from abq_core.quantization.quant_linear import linears_of
from abq_core.quantization.quantizers import QuantizedWeight
from abq_core.quantization.tables import quantize_table
from abq_core.spec import CalibrationSpec


@dataclass(frozen=True)
class ExportSource:
    """A finished run as an export reads it, one block at a time.

    model: the calibrated model, not rotated.  base, precision: from `starting_model`.  store: the run's blocks.
    record: what the model card says about the run, by name.
    """

    model: LoadedModel

    base: LoadedModel
    precision: ModelPrecision
    store: CheckpointStore
    record: Mapping[str, object]

    @classmethod
    def of(
        cls, model: LoadedModel, spec: CalibrationSpec, store: CheckpointStore, record: Mapping[str, object]
    ) -> "ExportSource":
        """A run of `model` by `spec`. Raises PrecisionError if a tied table has two numbers."""
        return cls(model, *starting_model(model, spec), store, record)

    @property
    def parameters(self) -> int:
        """Parameters of the model that was calibrated; a tied table counts once."""
        return parameter_count(self.model.model)

    @property
    def config(self) -> Any:
        """The transformers config of the full-precision model."""
        return self.base.model.config

    @property
    def blocks(self) -> int:
        """The number of blocks."""
        return len(blocks_of(self.base.model))

    @property
    def tied(self) -> bool:
        """Whether the embedding and the LM head are one table."""
        return has_tied_tables(self.base.model)

    @property
    def blocks_path(self) -> str:
        """The dotted name of the list of blocks, such as `model.layers`."""
        blocks = blocks_of(self.base.model)
        return next(name for name, module in self.base.model.named_modules() if module is blocks)

    def artifact(self, block: int) -> BlockArtifact:
        """The quantized block, its weights and parameters by name. Raises MissingBlockError.

        Sorted, because a stored block has another order whenever it is read, and writers read each more than once.
        """
        found = stored_artifact(self.store, block)
        return replace(
            found, weights=dict(sorted(found.weights.items())), parameters=dict(sorted(found.parameters.items()))
        )

    def linear_names(self, block: int) -> list[str]:
        """The linears of a block, by their names below it."""
        return list(linears_of(blocks_of(self.model.model)[block]))

    def outer_linears(self) -> list[str]:
        """Full names of the linears outside the blocks, such as the LM head."""
        inside = f"{self.blocks_path}."
        return [name for name in linears_of(self.base.model) if not name.startswith(inside)]

    def table_names(self) -> tuple[str, str]:
        """Full names of the embedding and of the LM head."""
        embedding, head = self.base.model.get_input_embeddings(), self.base.model.get_output_embeddings()
        names = {id(module): name for name, module in self.base.model.named_modules()}
        return names[id(embedding)], names[id(head)]

    def embedding(self) -> QuantizedWeight | Tensor:
        """The embedding: rounded, or (vocabulary, width) float if it is not quantized."""
        return _table(self.base.model.get_input_embeddings(), self.precision.embedding_bits)

    def head(self) -> QuantizedWeight | Tensor:
        """The LM head: rounded, or (vocabulary, width) float if it is not quantized."""
        return _table(self.base.model.get_output_embeddings(), self.precision.head_bits)

    def other_parameters(self) -> Iterator[tuple[str, Tensor]]:
        """Parameters outside the blocks by full name, without embedding and LM head weight: final norm, biases."""
        inside = f"{self.blocks_path}."
        tables = {f"{name}.weight" for name in self.table_names()}
        for name, parameter in self.base.model.named_parameters():
            if not name.startswith(inside) and name not in tables:
                yield name, parameter.detach().cpu()


def require_plain_blocks(source: ExportSource, format: str) -> None:
    """Refuse a mixture of experts: its experts are single linears here, and fused in other runtimes.

    Raises ExportError.
    """
    expert = next((name for name in source.linear_names(source.blocks - 1) if ".experts." in name), None)
    if expert is not None:
        raise ExportError(
            f"{source.base.ref} is a mixture of experts ({source.config.model_type}), which the format {format} does "
            "not hold yet. Export it to transformers, the project's own format."
        )


def _table(module: nn.Module, bits: int | None) -> QuantizedWeight | Tensor:
    weight = module.weight
    assert isinstance(weight, Tensor)
    values = weight.detach().cpu()
    return values if bits is None else quantize_table(values, bits)
