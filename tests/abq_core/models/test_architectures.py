"""The table of architectures.

Its names exist in every family's blocks; models outside the table.
"""

from itertools import chain

import pytest
from family_cases import CONFIGS, ONE_EACH, family_model
from torch import nn
from transformers import BertConfig, BertModel

from abq_core.models.architectures import ArchitectureError, Rows, architecture_of, blocks_of
from abq_core.models.building import use_plain_linears


@pytest.mark.parametrize("case", CONFIGS)
def test_every_name_in_a_row_is_a_module_of_some_block(case: str) -> None:
    model = family_model(case)
    use_plain_linears(model)
    row, blocks = architecture_of(model), blocks_of(model)
    assert row.family == CONFIGS[case]().model_type and row.has_pairs and len(blocks) == 2
    present = {name.replace("experts.0.", "experts.*.") for block in blocks for name, _ in block.named_modules()}
    names = {name for norm, consumers in row.norms for name in (norm, *consumers)}
    names |= set(chain.from_iterable((rows.linear, consumer) for rows, consumer in row.chain))
    for pair in (row.value_output, row.query_key):
        names |= {part.linear if isinstance(part, Rows) else part for part in pair or ()}
    dense_only = {"mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"}  # a mixture may have dense blocks
    optional = {"mlp.shared_expert.up_proj", "mlp.shared_expert.down_proj"} | (dense_only if "mo" in case else set())
    optional |= dense_only if case == "mixtral" else set()
    assert names - present <= optional


@pytest.mark.parametrize("case", ONE_EACH)
def test_the_list_of_blocks_is_found_without_its_path(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = family_model(case)
    blocks = blocks_of(model)
    model.config.model_type = "unknown"
    assert blocks_of(model) is blocks
    assert not architecture_of(model).has_pairs


def test_rows_are_written_with_their_part() -> None:
    assert str(Rows("mlp.up_proj")) == "mlp.up_proj"
    assert str(Rows("attention.query_key_value", "key", by_head=True)) == "attention.query_key_value[key]"


def test_a_model_without_a_list_of_blocks_is_named() -> None:
    model = BertModel(BertConfig(hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8))
    model.encoder.layer = nn.Sequential()
    with pytest.raises(ArchitectureError, match="BertModel has no list of blocks"):
        blocks_of(model)
