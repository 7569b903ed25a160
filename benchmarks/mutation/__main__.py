"""`python -m benchmarks.mutation`: put single faults into the package, and see which of them the tests see."""

import argparse
import os
import sys
from collections.abc import Sequence
from pathlib import Path

os.environ |= {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}

from benchmarks.mutation.judges import JudgeMap
from benchmarks.mutation.mutants import Mutant, found_again, sampled, text_of
from benchmarks.mutation.parts import PATTERNS, ROOT, files_of
from benchmarks.mutation.results import Results, append, missed, page, result_of, table
from benchmarks.mutation.trials import Trial, Trials

_FOLDER = ROOT / "build" / "mutation"
_MEASURED = ("tests", "mmlens")


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a sample of mutants, or measure which tests judge what, or write the page; the exit code."""
    parser = _parser()
    options = parser.parse_args(arguments)
    sys.path.insert(0, str(ROOT))
    judges = JudgeMap.load(options.judges)
    if options.measure is not None:
        code = judges.measure(options.measure or list(_MEASURED))
        judges.save(options.judges)
        return code
    if options.write:
        sections, together = (
            [Results.load(path) for path in paths] for paths in (options.results or (), options.together)
        )
        options.write.write_text(page(sections, together), "utf-8")
        return 0
    if not judges.tests:
        parser.error(f"{options.judges} does not exist; run --measure first (the whole of the tests, once)")
    path = options.resume or _FOLDER / f"seed{options.seed}.jsonl"
    parts = options.part or list(PATTERNS)
    if options.again:
        known = Results.load(path)
        files = {file for part in parts for file in files_of(part)}
        survivors = [result for result in missed(known) if result.file in files]
        found = [found_again(r.file, r.operator, r.occurrence, (r.old, r.new)) for r in survivors]
        again = [mutant for mutant in found if mutant is not None]
        lost = {result.key for result, mutant in zip(survivors, found, strict=True) if mutant is not None}
        path.write_text("")
        for result in known.results:
            if result.key not in lost:
                append(path, result)
        run(again, judges, path, options.budget, options.limit)
    else:
        run(sampled(options.sample, options.seed, parts), judges, path, options.budget, options.limit)
    results = Results.load(path)
    print(table(results))
    for result in missed(results):
        print(
            f"{result.file}:{result.first} {result.operator}\n    {result.old}\n    {result.new}   ({result.tests} tests)"
        )
    return 0


def run(mutants: Sequence[Mutant], judges: JudgeMap, path: Path, budget: float, limit: int | None = None) -> None:
    """Try the mutants that a file of results does not have yet, and add theirs; a budget of seconds of tests for each."""
    done = {result.key for result in Results.load(path).results}
    rest = [mutant for mutant in mutants if (mutant.file, mutant.operator, mutant.occurrence) not in done][:limit]
    if not rest:
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    chosen = {mutant: judges.of(mutant.file, mutant.first, mutant.last) for mutant in rest}
    files = {test.split("::")[0] for tests in chosen.values() for test in _affordable(tests, judges, budget)}
    trials = Trials(path.with_suffix(".log"), sorted(files))
    sound: set[str] = set()
    failing: set[str] = set()
    for number, mutant in enumerate(rest, start=1):
        result = None
        while result is None:
            tests = [test for test in chosen[mutant] if test not in failing]
            group = _affordable(tests, judges, budget)
            text = text_of(mutant.file)
            trial = Trial("survived", 0.0)
            if group:
                trial = trials.run(mutant.file, text, mutant.source, group, _limit(group, judges))
            for test in set(trial.failed) - sound:  # what fails without a fault too judges nothing
                again = trials.run(mutant.file, text, text, [test], _limit([test], judges))
                (sound if again.outcome == "survived" else failing).add(test)
            if not failing.intersection(trial.failed):
                seen_by = trial.failed[0] if trial.failed else ""
                result = result_of(mutant, trial.outcome, len(tests), trial.seconds, seen_by)
        append(path, result)
        print(
            f"{number}/{len(rest)} {result.outcome:9} {result.seconds:6.1f} s  {mutant.file}:{mutant.first} {result.new}",
            flush=True,
        )
    trials.close()


def _parser() -> argparse.ArgumentParser:
    """The options of the command."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.mutation", description=__doc__)
    parser.add_argument("--part", choices=PATTERNS, action="append", help="one part; may be given several times")
    parser.add_argument("--sample", type=int, default=220, help="mutants, of all parts together (default 220)")
    parser.add_argument("--seed", type=int, default=0, help="of the sample (default 0)")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results; what it has already is not run again")
    parser.add_argument("--limit", type=int, help="stop after so many mutants; --resume goes on")
    parser.add_argument("--judges", type=Path, default=_FOLDER / "judges.json", help="which tests run which line")
    parser.add_argument(
        "--measure", nargs="*", metavar="PATH", help="run tests (all by default) under coverage, and note what they run"
    )
    parser.add_argument("--again", action="store_true", help="run the survivors of --resume FILE again")
    parser.add_argument(
        "--budget", type=float, default=20.0, help="seconds of tests, as measured, for a mutant (default 20)"
    )
    parser.add_argument("--write", type=Path, metavar="PAGE", help="write a page of the results in --results")
    parser.add_argument("--results", type=Path, nargs="+", metavar="FILE", help="what --write writes about")
    parser.add_argument(
        "--together", type=Path, nargs="+", default=[], metavar="FILE", help="those that the page adds up"
    )
    return parser


def _affordable(tests: Sequence[str], judges: JudgeMap, seconds: float) -> list[str]:
    """Tests from the first on that are measured to take so many seconds together, without those too long for the rest."""
    result, total = [], 0.0
    for test in tests:
        if not result or total + judges.seconds[test] <= seconds:
            total += judges.seconds[test]
            result.append(test)
    return result


def _limit(tests: Sequence[str], judges: JudgeMap) -> float:
    """Seconds that a trial may take: many times what was measured, since fixtures are made anew."""
    return 30 + 4 * sum(judges.seconds.get(test, 1.0) for test in tests)


if __name__ == "__main__":
    sys.exit(main())
