"""The tables of the findings say what was measured."""

from benchmarks.findings import table, versus
from mmlens.analysis.properties.quantities import Quantity, Value, control_name
from mmlens.properties import Measurements

QUANTITIES = [
    Quantity("size", "cm", control="size of others"),
    Quantity("size of others", "cm", better="lower"),
]


def measured() -> Measurements:
    values = []
    for sample in range(3):
        values += [
            Value("size", "contribution", 5, 4.0, sample, "cat"),
            Value("size", control_name("contribution", 0), 5, 1.0, sample, "cat"),
            *(Value("size", control_name("contribution", n, "matched"), 5, 3.0 + n, sample, "cat") for n in range(3)),
            Value("size", "gradient_x_activation", 5, 3.0, sample, "cat"),
            Value("size", "activation", 5, 4.0, sample, "cat"),
            Value("size of others", "contribution", 5, 2.0, sample, "cat"),
        ]
    return Measurements.of(QUANTITIES, values)


def test_the_table_has_means_and_differences() -> None:
    lines = table(measured()).splitlines()
    assert lines[2] == (
        "| size (cm) | contribution | 5 | 4.000 [4.000, 4.000] | 1.000 [1.000, 1.000] | 4.000 [3.050, 4.950] | 2 of 3 | "
        "0.000 [0.000, 0.000] | 2.000 [2.000, 2.000] |  |"
    )
    assert lines[-1] == "| size of others (cm) | contribution | 5 | 2.000 [2.000, 2.000] |  |  |  |  |  |  |"
    assert not any(f"{kind}, like" in line for line in lines for kind in ("random", "matched"))


def test_what_differs_from_another_method_is_bold() -> None:
    assert versus(measured()).splitlines()[2:] == [
        "| size | higher | **1.000 [1.000, 1.000]** | 0.000 [0.000, 0.000] |"
    ]
