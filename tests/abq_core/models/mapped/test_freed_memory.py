"""Freed memory returns to the system: measured in a new process."""

import subprocess
import sys

_SCRIPT = """
import gc, psutil, torch
from abq_core.models.mapped.freed_memory import return_freed_memory
def resident(): return psutil.Process().memory_info().rss / 2**20
kept, parts = [], []
for _ in range(200):  # freed blocks below live objects: glibc keeps them
    parts.append(torch.ones(1 << 14))
    kept.append(torch.ones(64))
    parts.append(torch.ones(1 << 14))
before = resident()
parts.clear()
gc.collect()
return_freed_memory()
print(before - resident())
"""


def test_what_was_freed_between_live_objects_is_returned() -> None:
    done = subprocess.run([sys.executable, "-c", _SCRIPT], capture_output=True, text=True, check=True)
    assert float(done.stdout) > 20  # of 25 MiB
