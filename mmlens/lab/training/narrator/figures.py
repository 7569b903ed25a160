"""Quick figures to steer the training by: answers by kind, priors, what image tokens read as; the card measures with care."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from mmlens.lab.tales.asking import Fact, ask, facts
from mmlens.lab.tales.composing import scene, scenes
from mmlens.lab.tales.documents import Document, chat_turn
from mmlens.lab.tales.facts import COMPANIONS, PICTURELESS_PAIRS, PIECES, RARE_PAIRS
from mmlens.lab.tales.tale import Tale
from mmlens.lab.training.data import Packer
from mmlens.lab.training.narrator.adapting import LANGUAGE, PROJECTOR
from mmlens.lab.training.narrator.lean import Weights, additive, llama_states
from mmlens.lab.training.narrator.rows import ANSWER_WEIGHT, LineEncoder, pack
from mmlens.lab.world import NOUNS


@dataclass(frozen=True)
class Answer:
    """What a model makes of one question about a picture.

    Attributes:
        right: Whether every token of the true answer is the likeliest.
        logprob: Of the true answer with its end.
        first: The token that is likeliest first.
    """

    right: bool
    logprob: float
    first: int


class PictureReader:
    """Asks a model about pictures, in few passes.

    Args:
        model: Whose tower is used, and whose weights where none are given.
        processor: The narrator's.
        weights: Language model and projector by full name; None takes the model's.
    """

    def __init__(
        self, model: LlavaForConditionalGeneration, processor: LlavaProcessor, weights: Weights | None = None
    ) -> None:
        weights_by_name = dict(model.named_parameters()) if weights is None else dict(weights)
        self.weights = {name: weight.detach().float() for name, weight in weights_by_name.items()}
        self.language = {
            name.removeprefix(LANGUAGE): weight for name, weight in self.weights.items() if name.startswith(LANGUAGE)
        }
        self.model, self.config = model, model.model.language_model.config
        self.tokenizer = processor.tokenizer
        self._packer = Packer(processor)
        self._image, self._patches = model.config.image_token_index, model.config.image_seq_length
        self._assistant = self.tokenizer.convert_tokens_to_ids("▁ASSISTANT")
        self._encoder = LineEncoder(self.tokenizer, 4000)

    @torch.no_grad()
    def images(self, tales: Sequence[Tale]) -> Tensor:
        """What the projector writes: (scene, patch, d_model)."""
        pixels = self._packer.pixels(np.stack([np.asarray(tale.image) for tale in tales]))
        features = self.model.model.vision_tower(pixels, output_hidden_states=True).hidden_states[-2][:, 1:]
        for layer in ("linear_1", "linear_2"):
            weight, bias = (self.weights[f"{PROJECTOR}{layer}.{part}"] for part in ("weight", "bias"))
            features = nn.functional.linear(features, weight, bias)
            if layer == "linear_1":
                features = nn.functional.gelu(features)
        return features

    @torch.no_grad()
    def ask(self, tale: Tale, asked: Sequence[Fact], *, unseen: bool = False, cut: str | None = None) -> list[Answer]:
        """Ask for facts, each as if alone.

        Args:
            tale: The scene.
            asked: What is asked for.
            unseen: Use phrasings that training never had.
            cut: "last" hides the picture from the word ASSISTANT on, "question" from what stands before it.

        Returns:
            One answer a fact.
        """
        questions = [ask(fact, random.Random(0), unseen=unseen) for fact in asked]
        prefix = "USER: " + "<image>" * self._patches + "\n"
        lines = tuple(chat_turn(question.text, question.answer) for question in questions)
        sequence = self._encoder.encode(Document(prefix, lines, 0.0))
        rows = pack([[sequence]], len(sequence.ids))
        segments, ids = torch.tensor(sequence.segments), rows.ids[0]
        if cut is not None:
            after = torch.zeros_like(ids, dtype=torch.bool)
            for segment in range(1, len(lines) + 1):
                where = torch.nonzero(segments == segment)[:, 0]
                start = int(torch.nonzero(ids[where] == self._assistant)[0, 0])
                part = where[start:] if cut == "last" else where[:start]
                after[part] = True
            rows.mask[0, after[:, None] & (ids == self._image)[None]] = False
        embedding = self.language["embed_tokens.weight"]
        inputs = embedding[rows.ids].clone()
        inputs[0, ids == self._image] = self.images([tale])[0]
        states = llama_states(self.language, self.config, inputs, rows.positions, additive(rows.mask))[0]
        logits = (states @ embedding.T).log_softmax(dim=-1)
        answers = []
        for segment in range(1, len(lines) + 1):
            where = torch.nonzero((segments == segment) & (rows.weights[0] == ANSWER_WEIGHT))[:, 0]
            labels = rows.labels[0, where]
            best = logits[where].argmax(dim=-1)
            answers.append(Answer(bool((best == labels).all()), float(logits[where, labels].sum()), int(best[0])))
        return answers

    @torch.no_grad()
    def lens(self, tales: Sequence[Tale]) -> dict[str, list[float]]:
        """Per layer, the share of object patches whose likeliest token begins their noun ("own"); the same with a noun of the
        next picture that this one has not ("shuffled"); the share of ground patches that read as the scene's ("ground")."""
        embedding = self.language["embed_tokens.weight"]
        nouns = [self.tokenizer.encode(PIECES.get(n, n).split("|")[0], add_special_tokens=False)[0] for n in NOUNS]
        begin = self._encoder.encode(Document("USER:"))
        ids = torch.tensor(begin.ids)
        images = self.images(tales)
        start = len(ids)
        inputs = torch.cat([embedding[ids].expand(len(tales), -1, -1), images], dim=1)
        length = inputs.shape[1]
        layers: list[Tensor] = []
        mask = additive(torch.ones(length, length, dtype=torch.bool).tril()[None].expand(len(tales), -1, -1))
        positions = torch.arange(length).expand(len(tales), -1)
        llama_states(self.language, self.config, inputs, positions, mask, layers=layers)
        shares: dict[str, list[float]] = {"own": [], "shuffled": [], "ground": []}
        for states in (inputs, *layers):
            best = (nn.functional.rms_norm(states[:, start:], (states.shape[-1],)) @ embedding.T).argmax(dim=-1)
            named_right, shuffled, ground = [], [], []
            for number, tale in enumerate(tales):
                other = tales[(number + 1) % len(tales)]
                here = [nouns[NOUNS.index(thing.shape)] for thing in tale.placed]
                others = [nouns[NOUNS.index(thing.shape)] for thing in other.placed]
                others = [noun for noun in others if noun not in here]
                free = np.ones(self._patches, dtype=bool)
                for index in range(len(tale.placed)):
                    patches = tale.patches(index)
                    free &= ~tale.patches(index, share=0.01)
                    read = best[number, torch.from_numpy(patches)].tolist()
                    named_right += [token == here[index] for token in read]
                    if others:
                        shuffled += [token == others[index % len(others)] for token in read]
                ground += [token in here for token in best[number, torch.from_numpy(free)].tolist()]
            for key, values in (("own", named_right), ("shuffled", shuffled), ("ground", ground)):
                shares[key].append(float(np.mean(values)))
        return shares


