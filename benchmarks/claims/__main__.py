"""`python -m benchmarks.claims`: the ledger of claims, docs/claims.md and docs/claims.json, from README and docs.

Without options it reads the documents anew and writes the page. `--cheap` measures again what takes seconds to a minute, a
claim at a time; each is kept as it comes, and a run that was stopped goes on (`--anew` begins again). `--only NAME` measures one
claim. `--all` measures these and says which commands make the rest.
"""

import argparse
import os
import sys
import time

os.environ.setdefault("HF_HUB_OFFLINE", "1")

import torch

from benchmarks.claims import ledger
from benchmarks.claims.catalogue import CLAIMS, PRINTED
from benchmarks.claims.claim import Claim, Printed, Setting
from benchmarks.claims.documents import every
from benchmarks.claims.ledger import Row
from benchmarks.splits import commit, fresh_seed
from mmlens.core.files import whole_file


def main(arguments: list[str] | None = None) -> int:
    """Write the ledger; measure what was asked for.

    Returns:
        1 if a document says what its table does not, or a figure that no claim has; else 0, also where figures moved.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks.claims", description=__doc__)
    parser.add_argument("--cheap", action="store_true", help="measure again what takes seconds to a minute")
    parser.add_argument("--all", action="store_true", help="the same, and say the commands of the rest")
    parser.add_argument(
        "--only", action="append", choices=[claim.name for claim in CLAIMS if claim.measure], metavar="NAME"
    )
    parser.add_argument("--anew", action="store_true", help="also what was measured at this commit")
    options = parser.parse_args(arguments)
    torch.set_num_threads(1)
    wrong = [line for document in every() for line in ledger.uncovered(document)]
    wrong += [line for claim in CLAIMS for line in ledger.wrong_quotes(claim)]
    kept = {item.name: _read(item, ledger.rows().get(item.name)) for item in (*CLAIMS, *PRINTED)}
    at = commit()
    for claim in CLAIMS:
        wanted = claim.name in options.only if options.only else options.cheap or options.all
        row = kept[claim.name]
        if wanted and claim.measure and (options.anew or not (row.measured and row.commit == at[:7])):
            started = time.process_time()
            kept[claim.name] = ledger.measured(claim, row, Setting(claim.model, fresh_seed(at)), at)
            out = ledger.moved(claim, kept[claim.name])
            print(
                f"{claim.name}: {time.process_time() - started:.0f} s{', moved: ' + ', '.join(out) if out else ''}",
                flush=True,
            )
            ledger.keep(kept)
    if options.all:
        rest = {item.command for item in (*CLAIMS, *PRINTED) if not isinstance(item, Claim) or item.measure is None}
        print("The rest is made by:\n  " + "\n  ".join(sorted(rest)))
    ledger.keep(kept)
    with whole_file(ledger.PAGE) as temporary:
        temporary.write_text(ledger.page(kept), encoding="utf-8")
    print("\n".join(wrong), file=sys.stderr)
    return int(bool(wrong))


def _read(item: Claim | Printed, row: Row | None) -> Row:
    """A claim's row with what its document says now."""
    said = ledger.says(item)
    if row is not None and row.says == said:
        return row
    words = (
        max(item.text.split("{")[0].split("`"), key=len).strip()[-30:]
        if isinstance(item, Claim)
        else item.heading or ""
    )
    at = ledger.written_at(item.document, words)
    return (
        Row(said, commit=at)
        if row is None or not row.measured
        else Row(said, row.measured, row.seed, row.commit, row.before)
    )


if __name__ == "__main__":
    sys.exit(main())
