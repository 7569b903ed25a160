"""Models of a user's own, outside transformers: plain modules with their own attention code, tiny and random.

`OwlLike` has the structure of mPLUG-Owl2 (a visual abstractor with learnable queries; norms, keys and values of the
decoder differ for image and text), `MolmoLike` that of Molmo-7B (two vision layers side by side, attention pooling of
2 x 2 patches, features added to the embeddings, fused projections).

Sources of the structures: Ye et al., mPLUG-Owl2, 2023 (https://arxiv.org/abs/2311.04257), section 3; Deitke et al.,
Molmo and PixMo, 2024 (https://arxiv.org/abs/2409.17146), section 2.
"""

from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from mmlens.declarations.family import Family, Language, Vision
from mmlens.declarations.projector import Projector
from mmlens.declarations.structure import Attention, Block, Mlp, Norm, Stack
from mmlens.inputs.patch_geometry import Places, RowGrid, boxes_of, cells_of, owners_of

IMAGE_TOKEN, VOCAB, SIDE, PATCH = 3, 20, 32, 8


def attend(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, heads: int, *, causal: bool = False) -> torch.Tensor:
    """Attention in code of its own: `[batch pos heads*d_head]` in and out."""
    split = [x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (q, k, v)]
    return F.scaled_dot_product_attention(*split, is_causal=causal).transpose(1, 2).flatten(-2)


class VisionBlock(nn.Module):
    """Pre-norm, fused queries, keys and values."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.fc1, self.act, self.fc2 = nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(self.norm1(x)).chunk(3, -1)
        x = x + self.proj(attend(q, k, v, self.heads))
        return x + self.fc2(self.act(self.fc1(self.norm2(x))))


VISION_BLOCK = Block(
    attn=Attention(kernel=None, branch="proj", qkv="qkv", o="proj"),
    mlp=Mlp(down="fc2", up="fc1", act="act", branch="fc2"),
    ln1=Norm("norm1", centred=True),
    ln2=Norm("norm2", centred=True),
)


class Tower(nn.Module):
    """A vision transformer without a class row."""

    def __init__(self, width: int, heads: int, depth: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(3, width, PATCH, PATCH)
        self.positions = nn.Parameter(torch.zeros((SIDE // PATCH) ** 2, width))
        self.blocks = nn.ModuleList(VisionBlock(width, heads) for _ in range(depth))

    def forward(self, pixels: torch.Tensor) -> list[torch.Tensor]:
        x = self.patches(pixels).flatten(2).transpose(1, 2) + self.positions
        return [x := block(x) for block in self.blocks]


class Swiglu(nn.Module):
    """A gated MLP."""

    def __init__(self, width: int, hidden: int, out: int | None = None) -> None:
        super().__init__()
        self.gate, self.up = nn.Linear(width, hidden, bias=False), nn.Linear(width, hidden, bias=False)
        self.act, self.down = nn.SiLU(), nn.Linear(hidden, out or width, bias=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.down(self.act(self.gate(x)) * self.up(x))


SWIGLU = Mlp(down="mlp.down", up="mlp.up", gate="mlp.gate", act="mlp.act", branch="mlp")


class PerModality(nn.Module):
    """Two modules, one for text rows and one for image rows."""

    def __init__(self, text: nn.Module, image: nn.Module) -> None:
        super().__init__()
        self.text, self.image = text, image
        self.eps = getattr(text, "eps", None)

    def forward(self, x: torch.Tensor, is_image: torch.Tensor) -> torch.Tensor:
        return torch.where(is_image[..., None], self.image(x), self.text(x))


class OwlAttention(nn.Module):
    """Shared queries; keys and values differ by modality."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q, self.o = nn.Linear(width, width, bias=False), nn.Linear(width, width, bias=False)
        self.k, self.v = (PerModality(nn.Linear(width, width), nn.Linear(width, width)) for _ in range(2))

    def forward(self, x: torch.Tensor, is_image: torch.Tensor) -> torch.Tensor:
        return self.o(attend(self.q(x), self.k(x, is_image), self.v(x, is_image), self.heads, causal=True))


