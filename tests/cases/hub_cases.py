"""A fake hub.

Small data sets with the columns of the real ones, in a cache folder or behind a local server.
"""

import gzip
import hashlib
import json
import os
import re
import shutil
import urllib.parse
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pyarrow
import pyarrow.parquet

from abq_core.text.hub_texts import HUB_TEXTS

PILE_DOCUMENTS = 10_000
C4_PAGES = 200
C4_PADDING = 120_000  # characters per page: the file is much larger than the few documents that a test reads


def make_hub(root: Path) -> Path:
    """Write folders org/name/... with the files that HUB_TEXTS names and the columns of the real ones."""
    wikitext, pile, c4 = HUB_TEXTS["wikitext2"], HUB_TEXTS["pile"], HUB_TEXTS["c4"]
    for split, file in wikitext.files.items():
        lines = ["", f" = {split} = \n", "", *[f" The {split} line {i} of an article . \n" for i in range(60)]]
        _write_parquet(root / wikitext.repo / file, text=lines)
    documents = [f"Document {i} of the pile." for i in range(PILE_DOCUMENTS)]
    kinds = [{"pile_set_name": "Github"}] * PILE_DOCUMENTS
    _write_parquet(root / pile.repo / pile.files["calibration"], text=documents, meta=kinds)
    for split, file in c4.files.items():
        path = root / c4.repo / file
        path.parent.mkdir(parents=True, exist_ok=True)
        with gzip.open(path, "wt", compresslevel=0, encoding="utf-8") as stream:
            for page in range(C4_PAGES):
                row = {"text": f"The {split} page {page}. " * 20, "timestamp": "2019-04-25T12:57:54Z", "url": "x" * 20}
                padding = "." * C4_PADDING if split == "calibration" else ""
                stream.write(json.dumps({**row, "padding": padding}) + "\n")
    return root


def make_task_data(root: Path, questions: int = 4) -> Path:
    """Write the data sets of the named tasks, with their columns and configurations, at their paths on the hub."""
    splits = ("train", "validation", "test")
    numbers = range(questions)
    piqa = [{"goal": f"Open file {i}", "sol1": "call open", "sol2": "call close", "label": i % 2} for i in numbers]
    arc = [
        {
            "id": str(i), "question": f"What is {i}?", "answerKey": "ABC"[i % 3],
            "choices": {"text": ["a number", "a word", "a list"], "label": ["A", "B", "C"]},
        }
        for i in numbers
    ]  # fmt: skip
    boolq = [{"question": f"is {i} odd", "passage": f"{i} is a number.", "idx": i, "label": i % 2} for i in numbers]
    hellaswag = [
        {
            "ind": i, "activity_label": "Reading", "ctx_a": "A module is read.", "ctx_b": "it", "label": str(i % 4),
            "ctx": "A module is read. it", "endings": ["is run", "is closed [title]", "is gone", "is there"],
        }
        for i in numbers
    ]  # fmt: skip
    sentence = "The file was not in the folder because _ was too big."
    winogrande = [
        {"sentence": sentence, "option1": "the file", "option2": "the folder", "answer": str(1 + i % 2)}
        for i in numbers
    ]
    for repo, configs in {
        "baber/piqa": {"default": piqa},
        "allenai/ai2_arc": {"ARC-Easy": arc, "ARC-Challenge": arc},
        "aps/super_glue": {"boolq": boolq},
        "Rowan/hellaswag": {"default": hellaswag},
        "allenai/winogrande": {"winogrande_xl": winogrande},
    }.items():
        card = ["---", "configs:"]
        for config, rows in configs.items():
            card += [f"- config_name: {config}", "  data_files:"]
            for split in splits:
                card += [f"  - split: {split}", f"    path: {config}/{split}.parquet"]
                columns = {name: [row[name] for row in rows] for name in rows[0]}
                _write_parquet(root / repo / config / f"{split}.parquet", **columns)
        (root / repo / "README.md").write_text("\n".join([*card, "---", ""]))
    return root


