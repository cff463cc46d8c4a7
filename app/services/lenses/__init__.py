"""Services behind the lenses of the Explore tab: one linear looked at closely."""

from dataclasses import dataclass

from app.services.lenses.bit_planes import BitPlaneService
from app.services.lenses.level_sets import LevelSetService


@dataclass(frozen=True)
class LensServices:
    """One service per lens."""

    bit_planes: BitPlaneService
    level_sets: LevelSetService