class OwlBlock(nn.Module):
    """A decoder block with modality-adaptive norms."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        norms = (PerModality(nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)) for _ in range(2))
        self.norm1, self.norm2 = norms
        self.attn, self.mlp = OwlAttention(width, heads), Swiglu(width, 40)

    def forward(self, hidden_states: torch.Tensor, is_image: torch.Tensor) -> torch.Tensor:
        x = hidden_states + self.attn(self.norm1(hidden_states, is_image), is_image)
        return x + self.mlp(self.norm2(x, is_image))


class AbstractorBlock(nn.Module):
    """Learned queries look at the picture and at themselves."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm_picture, self.norm2 = (nn.LayerNorm(width) for _ in range(3))
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.mlp = Swiglu(width, 36)

    def forward(self, queries: torch.Tensor, picture: torch.Tensor) -> torch.Tensor:
        seen = torch.cat([self.norm_picture(picture), self.norm1(queries)], dim=1)
        x = queries + self.o(attend(self.q(self.norm1(queries)), self.k(seen), self.v(seen), self.heads))
        return x + self.mlp(self.norm2(x))


class Abstractor(nn.Module):
    """Pictures to a fixed number of rows."""

    def __init__(self, width: int, heads: int, queries: int, out: int) -> None:
        super().__init__()
        self.queries = nn.Parameter(torch.zeros(1, queries, width))
        self.blocks = nn.ModuleList(AbstractorBlock(width, heads) for _ in range(2))
        self.out = nn.Linear(width, out)

    def forward(self, picture: torch.Tensor) -> torch.Tensor:
        x = self.queries.expand(len(picture), -1, -1)
        for block in self.blocks:
            x = block(x, picture)
        return self.out(x)


class OwnModel(nn.Module):
    """What both have in common: pictures, text, blocks, logits. `adds` says whether features join the embeddings by a sum."""

    adds: bool

    def __init__(self, width: int, block: Any, heads: int) -> None:
        super().__init__()
        self.config = SimpleNamespace(
            image_token_id=IMAGE_TOKEN, hidden_size=width, num_attention_heads=heads, vocab_size=VOCAB, queries=4
        )
        self.config.get_text_config = lambda: self.config
        self.embed, self.place = nn.Embedding(VOCAB, width), nn.Embedding(64, width)
        self.blocks = nn.ModuleList(block(width, heads) for _ in range(3))
        self.norm, self.head = nn.RMSNorm(width, eps=1e-6), nn.Linear(width, VOCAB, bias=False)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        """The picture's rows, as wide as the stream."""
        raise NotImplementedError

    def forward(self, input_ids: torch.Tensor, pixel_values: torch.Tensor | None = None, **options: Any) -> Any:
        is_image = input_ids == IMAGE_TOKEN
        x = self.embed(input_ids)
        if pixel_values is not None:
            features = self.features(pixel_values).flatten(0, 1)
            x = x.masked_scatter(is_image[..., None], x[is_image] + features if self.adds else features)
        x = x + self.place.weight[: input_ids.shape[1]]
        for block in self.blocks:
            x = block(x, is_image)
        return SimpleNamespace(logits=self.head(self.norm(x)))


class OwlLike(OwnModel):
    """The structure of mPLUG-Owl2."""

    adds = False

    def __init__(self) -> None:
        super().__init__(24, OwlBlock, 4)
        self.tower, self.abstractor = Tower(20, 2, 2), Abstractor(20, 2, 4, 24)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        return self.abstractor(self.tower(pixels)[-1])


