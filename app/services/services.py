"""All services of one process, and how each gets its dependencies."""

from dataclasses import dataclass

from app.services.allocation import AllocationService
from app.services.evaluation import EvaluationService
from app.services.exchange.examples import ExampleService
from app.services.exchange.exports import ExportService
from app.services.exchange.imports import ImportService
from app.services.jobs import JobService
from app.services.lenses import LensServices
from app.services.models import ModelService
from app.services.registry import ModelRegistry
from app.services.reports import ReportService
from app.services.runs import RunService
from app.services.sources import Sources
from app.services.speed.throughput import ThroughputService
from app.services.speed.timings import TimingService
from app.services.stored import Storage
from app.services.sweeps import SweepService
from app.services.tasks import TaskService
from app.services.texts.documents import DocumentService
from app.services.texts.duels import DuelService
from app.services.texts.generation import GenerationService
from app.services.texts.text_lab import TextLab
from app.settings import Settings


@dataclass(frozen=True)
class Services:
    """The services of one process, each safe to call from several threads.

    Services name their dependencies; none depends on this class.
    """

    settings: Settings
    storage: Storage
    registry: ModelRegistry
    models: ModelService
    lenses: LensServices
    jobs: JobService
    imports: ImportService
    runs: RunService
    evaluation: EvaluationService
    tasks: TaskService
    generation: GenerationService
    documents: DocumentService
    duels: DuelService
    throughput: ThroughputService
    timings: TimingService
    allocation: AllocationService
    sweeps: SweepService
    text_lab: TextLab
    reports: ReportService
    exports: ExportService
    examples: ExampleService


def open_services(settings: Settings, sources: Sources | None = None) -> Services:
    """Create the data folder, open the database and connect the services.

    sources: the models and texts that the services may read, by default all. Raises SettingsError, DatabaseError.
    """
    sources = sources or Sources()
    storage = Storage.open(settings)
    registry = ModelRegistry(settings, storage.runs, sources=sources)
    models = ModelService(settings, storage, registry, sources)
    jobs = JobService(settings, storage, models, sources)
    tasks = TaskService(storage, registry)
    runs = RunService(settings, storage, registry, tasks)
    evaluation = EvaluationService(storage, registry, sources, runs)
    sweeps = SweepService(storage.runs, models, jobs, sources)
    return Services(
        settings=settings,
        storage=storage,
        registry=registry,
        models=models,
        lenses=LensServices.of(registry, models, storage.runs),
        jobs=jobs,
        imports=ImportService(settings, storage, sources),
        runs=runs,
        evaluation=evaluation,
        tasks=tasks,
        generation=GenerationService(registry),
        documents=DocumentService(registry, sources),
        duels=DuelService(storage),
        throughput=ThroughputService(settings, storage.measurements, registry),
        timings=TimingService(storage.measurements),
        allocation=AllocationService(settings, runs, registry, models, sources),
        sweeps=sweeps,
        text_lab=TextLab(storage, sources, sweeps, evaluation),
        reports=ReportService(runs, jobs, tasks),
        exports=ExportService(settings, storage, registry, models, runs),
        examples=ExampleService(settings, storage, registry),
    )
