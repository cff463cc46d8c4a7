"""Imports: check a file that another program quantized, and queue the job that makes a run of it."""

import shutil

from abq_core.imports.spec import ImportSpec
from abq_core.text.sources import BUILTIN_TEXT, check_source
from app import formatting
from app.clock import now
from app.services.errors import ServiceError
from app.services.local_path import local_path
from app.services.sources import Sources
from app.services.stored import Storage
from app.settings import Settings
from storage.jobs import Job

_DECODED_BYTES = 4  # of a parameter on disk, at most


class ImportService:
    """Queues imports. The jobs are those of `JobService`, which lists, cancels and resumes them."""

    def __init__(self, settings: Settings, storage: Storage, sources: Sources) -> None:
        self._settings, self._jobs, self._sources = settings, storage.jobs, sources

    def submit(
        self,
        source: str,
        base: str,
        data: str = BUILTIN_TEXT,
        account: str | None = None,
        max_queued: int | None = None,
    ) -> Job:
        """Check that the import can run, then queue it. Raises what `check` raises, and QueueFullError.

        account, max_queued: as for `JobService.submit`.
        """
        spec = self.check(source, base, data, account)
        return self._jobs.submit(spec.to_dict(), now(), kind="import", account=account, max_queued=max_queued)

    def check(self, source: str, base: str, data: str = BUILTIN_TEXT, account: str | None = None) -> ImportSpec:
        """Check headers, configs, sizes and the text; weights are not read.

        source: a .gguf file, a folder or a hub id, which is downloaded.  base: the model that it was made from.
        data: the text on which its perplexity is measured. Raises ModelError, DataError, ServiceError.
        """
        from abq_core.imports.base_layout import base_layout
        from abq_core.imports.opening import open_import, pinned_import

        self._sources.check_text(data, account)
        check_source(data)
        base = self._sources.stored_model(base.strip())
        source = pinned_import(local_path(self._sources.imported(source.strip())))
        layout = base_layout(base)
        spec = ImportSpec.of(layout, source, open_import(source, base, layout), local_path(data))
        needed, free = _DECODED_BYTES * layout.parameters, shutil.disk_usage(self._settings.data_dir).free
        if needed > free:
            raise ServiceError(
                f"The decoded model takes up to {formatting.size(needed)} on the disk of {self._settings.data_dir}, "
                f"and {formatting.size(free)} are free. Free some space, or set ABQ_DATA_DIR to another disk."
            )
        return spec
