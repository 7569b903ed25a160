"""Families of models: what a declaration is made of, registering one of your own, and verifying it."""

from mmlens.declarations.family import Crossing, Encoder, Family, Language, Read, Videos, Vision
from mmlens.declarations.projector import DeepStack, Pooling, Projector
from mmlens.declarations.registry import families, register_family
from mmlens.declarations.structure import Attention, Block, Mlp, Norm, Stack
from mmlens.models.verify import PointCheck, VerifyReport, verify

__all__ = [  # noqa: RUF022
    "Attention",
    "Block",
    "Crossing",
    "DeepStack",
    "Encoder",
    "families",
    "Family",
    "Language",
    "Mlp",
    "Norm",
    "PointCheck",
    "Pooling",
    "Projector",
    "Read",
    "register_family",
    "Stack",
    "verify",
    "VerifyReport",
    "Videos",
    "Vision",
]
