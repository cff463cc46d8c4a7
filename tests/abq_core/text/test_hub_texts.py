"""Hub data sets read by the real `datasets`.

From a cache, from a local server, and without either.
"""

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hub_cases import FakeHub, fill_cache, make_hub, serve_hub
from huggingface_hub import constants

from abq_core.text.errors import DataError
from abq_core.text.hub_texts import HUB_TEXTS
from abq_core.text.sources import check_source, read_text

TRY_COMMIT = "a" * 40
READ = """
import json, sys
from abq_core.text.errors import DataError
from abq_core.text.sources import read_text
for source in sys.argv[1:]:
    try:
        text = read_text(source, "calibration", 1000)
        print(json.dumps({"first": text.documents[0], "count": len(text.documents), "source": text.source}))
    except DataError as error:
        print(json.dumps({"error": str(error)}))
"""


@pytest.fixture(scope="session")
def hub_files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_hub(tmp_path_factory.mktemp("hub"))


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache for this test, in offline mode."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path / "hub"


def in_another_process(home: Path, endpoint: str, *sources: str) -> list[dict[str, object]]:
    """Read sources in a process whose huggingface_hub is configured with this endpoint."""
    environment = {**os.environ, "HF_HOME": str(home), "HF_ENDPOINT": endpoint}
    environment = {name: value for name, value in environment.items() if name not in ("HF_HUB_OFFLINE", "HF_HUB_CACHE")}
    command = [sys.executable, "-c", READ, *sources]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def test_every_hub_text_is_pinned_to_a_commit() -> None:
    for text in HUB_TEXTS.values():
        assert len(text.revision) == 40 and int(text.revision, 16)


def test_a_cached_hub_text_needs_no_network(cache: Path, hub_files: Path) -> None:
    fill_cache(hub_files, cache)
    for name, text in HUB_TEXTS.items():
        check_source(name)
        assert read_text(name, "calibration", 100).source == f"{name}@{text.revision}"
    wikitext = read_text("wikitext2", "evaluation", 1)
    assert len(wikitext.documents) == 1
    assert wikitext.documents[0].startswith("\n\n = evaluation = \n\n\n\n\n The evaluation line 0 of")
    assert "line 59 of" in wikitext.documents[0] and wikitext.revision == HUB_TEXTS["wikitext2"].revision


def test_c4_and_the_pile_are_read_only_as_far_as_requested(cache: Path, hub_files: Path) -> None:
    fill_cache(hub_files, cache)
    page = len("The calibration page 0. ") * 20
    c4 = read_text("c4", "calibration", 3 * page + 1).documents
    assert [document.split(".")[0] for document in c4] == [f"The calibration page {i}" for i in range(4)]
    pile = {split: read_text("pile", split, 10**6).documents for split in ("calibration", "evaluation")}
    assert pile["calibration"] == [f"Document {i} of the pile." for i in range(9_000)]
    assert pile["evaluation"] == [f"Document {i} of the pile." for i in range(9_000, 10_000)]


def test_another_revision_can_be_requested(cache: Path, hub_files: Path) -> None:
    fill_cache(hub_files, cache, {"wikitext2": TRY_COMMIT})
    for revision in (TRY_COMMIT, "main"):
        assert read_text(f"wikitext2@{revision}", "calibration", 1).source == f"wikitext2@{TRY_COMMIT}"
    with pytest.raises(DataError, match="'wikitext2' is not on this machine"):
        read_text("wikitext2", "calibration", 1)  # the pinned one is not in this cache
    for wrong in ("wikitext2@", "wikitext2@../x", "c4@a b"):
        with pytest.raises(DataError, match="invalid revision"):
            read_text(wrong, "calibration", 1)


def test_files_missing_from_the_cache_come_from_the_hub(cache: Path, hub_files: Path, tmp_path: Path) -> None:
    hub = FakeHub(hub_files, {"main": TRY_COMMIT})
    with serve_hub(hub) as endpoint:
        found = in_another_process(tmp_path, endpoint, "wikitext2", "c4", "pile@main", "c4@absent")
    wikitext, c4, pile, wrong = found
    assert str(wikitext["first"]).startswith("\n\n = calibration =") and wikitext["count"] == 1
    assert str(c4["first"]).startswith("The calibration page 0.")
    assert c4["source"] == f"c4@{HUB_TEXTS['c4'].revision}"
    assert (pile["first"], pile["source"]) == ("Document 0 of the pile.", f"pile@{TRY_COMMIT}")
    assert "no data set 'allenai/c4' with a revision 'absent'" in str(wrong["error"])
    shard = HUB_TEXTS["c4"].files["calibration"]
    assert 0 < hub.read_to[shard] < (hub_files / "allenai/c4" / shard).stat().st_size  # streamed, not downloaded
    assert cache == tmp_path / "hub"  # downloads are cached, streams are not
    assert read_text("wikitext2", "calibration", 1).documents[0] == wikitext["first"]
    assert read_text(f"pile@{TRY_COMMIT}", "calibration", 1).documents[0] == pile["first"]
    with pytest.raises(DataError, match="HF_HUB_OFFLINE"):
        check_source("c4")


def test_without_a_network_the_error_is_quick_and_names_alternatives(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")  # a closed port
    started = time.perf_counter()
    for read in (check_source, lambda source: read_text(source, "evaluation", 1)):
        for source in HUB_TEXTS:
            with pytest.raises(
                DataError, match=rf"'{source}' .*ConnectError.* 'builtin', and your own .txt or .jsonl file"
            ):
                read(source)
    assert time.perf_counter() - started < 20  # with the retries of a download it would be three minutes


def test_offline_mode_is_named(cache: Path) -> None:
    with pytest.raises(DataError, match=r"'c4' .*HF_HUB_OFFLINE is set.* 'builtin', and your own .txt or .jsonl file"):
        check_source("c4")


def test_a_damaged_cache_is_named(cache: Path, hub_files: Path) -> None:
    fill_cache(hub_files, cache)
    for name, split in (("pile", "calibration"), ("c4", "evaluation")):
        text = HUB_TEXTS[name]
        folder = cache / f"datasets--{text.repo.replace('/', '--')}" / "snapshots" / text.revision
        (folder / text.files[split]).unlink()
        (folder / text.files[split]).write_bytes(b"not a data set")
        with pytest.raises(DataError, match=f"'{name}' cannot be read"):
            read_text(name, split, 100)
