"""What batches, layouts, caches and models show: pictures with the numbers of their rows, shapes and sizes, towers."""

from collections.abc import Iterator
from itertools import groupby

import torch
from PIL import Image, ImageDraw, ImageFont

from mmlens.core.names import PARTS
from mmlens.hooks.cache import ActivationCache
from mmlens.inputs.batch import MultimodalBatch
from mmlens.inputs.layout import TokenLayout
from mmlens.inputs.patch_geometry import Places
from mmlens.models.hooked import HookedMultimodal
from mmlens.viz.page.pack import Pack, PackTable, Sheet
from mmlens.viz.words import counted, shown

#: Pictures that are shown with their rows, tokens and points that are listed.
_PICTURES, _TOKENS, _POINTS = 6, 200, 60
#: The longer side of a picture with numbers, in pixels; of one with many rows.
_SIDE, _LARGE, _MANY = 480, 760, 300
#: Tokens beside each other that are shown as one row of the table from so many on.
_SPAN = 3


def batch_pack(batch: MultimodalBatch, picture: Image.Image | None, run: bool = False) -> Pack:
    """The pictures with the numbers of their rows in the language model, the tokens, and the tensors."""
    pack = _layout(batch.layout, batch)
    tensors = tuple((name, str(list(t.shape)), str(t.dtype).removeprefix("torch.")) for name, t in batch.inputs.items())
    changes = [
        f"Picture {number} of sample {sample} was {', '.join(words)}."
        for (sample, number), words in batch.picture_changes.items()
    ]
    return Pack(
        f"Batch of {counted(batch.size, 'sample')}: {pack.headline}",
        pack.caption,
        labels=pack.labels,
        sheets=pack.sheets,
        tables=(*pack.tables, PackTable("Tensors", ("name", "shape", "type"), tensors)),
        notes=(*changes, *(f"Carries {intervention!r}." for intervention in batch.carried), *pack.notes),
    )


def layout_pack(layout: TokenLayout, picture: Image.Image | None, run: bool = False) -> Pack:
    """The numbers of rows where they are in the picture, and how many there are."""
    return _layout(layout, None)


def _layout(layout: TokenLayout, batch: MultimodalBatch | None) -> Pack:
    images = [int(count) for count in layout.is_image.sum(1)]
    texts = [int(count) for count in (layout.is_token & ~layout.is_image).sum(1)]
    headline = (
        f"{_span(images)} image tokens and {_span(texts)} text tokens a sample, {layout.is_token.shape[1]} positions."
    )
    sheets, names, notes = [], [], []
    for places in layout.places:
        if "language" in places.placeless:
            notes.append(f"Rows have no place in the picture: {places.placeless['language']}.")
            continue
        for name, sheet in _sheets(places, batch):
            names.append(name)
            sheets.append(sheet)
    if len(sheets) > _PICTURES:
        notes.append(f"{_PICTURES} of {len(sheets)} pictures and views are shown.")
    numbers = "Numbers are rows of the language model's sequence, counted from 0 in each sample, padding included."
    return Pack(
        headline,
        numbers if sheets else "",
        labels={"item": names[:_PICTURES]} if sheets else {},
        sheets=tuple(sheets[:_PICTURES]),
        tables=(_tokens(layout, batch),),
        notes=tuple(dict.fromkeys(notes)),
    )


def _span(counts: list[int]) -> str:
    return str(counts[0]) if len(set(counts)) == 1 else f"{min(counts)} to {max(counts)}"


def _sheets(places: Places, batch: MultimodalBatch | None) -> Iterator[tuple[str, Sheet]]:
    """A sheet for each view of a picture, or of a frame of a video."""
    name = f"sample {places.sample}, picture {places.image}"
    picture = Image.new("RGB", places.size[::-1], (150, 150, 150))
    if batch is not None and places.frames and batch.videos:
        name += f", frames {', '.join(map(str, places.frames))}"
        picture = batch.videos[places.sample][places.image][places.frames[0]]
    elif batch is not None and not places.frames and batch.images:
        picture = batch.images[places.sample][places.image]
    views = places.views("language")
    for number, grid in enumerate(views):
        view = f", view {number}" if len(views) > 1 else ""
        caption = f"{grid.shape[0]} x {grid.shape[1]} rows of a picture of {places.size[0]} x {places.size[1]} pixels"
        yield name + view, Sheet(_numbered(picture, grid.boxes, grid.rows), None, caption)


