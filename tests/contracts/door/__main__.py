"""The fuzz from the command line: `python -m tests.contracts.door [number of calls] [text of a name]`; 0 makes all calls."""

import random
import sys
from collections import Counter

from tests.contracts.door.calls import Call, Fuzz
from tests.contracts.door.world import World


def main() -> None:
    """Make calls, print what was not refused clearly."""
    number = int(sys.argv[1]) if len(sys.argv) > 1 else 1000
    only = sys.argv[2] if len(sys.argv) > 2 else ""
    fuzz = Fuzz(World())
    for item in fuzz.public:
        if only in item.name:
            try:
                result = fuzz.attempt(Call(item, "", "", None), fuzz.arguments(item))
            except Exception as error:  # noqa: BLE001 - the table of examples is being written
                print("NO EXAMPLE", item.name, type(error).__name__, error)
                fuzz.public = [other for other in fuzz.public if other is not item]
                continue
            if result.outcome in ("clear", "unclear"):
                print("VALID ARGUMENTS ARE REFUSED", item.name, result.text[:300])
    calls = [call for call in fuzz.calls() if only in call.public.name]
    print(len(fuzz.public), "callables", len(calls), "calls")
    some = calls if not number or number >= len(calls) else random.Random(0).sample(calls, number)
    results = [fuzz.run(call) for call in some]
    counts = Counter(result.outcome for result in results)
    for result in sorted(results, key=lambda result: (result.outcome, result.call.public.name)):
        if result.outcome != "clear":
            print(f"{result.outcome:9} {result.call!r}: {result.text[:110]}")
    print(dict(counts), f"{counts['clear'] / max(1, len(results)):.1%} clear")


if __name__ == "__main__":
    main()
