"""One import job from claim to end: decode the parameters part by part, diagnose, evaluate."""

import time

from abq_core.analysis.diagnostics import DIAGNOSED_SEGMENTS
from abq_core.analysis.import_frames import diagnose_import
from abq_core.events import BlockDone, Event, Started
from abq_core.imports.base_layout import BaseLayout
from abq_core.imports.blocks import read_block, read_outside
from abq_core.imports.opening import open_import
from abq_core.imports.source import ImportSource
from abq_core.imports.spec import ImportSpec
from abq_core.text.segments import SHORTEST_EVALUATION
from app.jobs.claimed_job import ClaimedJob, EvaluationPlan, OnProgress
from app.jobs.lease import JobLease
from app.jobs.progress import Progress
from app.runs.provenance import import_provenance, what_changed
from app.services import Services
from app.services.errors import ServiceError


class ImportJob(ClaimedJob):
    """The work of one claimed import: parts 0 to n - 1 are blocks, part n holds the parameters outside them."""

    def __init__(
        self,
        lease: JobLease,
        services: Services,
        plan: EvaluationPlan | None = None,
        on_progress: OnProgress | None = None,
    ) -> None:
        super().__init__(lease, services, Progress(learns=False, task="import"), plan, on_progress)
        self._spec = ImportSpec.from_dict(self._job.spec)

    def run(self) -> None:
        """Import, diagnose, evaluate and finish the job."""
        self._log(f"Started: {self._spec.command_line()}")
        self._store_progress(force=True)
        base = self._registry.full(self._spec.model)
        self._lease.check()
        layout = BaseLayout.of(self._spec.model, base.model)
        source = open_import(self._spec.source, self._spec.model, layout)
        self._write_spec(source)
        self._evaluation_text(base, self._spec.data, *SHORTEST_EVALUATION)  # a text that is too short ends here
        self._decode(source, layout)
        self._write_diagnostics(
            base,
            self._spec.data,
            (DIAGNOSED_SEGMENTS, base.context),
            lambda text, on_event, prefix: diagnose_import(base, self._store, text, on_event, prefix),
        )
        self._evaluate(self._spec.model, self._spec.data)
        self._finish()

    def _write_spec(self, source: ImportSource) -> None:
        """Record the files that the parts come from. Raises ServiceError if they changed since the job began."""
        content, before = import_provenance(self._spec, source), self._folder.read_spec()
        changed = what_changed(before, content) if before is not None and self._store.hashes else None
        if changed:
            raise ServiceError(f"Since this import began, {changed}. Import it again.")
        self._folder.write_spec(content)

    def _decode(self, source: ImportSource, layout: BaseLayout) -> None:
        parts = len(layout.blocks) + 1
        self._on_event(Started(parts, 0))
        for index in range(parts):
            if self._store.has(index) and self._store.load(index) is not None:
                self._on_event(BlockDone(index, 0.0, None, {}))
                continue
            started = time.perf_counter()
            part = read_block(source, layout, index) if index < parts - 1 else read_outside(source, layout)
            sha256 = self._store.save(index, part.to_tensors())
            self._on_event(BlockDone(index, time.perf_counter() - started, sha256, {}))

    def _on_event(self, event: Event) -> None:
        self._progress.calibration_event(event)
        if isinstance(event, BlockDone):
            if event.sha256 is not None:
                self._jobs.record_block(*self._ids(), event.block, event.sha256, event.seconds, {})
            self._log(self._progress.message)
        self._store_progress(force=True)
        self._lease.check()
