"""`python -m benchmarks.gpu FOLDER`: everything that needs a GPU, once: its tests, and the rows of benchmarks on it.

What is finished is kept in the folder: a call that was stopped goes on. LLaVA-1.5 is run whole in bfloat16 (14 GB), and with 4 of
its layers in float32.
"""

import argparse
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import torch

from benchmarks.table import machine

_PYTHON = (sys.executable, "-m")
#: What is run, by the name of the file that keeps it.
RUNS: dict[str, tuple[str, ...]] = {
    "tests.txt": ("pytest", "-q", "-n", "0", "-m", "gpu"),
    "rows.json": ("benchmarks", "--model", "gpu"),
    "bfloat16.json": ("benchmarks", "--real", "--layers", "32", "--dtype", "bfloat16"),
    "float32.json": ("benchmarks", "--real", "--layers", "4"),
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Run everything; returns 1 if something failed, or there is no GPU.

    Args:
        arguments: of the command line; the process's own by default.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu", description=__doc__)
    parser.add_argument("folder", type=Path, help="where results are kept")
    folder = parser.parse_args(arguments).folder
    if not torch.cuda.is_available():
        print("There is no CUDA device here; python -m benchmarks runs on a processor.", file=sys.stderr)
        return 1
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "machine.txt").write_text(machine() + "\n")
    failed = False
    for name, command in RUNS.items():
        kept = folder / name
        if name.endswith(".json"):
            failed |= subprocess.run([*_PYTHON, *command, "--json", str(kept), "--resume"], check=False).returncode != 0
        elif not kept.is_file():
            done = subprocess.run([*_PYTHON, *command], check=False, capture_output=True, text=True)
            sys.stdout.write(done.stdout)
            if done.returncode == 0:
                kept.write_text(done.stdout)
            failed |= done.returncode != 0
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
