"""Rows of results in a file that several runs share."""

import threading
from pathlib import Path

from row_file import RowFile


def test_a_row_is_found_by_the_next_run_under_its_key_only(tmp_path: Path) -> None:
    RowFile(tmp_path / "rows.json").add({"method": "abq", "seed": 0}, {"perplexity": 3.5})
    later = RowFile(tmp_path / "rows.json")
    assert later.find({"method": "abq", "seed": 0}) == {"perplexity": 3.5}
    assert later.find({"method": "abq", "seed": 1}) is None
    assert later.find({"method": "abq"}) is None


def test_new_results_replace_old_ones(tmp_path: Path) -> None:
    file = RowFile(tmp_path / "rows.json")
    for perplexity in (3.5, 3.25):
        file.add({"method": "abq"}, {"perplexity": perplexity})
        file.add({"method": "rtn"}, {"perplexity": 9.0})
    assert file.find({"method": "abq"}) == {"perplexity": 3.25}
    assert (tmp_path / "rows.json").read_text().count("perplexity") == 2


def test_concurrent_runs_lose_no_rows(tmp_path: Path) -> None:
    def add(first: int) -> None:
        for number in range(first, first + 20):
            RowFile(tmp_path / "rows.json").add({"number": number}, {"square": number**2})

    threads = [threading.Thread(target=add, args=(first,)) for first in (0, 20, 40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    file = RowFile(tmp_path / "rows.json")
    assert [file.find({"number": n}) for n in range(60)] == [{"square": n**2} for n in range(60)]
    assert [path.name for path in tmp_path.iterdir()] == ["rows.json"]
