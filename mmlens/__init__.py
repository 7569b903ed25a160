"""mmlens: mechanistic interpretability for models that see.

    import mmlens as mm

    model = mm.HookedMultimodal.from_pretrained("path/to/checkpoint")      # or mm.lab.load(): small, embedded, offline
    batch = model.prepare("what is this?", images="photo.png")
    logits, cache = model.run_with_cache(batch)

Find out, each beside a control:

    neurons of a word        find_neurons, random_units                    modules: neurons, controls, properties
    where an answer is from  patch, attribute, knock_out, find_circuit     patching, metrics, circuits, corrupt
    what is looked at, read  attention_map, rank_heads, logit_lens         lenses
    features, their graph    load_sae, train_sae, find_features,
                             attribution_graph                             features
    concepts, fine-tuning    collect, extract_concepts, concept_shift,
                             finetune                                      concepts, store, tuning
    what can be mended       steering_vector, mitigation_report            steering, edits, mitigation, decoding

Act on a run, in `with model.intervene(...)`: Ablate, Add, Clamp, KnockOut, Noise, ProjectOut, Replace, Scale, Steer.
Say where and what: positions ("image", "moon", -1, box, object), Units, Neuron, Head ("L5.u84", "vision.L0.h3").
Bring: a model (verify, register_family, families), pictures and questions (MultimodalBatch, Sample, data), scorers.
Learn: lab (a small trained model and its world), recipes (published studies), viz, errors (MMLensError, InputError).

`help(mm.patch)` says more of one, `mm.patching?` of a module; `mmlens tour` shows it at work. Names are loaded when they are
first used, so that `import mmlens` is quick.
"""

import sys

import lazy_loader

__version__ = "0.1.0"

_named, __dir__, _names = lazy_loader.attach_stub(__name__, __file__)


def __getattr__(name: str) -> object:
    if (
        name == "__all__" and sys._getframe(1).f_globals.get("__name__") != "pydoc"
    ):  # help() would print all classes whole
        return _names
    return _named(name)