def fill_cache(root: Path, cache: Path, commits: dict[str, str] | None = None) -> None:
    """Link all files of the hub into a cache folder, like a download of these commits (default: the pinned ones)."""
    for name, text in HUB_TEXTS.items():
        folder = cache / f"datasets--{text.repo.replace('/', '--')}"
        commit = (commits or {}).get(name, text.revision)
        shutil.copytree(root / text.repo, folder / "snapshots" / commit, copy_function=os.symlink)
        (folder / "refs").mkdir(exist_ok=True)
        (folder / "refs" / "main").write_text(commit)


def _write_parquet(path: Path, **columns: list[Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    pyarrow.parquet.write_table(pyarrow.table(columns), path)


class FakeHub:
    """State of the server: its files, the commit of each revision, and how far each file was read."""

    def __init__(self, root: Path, revisions: dict[str, str]) -> None:
        self.root, self.revisions = root, revisions
        self.read_to: dict[str, int] = {}


@contextmanager
def serve_hub(hub: FakeHub) -> Iterator[str]:
    """Serve these data sets with the hub's HTTP interface. Yields the address."""
    handler = type("Handler", (_Handler,), {"hub": hub})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *arguments: object) -> None:
        pass

    def do_GET(self) -> None:
        path = urllib.parse.unquote(self.path)
        if found := re.fullmatch(r"/api/datasets/([^/]+/[^/?]+)(?:/revision/([^?]+))?(?:\?.*)?", path):
            self._revision(found[1], found[2] or "main")
        elif found := re.fullmatch(r"/api/datasets/([^/]+/[^/]+)/tree/[^/?]+/?([^?]*).*", path):
            self._tree(*found.groups())
        elif found := re.fullmatch(r"/datasets/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self._file(*found.groups())
        else:
            self._answer(404, b"{}")

    do_HEAD = do_GET

    def _revision(self, repo: str, revision: str) -> None:
        known = {text.revision for text in HUB_TEXTS.values()} | set(self.hub.revisions.values())
        commit = self.hub.revisions.get(revision, revision if revision in known else None)
        if commit is None:
            self._answer(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        else:
            self._answer(200, json.dumps({"id": repo, "sha": commit, "siblings": []}).encode())

    def _tree(self, repo: str, folder: str) -> None:
        root = self.hub.root / repo
        listed = [
            {
                "type": "file" if path.is_file() else "directory",
                "path": str(path.relative_to(root)),
                "size": path.stat().st_size,
                "oid": "0" * 40,
            }
            for path in sorted((root / folder).iterdir())
        ]
        self._answer(200, json.dumps(listed).encode())

    def _file(self, repo: str, commit: str, name: str) -> None:
        path = self.hub.root / repo / name
        if not path.is_file():
            self._answer(404, b"", {"X-Error-Code": "EntryNotFound"})
            return
        data = path.read_bytes()
        headers = {
            "ETag": f'"{hashlib.sha256(name.encode() + data).hexdigest()}"',
            "X-Repo-Commit": commit,
            "Accept-Ranges": "bytes",
        }
        if span := re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", "")):
            first, last = int(span[1]), min(int(span[2] or len(data)), len(data) - 1)
            headers["Content-Range"] = f"bytes {first}-{last}/{len(data)}"
            self.hub.read_to[name] = max(self.hub.read_to.get(name, 0), last + 1)
            self._answer(206, data[first : last + 1], headers)
        else:
            self.hub.read_to[name] = len(data)
            self._answer(200, data, headers)

    def _answer(self, code: int, body: bytes, headers: dict[str, str] | None = None) -> None:
        self.send_response(code)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "HEAD":
            return
        try:
            self.wfile.write(body)
        except (BrokenPipeError, ConnectionResetError):  # a client that has read enough closes the connection
            self.close_connection = True
