"""A script that collects, started by accelerate's own launcher in two processes."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

import mmlens as mm
from tests.analysis.store.test_store import free_port

SCRIPT = """
import sys
import torch
import mmlens as mm

torch.set_num_threads(1)
mm.collect(
    mm.lab.load(), mm.lab.scenes(10), at="blocks.4.hook_resid_post", token=mm.lab.NOUNS, max_new_tokens=8, batch_size=2,
    save_every=2, into=sys.argv[1], progress=False,
)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="accelerate starts processes without a GPU on Linux alone")
def test_accelerate_launch_fills_the_store_of_one_process(tmp_path: Path) -> None:
    script, path = tmp_path / "gather.py", tmp_path / "store"
    script.write_text(SCRIPT)
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    run = subprocess.run(
        [*launcher, "--main_process_port", free_port(), str(script), str(path)],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert run.returncode == 0, run.stderr
    found = mm.store.ActivationStore.load(path)
    expected = mm.collect(
        mm.lab.load(), mm.lab.scenes(10), at=found.points, token=mm.lab.NOUNS, max_new_tokens=8, batch_size=2, progress=False
    )  # fmt: skip
    assert {int(shard.path.name.split("-")[1]) for shard in found.shards} == {0, 1}, "both took part"  # type: ignore[attr-defined]
    assert found.finished
    assert found.records == expected.records
    torch.testing.assert_close(found.at().values, expected.at().values, atol=0, rtol=0)
