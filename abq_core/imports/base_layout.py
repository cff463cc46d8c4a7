"""The parameters of a base model: an import must have exactly these, in these shapes."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from torch import nn

from abq_core.models import hub
from abq_core.models.architectures import blocks_of
from abq_core.models.building import checked_files, empty_model, read_config
from abq_core.models.files import check_config
from abq_core.models.reference import local_folder
from abq_core.quantization.quant_linear import linears_of

Shape = tuple[int, ...]


@dataclass(frozen=True)
class BaseLayout:
    """Names and shapes of a base model's parameters, without their values.

    config: of transformers.  shapes: by name; a tied LM head is not among them.  blocks: for each block, the names of
    its parameters by their name below the block.  linears: names of the weights of the blocks' linears.
    head: the name of the LM head's weight.  tied: whether it is the table of embeddings.
    """

    ref: str
    config: Any
    shapes: Mapping[str, Shape]
    blocks: tuple[Mapping[str, str], ...]
    linears: frozenset[str]
    head: str
    tied: bool

    @classmethod
    def of(cls, ref: str, model: Any) -> "BaseLayout":
        """The layout of a transformers model, which may be on the meta device."""
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        blocks = tuple(
            {inside: names[id(parameter)] for inside, parameter in block.named_parameters()}
            for block in blocks_of(model)
        )
        head = model.get_output_embeddings()
        return cls(
            ref=ref,
            config=model.config,
            shapes={name: tuple(parameter.shape) for name, parameter in model.named_parameters()},
            blocks=blocks,
            linears=frozenset(
                names[id(one.weight)] for block in blocks_of(model) for one in linears_of(block).values()
            ),
            head=next(f"{name}.weight" for name, module in model.named_modules() if module is head),
            tied=head.weight is model.get_input_embeddings().weight,
        )

    @property
    def outside(self) -> tuple[str, ...]:
        """Names of the parameters outside the blocks."""
        inside = {name for block in self.blocks for name in block.values()}
        return tuple(name for name in self.shapes if name not in inside)

    @property
    def parameters(self) -> int:
        """The number of parameters; a tied table counts once."""
        total = 0
        for shape in self.shapes.values():
            count = 1
            for extent in shape:
                count *= extent
            total += count
        return total

    @property
    def table_shape(self) -> Shape:
        """The shape of the LM head, also of a tied one."""
        return self.shapes[self.head] if not self.tied else (self.config.vocab_size, self.config.hidden_size)


def base_layout(ref: str) -> BaseLayout:
    """The layout of a model from its config alone; only the weights of a GGUF file are downloaded.

    Raises UnsafeModelError, ModelNotFoundError, ModelError.
    """
    local = local_folder(ref)
    if local is not None:
        check_config(local)
    with checked_files(ref, local or hub.hub_folder(ref, weights=False), weights=False) as links:
        model: nn.Module = empty_model(read_config(links))
    return BaseLayout.of(ref, model)
