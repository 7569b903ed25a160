"""The colours of all pictures: told apart by readers with any colour vision, and the same for the same thing everywhere."""

from mmlens.core.names import Part

#: For series, in this order. After Okabe and Ito, "Color Universal Design" (2008), https://jfly.uni-koeln.de/color/; without
#: their yellow, too pale for a dot on white, and with a darker pink: readers without green cones take theirs for the grey.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#b3457f", "#56b4e9", "#e69f00", "#332288")
#: Baselines and random controls.
GREY = "#999999"
#: Words that explain.
NOTE = "#555555"
#: One per part of the model.
PARTS: dict[Part, str] = {"vision": "#1f7a80", "projector": "#b3702c", "language": "#5a4fa3"}
#: Colour maps, as matplotlib names them: for signed values with zero in the middle, for shares, and for maps over pictures.
DIVERGING, SEQUENTIAL, OVER_PICTURE = "RdBu_r", "viridis", "inferno"
#: The ends of `DIVERGING`, for drawings that matplotlib has no part in.
RISE, FALL = (178, 24, 43), (33, 102, 172)


def signed(value: float, largest: float) -> str:
    """A colour of a signed value for SVG: red for a rise, blue for a fall, white for zero.

    Args:
        value: what is shown.
        largest: the size at which the colour is full.

    Example:
        >>> signed(2.0, 2.0), signed(-1.0, 2.0), signed(0.0, 0.0)
        ('rgb(178,24,43)', 'rgb(144,178,214)', 'rgb(255,255,255)')
    """
    strength = min(1.0, abs(value) / largest) if largest else 0.0
    red, green, blue = (round(255 + strength * (end - 255)) for end in (RISE if value >= 0 else FALL))
    return f"rgb({red},{green},{blue})"
