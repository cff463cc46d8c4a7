"""Services behind the lenses: one linear looked at closely, runs at fewer bits, smaller KV caches."""

from dataclasses import dataclass

from app.services.lenses.bit_planes import BitPlaneService
from app.services.lenses.inputs import LensInputs
from app.services.lenses.kv_cache import KvCacheService
from app.services.lenses.level_sets import LevelSetService
from app.services.lenses.plane_reads import PlaneReadService
from app.services.lenses.transform import TransformService
from app.services.models import ModelService
from app.services.registry import ModelRegistry
from storage.runs import Runs


@dataclass(frozen=True)
class LensServices:
    """One service per lens. inputs: the tokens that the lenses show."""

    inputs: LensInputs
    bit_planes: BitPlaneService
    level_sets: LevelSetService
    transform: TransformService
    plane_reads: PlaneReadService
    kv_cache: KvCacheService

    @classmethod
    def of(cls, registry: ModelRegistry, models: ModelService, runs: Runs) -> "LensServices":
        """The services of these models and runs."""
        inputs = LensInputs(registry)
        return cls(
            inputs,
            BitPlaneService(registry, models, inputs),
            LevelSetService(registry, models),
            TransformService(registry, models, inputs),
            PlaneReadService(registry, models, runs),
            KvCacheService(registry, models, runs),
        )
