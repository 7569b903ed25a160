"""The five parts of the package that a mutation run changes, and their files."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PATTERNS = {
    "hooks": ("mmlens/hooks/*.py",),
    "places": (
        "mmlens/inputs/patch_geometry/*.py",
        "mmlens/inputs/positions.py",
        "mmlens/inputs/rule_rows.py",
        "mmlens/inputs/point_rows.py",
        "mmlens/inputs/layout.py",
    ),
    "execution": ("mmlens/execution/*.py",),
    "interventions": ("mmlens/interventions/**/*.py",),
    "statistics": ("mmlens/analysis/statistics/*.py",),
}


def files_of(part: str) -> list[str]:
    """Files of a part, relative to the repository, in order."""
    paths = {path for pattern in PATTERNS[part] for path in ROOT.glob(pattern)}
    return sorted(path.relative_to(ROOT).as_posix() for path in paths if path.name != "__init__.py")
