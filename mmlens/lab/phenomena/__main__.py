"""Measures what a lab model shares with real ones: `python -m mmlens.lab.phenomena --out card.json`."""

from __future__ import annotations

import argparse
from pathlib import Path

from mmlens.lab.phenomena.card import PHENOMENA, card, findings_table, read_card
from mmlens.lab.phenomena.finding import Sizes
from mmlens.lab.phenomena.subject import WORLDS, subject


def main(arguments: list[str] | None = None) -> None:
    """Run the command line.

    Args:
        arguments: The words after the command; by default those of the process.
    """
    parser = argparse.ArgumentParser(prog="python -m mmlens.lab.phenomena", description=__doc__)
    parser.add_argument("--model", choices=WORLDS, default=next(iter(WORLDS)), help="which lab model (%(default)s)")
    parser.add_argument("--weights", type=Path, help="a folder with other weights of that model, such as a checkpoint")
    parser.add_argument("--scenes", type=int, default=Sizes().scenes, help="scenes for what is cheap (%(default)s)")
    parser.add_argument("--seed", type=int, default=Sizes().seed, help="of the scenes (%(default)s)")
    parser.add_argument("--only", nargs="+", choices=PHENOMENA, default=(), help="these phenomena alone")
    parser.add_argument("--beside", type=Path, nargs="+", default=(), help="cards whose models the table has beside it")
    parser.add_argument("--out", type=Path, help="a JSON file, gone on from if it is there; its table goes beside it")
    options = parser.parse_args(arguments)
    beside = [read_card(path) for path in options.beside]
    content = card(
        subject(options.model, path=options.weights),
        Sizes(options.scenes, options.seed),
        only=options.only,
        out=options.out,
    )
    print(findings_table(*beside, content))


if __name__ == "__main__":
    main()
