"""Contract: what TransformerLens's calls give on a bound model is what its bridge gives, or what is right, or a named error."""

from pathlib import Path

import pytest

from mmlens.core.errors import MMLensError
from tests.contracts.transformer_lens.call import Call
from tests.contracts.transformer_lens.contract import CALLS, Counts, of_notebooks
from tests.contracts.transformer_lens.outcome import outcome, raw_gap
from tests.contracts.transformer_lens.page import PAGE, page
from tests.contracts.transformer_lens.subjects import MODELS, pair

#: What else than an error of this package says that something does not exist: attributes, and what TransformerLens's tools raise.
_NAMED = (MMLensError, AttributeError, NotImplementedError, ValueError, TypeError)
_CASES = [(name, call) for call in CALLS for name in call.only or MODELS]
_GAPS = [call for call in CALLS if call.gap is not None]


@pytest.mark.filterwarnings("ignore")  # TransformerLens's own
@pytest.mark.parametrize(("name", "call"), _CASES, ids=[f"{name}-{call.name[:70]}" for name, call in _CASES])
def test_a_call_gives_what_it_should(name: str, call: Call) -> None:
    found = outcome(call, pair(name))
    if call.refused or call.both_refuse:
        assert isinstance(found.bound, _NAMED), found.bound
        assert str(found.bound)
        assert isinstance(found.expected, Exception) == call.both_refuse, found.expected
    else:
        for side in (found.bound, found.expected):
            if isinstance(side, Exception):
                raise side
        assert found.equal, f"{found.gap:g} apart: {found.bound!r:.300} and {found.expected!r:.300}"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("call", _GAPS, ids=[call.name[:70] for call in _GAPS])
def test_the_figures_of_the_page_are_those_measured(call: Call) -> None:
    measured = max(raw_gap(call, pair(name)) for name in call.only or MODELS)
    assert measured == pytest.approx(call.gap, rel=0.06)


def test_the_page_is_what_the_command_makes() -> None:
    assert Path(PAGE).read_text(encoding="utf-8") == page(), "python -m tests.contracts.transformer_lens writes it"


def test_enough_runs() -> None:
    counts, notebooks = Counts.of(CALLS), Counts.of(of_notebooks())
    assert counts.calls >= 300
    assert counts.running / (counts.calls - counts.nowhere) > 0.97
    assert notebooks.calls >= 96
    assert notebooks.running / notebooks.calls >= 92 / 96
    assert len({call.name for call in CALLS}) == len(CALLS), "a call is counted twice"