def _no_place(config: Any, tensors: dict[str, Any], sizes: Any, processor: Any) -> list[Places]:
    why = "the abstractor's queries mix all patches, so they have no place in the picture; ask for part='vision'"
    cells = cells_of(SIDE // PATCH, SIDE // PATCH)
    shape = (SIDE // PATCH, SIDE // PATCH)
    found = []
    for number, (sample, image, _) in enumerate(owners_of(tensors, IMAGE_TOKEN, [4] * len(tensors["pixel_values"]))):
        grid = RowGrid(number, torch.arange(len(cells)), boxes_of(cells, PATCH), cells, shape)
        found.append(Places(sample, image, (SIDE, SIDE), {"vision": grid}, {"projector": why, "language": why}))
    return found


OWL = Family(
    name="owl_like",
    classes=("OwlLike",),
    vision=Vision(Stack("tower.blocks", VISION_BLOCK, config=lambda c: c, heads=lambda c: 2), read=lambda c: [1]),
    projector=Projector(
        receives=("abstractor", "picture"),
        returns="abstractor",
        stack=Stack(
            "abstractor.blocks",
            Block(
                cross=Attention(kernel=None, branch="o", q="q", k="k", v="v", o="o"),
                mlp=SWIGLU,
                ln1=Norm("norm1", centred=True),
                ln2=Norm("norm2", centred=True),
            ),
            config=lambda c: c,
            heads=lambda c: 2,
        ),
        queries=True,
        receives_rows="vision",
    ),
    language=Language(
        stack=Stack(
            "blocks",
            Block(
                attn=Attention(kernel=None, branch="attn", q="attn.q", o="attn.o"),
                mlp=SWIGLU,
                ln1=Norm("norm1"),
                ln2=Norm("norm2"),
            ),
            config=lambda c: c,
        ),
        embed="embed",
        norm=Norm("norm"),
        head="head",
    ),
    places=_no_place,
)


class MolmoBlock(nn.Module):
    """Fused queries, keys and values with grouped heads; fused gate and up."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads, self.grouped = heads, width // 2
        self.attn_norm, self.ff_norm = nn.RMSNorm(width, eps=1e-6), nn.RMSNorm(width, eps=1e-6)
        self.att_proj, self.attn_out = nn.Linear(width, 2 * width), nn.Linear(width, width, bias=False)
        self.ff_proj, self.ff_out = nn.Linear(width, 80, bias=False), nn.Linear(40, width, bias=False)
        self.act = nn.SiLU()

    def forward(self, x: torch.Tensor, is_image: torch.Tensor) -> torch.Tensor:
        q, k, v = self.att_proj(self.attn_norm(x)).split([x.shape[-1], self.grouped, self.grouped], -1)
        k, v = (t.unflatten(-1, (self.heads // 2, -1)).repeat_interleave(2, -2).flatten(-2) for t in (k, v))
        x = x + self.attn_out(attend(q, k, v, self.heads, causal=True))
        up, gate = self.ff_proj(self.ff_norm(x)).chunk(2, -1)
        return x + self.ff_out(self.act(gate) * up)


class Pooling(nn.Module):
    """Attention pooling: the mean of 2 x 2 patches looks at the four of them; then a gated MLP."""

    def __init__(self, width: int, out: int) -> None:
        super().__init__()
        self.q, self.k, self.v, self.o = (nn.Linear(width, width) for _ in range(4))
        self.mlp = Swiglu(width, 30, out)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        side = SIDE // PATCH
        x = features.unflatten(1, (side // 2, 2, side // 2, 2)).transpose(2, 3).flatten(3, 4).flatten(1, 2)
        pooled = attend(self.q(x.mean(2)).flatten(0, 1)[:, None], self.k(x).flatten(0, 1), self.v(x).flatten(0, 1), 2)
        return self.mlp(self.o(pooled[:, 0]).unflatten(0, x.shape[:2]))


class MolmoLike(OwnModel):
    """The structure of Molmo-7B."""

    adds = True

    def __init__(self) -> None:
        super().__init__(24, MolmoBlock, 4)
        self.tower, self.pooling = Tower(16, 2, 3), Pooling(32, 24)

    def features(self, pixels: torch.Tensor) -> torch.Tensor:
        states = self.tower(pixels)
        return self.pooling(torch.cat([states[1], states[0]], dim=-1))


def _pooled(config: Any, tensors: dict[str, Any], sizes: Any, processor: Any) -> list[Places]:
    side = SIDE // PATCH
    patches, cells = cells_of(side, side), cells_of(side // 2, side // 2)
    boxes = boxes_of(cells, 2 * PATCH)
    found = []
    owners = owners_of(tensors, IMAGE_TOKEN, [len(cells)] * len(tensors["pixel_values"]))
    for number, (sample, image, positions) in enumerate(owners):
        vision = RowGrid(number, torch.arange(len(patches)), boxes_of(patches, PATCH), patches, (side, side))
        pooled = RowGrid(number, torch.arange(len(cells)), boxes, cells, (side // 2, side // 2))
        language = RowGrid(sample, positions, boxes, cells, (side // 2, side // 2))
        grids: dict[Any, Any] = {"vision": vision, "projector": pooled, "language": language}
        found.append(Places(sample, image, (SIDE, SIDE), grids, {}))
    return found


MOLMO = Family(
    name="molmo_like",
    classes=("MolmoLike",),
    vision=Vision(Stack("tower.blocks", VISION_BLOCK, config=lambda c: c, heads=lambda c: 2), read=lambda c: [1, 0]),
    projector=Projector(
        receives=("pooling", "features"),
        returns="pooling",
        mlp=Mlp(down="pooling.mlp.down", up="pooling.mlp.up", gate="pooling.mlp.gate", act="pooling.mlp.act"),
        receives_rows="vision",
    ),
    language=Language(
        stack=Stack(
            "blocks",
            Block(
                attn=Attention(kernel=None, branch="attn_out", qkv="att_proj", o="attn_out"),
                mlp=Mlp(down="ff_out", act="act", branch="ff_out"),
                ln1=Norm("attn_norm"),
                ln2=Norm("ff_norm"),
            ),
            config=lambda c: c,
        ),
        embed="embed",
        norm=Norm("norm"),
        head="head",
    ),
    places=_pooled,
)
