"""Save a LLaMA model of any size with random weights, one shard per block, without holding the model in memory.

    python benchmarks/sharded_model.py llama-7b /var/tmp/llama-7b

Weights are bfloat16, normally distributed; the same name has the same weights. llama-1b takes 2 GiB of disk,
llama-7b 13.
"""

import argparse
import copy
import json
from pathlib import Path

import torch
from random_models import CONFIGS, bundled_tokenizer
from safetensors.torch import save_file
from torch import Tensor, nn

from abq_core.models.building import empty_model
from abq_core.models.files import WEIGHTS_INDEX
from abq_core.models.registration import register_attention


def main() -> None:
    """Parse the command line and save."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=CONFIGS)
    parser.add_argument("folder", type=Path)
    arguments = parser.parse_args()
    print(sharded_folder(arguments.name, arguments.folder))


def sharded_folder(name: str, folder: Path) -> Path:
    """Save that model as bfloat16 shards with the built-in model's tokenizer. Memory: one block."""
    register_attention()
    config = copy.deepcopy(CONFIGS[name])
    config.dtype = torch.bfloat16
    folder.mkdir(parents=True, exist_ok=True)
    config.save_pretrained(folder)
    bundled_tokenizer().save_pretrained(folder)
    generator = torch.Generator().manual_seed(0)
    shards = _shards(empty_model(config))
    weight_map: dict[str, str] = {}
    for number, shapes in enumerate(shards, start=1):
        file = f"model-{number:05}-of-{len(shards):05}.safetensors"
        tensors = {name: _random(shape, config.initializer_range, generator) for name, shape in shapes.items()}
        save_file(tensors, folder / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / WEIGHTS_INDEX).write_text(json.dumps(index, indent=2))
    return folder


def _shards(model: nn.Module) -> list[dict[str, torch.Size]]:
    """The shapes of the parameters by name: one shard per block, and one with everything else."""
    shards: dict[str, dict[str, torch.Size]] = {}
    for name, parameter in model.named_parameters():
        _, _, rest = name.partition(".layers.")
        shards.setdefault(rest.partition(".")[0], {})[name] = parameter.shape
    return list(shards.values())


def _random(shape: torch.Size, std: float, generator: torch.Generator) -> Tensor:
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.empty(shape, dtype=torch.bfloat16).normal_(std=std, generator=generator)


if __name__ == "__main__":
    main()
