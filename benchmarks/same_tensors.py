"""Does another commit calibrate to the same tensors, bit for bit?

Compare the SHA-256 of every block of a few runs.
    .venv/bin/python benchmarks/same_tensors.py d5ae73d

Checks the commit out into a temporary git worktree, calibrates the built-in model there and here with the same settings
and the same interpreter, and prints one row per run. Exit code 1 if any block differs. Takes 10 minutes on 2 cores.
"""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SMALL = ["--segments", "8", "--seq-len", "128"]
LEARNED = [*SMALL, "--epochs", "2"]
RUNS = {
    "W4A8 rtn": ["--precision", "W4A8", "--method", "rtn", *SMALL],
    "W4A4 smoothquant": ["--precision", "W4A4", "--method", "smoothquant", *SMALL],
    "W4A4 omniquant": ["--precision", "W4A4", "--method", "omniquant", *LEARNED],
    "W2*A8 abq": ["--precision", "W2*A8", "--method", "abq", *LEARNED],
    "W4A4g128kv8 abq": ["--precision", "W4A4g128kv8", "--method", "abq", *LEARNED],
    "W2A8 abq+": ["--precision", "W2A8", "--method", "abq+", *LEARNED, "--end-to-end-segments", "16"],
}


def main() -> int:
    """Compare and print."""
    commit = sys.argv[1] if len(sys.argv) == 2 else sys.exit(__doc__)
    with tempfile.TemporaryDirectory() as folder:
        other = Path(folder) / "checkout"
        subprocess.run(["git", "worktree", "add", "--detach", "--quiet", str(other), commit], cwd=ROOT, check=True)
        try:
            differing = 0
            for name, arguments in RUNS.items():
                before, after = (block_hashes(root, Path(folder), arguments) for root in (other, ROOT))
                same = before == after
                differing += not same
                print(f"{name:18} {len(after)} blocks  {'equal' if same else f'DIFFER: {before} {after}'}", flush=True)
        finally:
            subprocess.run(["git", "worktree", "remove", "--force", str(other)], cwd=ROOT, check=True)
    return 1 if differing else 0


def block_hashes(root: Path, folder: Path, arguments: list[str]) -> list[str]:
    """Calibrate with the code in `root`.

    Returns the SHA-256 of each block's file, in block order.
    """
    with tempfile.TemporaryDirectory(dir=folder) as data:
        environment = {**os.environ, "ABQ_DATA_DIR": data, "PYTHONPATH": str(root)}
        command = [sys.executable, "-m", "app.cli", "calibrate", "builtin", *arguments, "--wait", "--json"]
        answer = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True, check=True)
        run = json.loads(answer.stdout)["run"]
        files = sorted((Path(data) / "runs" / run / "blocks").glob("*.safetensors"))
        return [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]


if __name__ == "__main__":
    sys.exit(main())
