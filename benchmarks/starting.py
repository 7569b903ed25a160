"""How long a user waits for the first answer: imports, the command line's help, the lab model and a caption."""

import subprocess
import sys
from collections.abc import Callable, Sequence

import mmlens as mm
from benchmarks.measure import alternate
from benchmarks.table import Row

_HELP_TARGET, _LOAD_TARGET, _CAPTION_TARGET = 500.0, 3000.0, 1000.0


def starting(*, repeats: int) -> list[Row]:
    """Wall times of fresh Python processes.

    Args:
        repeats: timed rounds.
    """
    commands: dict[str, tuple[Sequence[str], float | None]] = {
        "python -c pass": (["-c", "pass"], None),
        "import mmlens": (["-c", "import mmlens"], None),
        "mmlens --help": (["-m", "mmlens", "--help"], _HELP_TARGET),
        "import mmlens, first use": (["-c", "import mmlens; mmlens.HookedMultimodal"], None),
    }
    timings = alternate(
        {name: _process(command) for name, (command, _) in commands.items()}, repeats=repeats, warm_up=1, lead_in=0
    )
    return [
        Row("start a process", name, timings[name].milliseconds, target=target)
        for name, (_, target) in commands.items()
    ]


def lab(*, repeats: int) -> list[Row]:
    """Loading the lab model (imports done) and captioning one picture.

    Args:
        repeats: timed rounds.
    """
    if not (mm.lab.path() / "config.json").is_file():
        return [Row("lab model", "mmlens", note="skipped: not trained yet, see python -m mmlens.lab.training.train")]
    model, image = mm.lab.load(), mm.lab.scene(seed=7).image
    timings = alternate(
        {"load": mm.lab.load, "one caption": lambda: model.caption(image)}, repeats=repeats, warm_up=1, lead_in=0
    )
    targets = {"load": _LOAD_TARGET, "one caption": _CAPTION_TARGET}
    return [Row("lab model", name, timings[name].milliseconds, target=targets[name]) for name in timings]


def _process(command: Sequence[str]) -> Callable[[], object]:
    return lambda: subprocess.run([sys.executable, *command], check=True, capture_output=True)
