"""Unit 12, the capstone: a model that nobody has told anything about."""

from mmlens.lab.course.answers import Choice, Items, Number
from mmlens.lab.course.exercise import Exercise, Slip
from mmlens.lab.course.unknown import shown_model
from mmlens.models.hooked import HookedMultimodal

_KINDS = ("a neuron writes the answer", "a direction decides", "the colour itself is the answer")


def _neurons(model: HookedMultimodal, layer: int) -> list[str]:
    """The planted neuron's name, with a layer's number; none where no neuron writes the answer."""
    neuron = shown_model(model).truth.neuron
    return [] if neuron is None else [f"L{layer}.u{neuron}"]


EXERCISES = (
    Exercise(
        "capstone.1",
        "the patch that the answer depends on, counted row by row from 0",
        Number("patch", relative=0, absolute=0),
        lambda model: shown_model(model).truth.patch,
        "patch it patch by patch, mm.positions.grid(1), between pictures that give different answers.",
        (
            Slip(
                lambda model: shown_model(model).truth.patch + 2,
                "that is a row of the language model, where some text comes first.",
            ),
        ),
        lambda model: 0,
    ),
    Exercise(
        "capstone.2",
        'the head that brings the patch to the last position, as a head or as a name such as "L1.h0"',
        Items("head"),
        lambda model: [f"L{shown_model(model).truth.head_layer}.h{shown_model(model).truth.head}"],
        'mm.patch with units="head" at "blocks.*.attn.hook_z".',
        (
            Slip(
                lambda model: [f"L{shown_model(model).truth.layer}.h{shown_model(model).truth.head}"],
                "in that layer the answer is decided; the colour came in an earlier one.",
            ),
        ),
        lambda model: ["L2.h3"],
    ),
    Exercise(
        "capstone.3",
        "what turns the patch's colour, once it is at the last position, into the answer",
        Choice(_KINDS),
        lambda model: _KINDS[("neuron", "direction", "patch").index(shown_model(model).kind)],
        "is the answer a colour? If not: does zeroing one neuron take it away?",
        (Slip(lambda model: _KINDS[2], "is the answer the name of a colour?"),),
        lambda model: _KINDS[1],
    ),
    Exercise(
        "capstone.4",
        'the neuron that writes the answer, as a unit or as a name such as "L1.u3"; [] if none does',
        Items("neuron"),
        lambda model: _neurons(model, shown_model(model).truth.layer),
        "mm.find_neurons for the answer, then mm.Ablate: which one takes the answer with it?",
        (
            Slip(
                lambda model: _neurons(model, shown_model(model).truth.head_layer),
                "the number is right, the layer is the head's.",
            ),
        ),
        lambda model: ["L2.u1"],
    ),
)
