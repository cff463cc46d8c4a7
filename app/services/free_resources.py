"""Free memory and disk space of this machine, the limits of a calibration."""

import shutil
from pathlib import Path

import psutil
import torch

from abq_core.planning.estimate import Available


def available(data_dir: Path, *devices: str) -> Available:
    """Free bytes: memory, the disk of `data_dir`, and the first accelerator.

    The accelerator's bytes are None if all devices are "cpu" or torch has no CUDA here.
    """
    accelerator = next((device for device in devices if device != "cpu"), None)
    free = torch.cuda.mem_get_info(accelerator)[0] if accelerator and torch.cuda.is_available() else None
    return Available(psutil.virtual_memory().available, shutil.disk_usage(data_dir).free, free)