def _numbered(picture: Image.Image, boxes: torch.Tensor, rows: torch.Tensor) -> Image.Image:
    """A picture with the outline and the number of each of its rows."""
    factor = (_SIDE if len(rows) < _MANY else _LARGE) / max(picture.size)
    large = picture.convert("RGB").resize([round(side * factor) for side in picture.size], Image.Resampling.BICUBIC)
    pen = ImageDraw.Draw(large, "RGBA")
    for (left, top, right, bottom), row in zip((boxes * factor).tolist(), rows.tolist(), strict=True):
        pen.rectangle((left, top, right, bottom), outline=(255, 255, 255, 110))
        size = min(28.0, 0.5 * (bottom - top), 0.9 * (right - left) / (0.6 * len(str(row))))
        if size >= 7:
            middle = ((left + right) / 2, (top + bottom) / 2)
            style = {"font": ImageFont.load_default(size), "anchor": "mm", "stroke_width": max(1, round(size / 10))}
            pen.text(middle, str(row), fill=(255, 255, 255, 255), stroke_fill=(0, 0, 0, 190), **style)
    return large


def _tokens(layout: TokenLayout, batch: MultimodalBatch | None) -> PackTable:
    """The first sample's positions: what is read at each, picture rows and padding together."""
    kinds = [
        "picture" if image else "text" if token else "padding"
        for image, token in zip(layout.is_image[0].tolist(), layout.is_token[0].tolist(), strict=True)
    ]
    ids = (
        None
        if batch is None or "input_ids" not in batch.inputs or batch.tokenizer is None
        else batch["input_ids"][0].tolist()
    )
    rows: list[tuple[object, ...]] = []
    for kind, group in groupby(range(len(kinds)), kinds.__getitem__):
        positions = list(group)
        if kind == "text" and ids is not None and len(ids) == len(kinds):
            said = batch.tokenizer.convert_ids_to_tokens([ids[position] for position in positions])  # type: ignore[union-attr]
            rows += [
                (str(position), kind, shown(str(token), 24)) for position, token in zip(positions, said, strict=True)
            ]
        else:
            rows.append((f"{positions[0]} to {positions[-1]}" if len(positions) > 1 else str(positions[0]), kind, ""))
    title = "Positions" if len(layout.is_token) == 1 else f"Positions of the first of {len(layout.is_token)} samples"
    cut = f", the first {_TOKENS} of {len(rows)}" if len(rows) > _TOKENS else ""
    return PackTable(title + cut, ("position", "what", "token"), tuple(rows[:_TOKENS]))


def cache_pack(cache: ActivationCache, picture: Image.Image | None, run: bool = False) -> Pack:
    """Names, shapes and sizes."""
    sizes = {name: tensor.element_size() * tensor.numel() / 2**20 for name, tensor in cache.cache_dict.items()}
    rows = tuple(
        (
            name,
            f"[{' '.join(map(str, t.shape))}]",
            cache.axes.get(name, ""),
            str(t.dtype).removeprefix("torch."),
            round(sizes[name], 3),
        )
        for name, t in list(cache.cache_dict.items())[:_POINTS]
    )
    where = {str(tensor.device) for tensor in cache.cache_dict.values()}
    kept = f", at {cache.positions}" if cache.positions else ""
    left = len(sizes) - len(rows)
    devices = ", ".join(sorted(where)) or "no device"
    return Pack(
        f"Activations of {counted(len(sizes), 'point')}{kept}: {sum(sizes.values()):,.2f} MB on {devices}.",
        tables=(PackTable("Points", ("name", "shape", "axes", "type", "MB"), rows),),
        notes=(f"{left} more points: list(cache).",) if left else (),
    )


def model_pack(model: HookedMultimodal, picture: Image.Image | None, run: bool = False) -> Pack:
    """Its towers, points, types and devices, and what is hooked."""
    weights = list(model.hf_model.parameters())
    types = ", ".join(sorted({str(weight.dtype).removeprefix("torch.") for weight in weights}))
    devices = ", ".join(sorted({str(weight.device) for weight in weights}))
    hooked = [name for name, point in model.hook_dict.items() if point.fwd_hooks or point.bwd_hooks]
    rows = []
    for part in PARTS:
        names = [name for name in model.graph.names if model.graph[name].part == part]
        if names:
            cfg = model.part(part).cfg
            rows.append(
                (part, cfg.n_layers, cfg.d_model, cfg.n_heads, cfg.d_mlp, len(names), len(set(hooked) & set(names)))
            )
    found = ", not declared: discovered and verified" if model.discovered else ""
    count = sum(weight.numel() for weight in weights)
    return Pack(
        f"{type(model.hf_model).__name__} (family {model.family.name}{found}): {_large(count)} weights, {types} on {devices}.",
        f"{counted(len(model.hook_dict), 'hook point')}; {f'hooked now: {len(hooked)}' if hooked else 'none is hooked now'}.",
        tables=(
            PackTable("Towers", ("part", "layers", "d model", "heads", "d mlp", "points", "hooked"), tuple(rows)),
            *((PackTable("Hooked points", ("name",), tuple((name,) for name in hooked[:_POINTS])),) if hooked else ()),
        ),
        notes=("Its points: model.graph, drawn by model.graph.draw().",),
    )


def _large(count: int) -> str:
    for size, name in ((1e9, "billion"), (1e6, "million")):
        if count >= size:
            return f"{count / size:.1f} {name}"
    return f"{count:,}"