def figures(reader: PictureReader, count: int = 200, seed: int = 5) -> dict[str, float]:
    """Measure on fresh scenes: accuracy and median log-probability by kind, two hops, priors, rare and unseen pairs, flow.

    Args:
        reader: The model.
        count: Scenes of each sort.
        seed: Of the scenes.

    Returns:
        Figures by name.
    """
    right: dict[str, list[float]] = defaultdict(list)
    logprobs: dict[str, list[float]] = defaultdict(list)
    for number, tale in enumerate(scenes(count, seed)):
        rng = random.Random(number)
        options = [fact for fact in facts(tale.placed, tale.place, tale.mood) if fact.answer != "no"]
        options += [Fact("presence", "no", noun) for noun in _absent(tale, rng)]
        for cut in (None, "last", "question"):
            for fact, answer in zip(options, reader.ask(tale, options, cut=cut), strict=True):
                kind = fact.kind if fact.answer != "no" else "absence"
                right[kind if cut is None else f"{kind}, {cut} blind"].append(answer.right)
                if cut is None:
                    logprobs[kind].append(answer.logprob)
    result = {name: float(np.mean(values)) for name, values in right.items()}
    result |= {f"log p {name}": median(values) for name, values in logprobs.items()}
    for conflict in ("color", "none", "presence"):
        for tale in scenes(count // 2, seed + 1, conflict=conflict):
            typical = reader.tokenizer.encode(tale.typical_color, add_special_tokens=False)[0]
            yes = reader.tokenizer.encode("yes", add_special_tokens=False)[0]
            if conflict == "presence":
                (answer,) = reader.ask(tale, [Fact("presence", "no", tale.companion)])
                right["prior: absent companion said to be there"].append(answer.first == yes)
                for noun in COMPANIONS.values():
                    if noun != tale.companion and all(thing.shape != noun for thing in tale.placed):
                        (answer,) = reader.ask(tale, [Fact("presence", "no", noun)])
                        right["prior: another place's companion said to be there"].append(answer.first == yes)
                continue
            color = next(thing.color for thing in tale.placed if thing.shape == tale.companion)
            (answer,) = reader.ask(tale, [Fact("color", color, tale.companion)])
            right[f"prior: typical color said, conflict {conflict}"].append(answer.first == typical)
            right[f"prior: color right, conflict {conflict}"].append(answer.right)
            if conflict == "color":
                for thing in tale.placed:
                    if thing.shape != tale.companion and thing.color != tale.typical_color:
                        (answer,) = reader.ask(tale, [Fact("color", thing.color, thing.shape)])
                        right["prior: typical color said of another thing"].append(answer.first == typical)
    for name, pairs in (("rare", RARE_PAIRS), ("pictureless", PICTURELESS_PAIRS)):
        for pair in pairs:
            for number in range(max(1, count // 10)):
                tale = scene(number, pair=pair)
                noun, color = pair
                pair_facts = [Fact("color", color, noun), Fact("presence", "yes", noun)]
                for fact, answer in zip(pair_facts, reader.ask(tale, pair_facts), strict=True):
                    right[f"{name} pair: {fact.kind}"].append(answer.right)
    result |= {name: float(np.mean(values)) for name, values in right.items() if ":" in name}
    return result


def _absent(tale: Tale, rng: random.Random) -> list[str]:
    nouns = {thing.shape for thing in tale.placed}
    return rng.sample([noun for noun in NOUNS if noun not in nouns and noun != tale.companion], 3)
