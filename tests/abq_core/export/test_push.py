"""Pushing an export: a private repository, and named errors. The hub is a server of this process."""

import base64
import json
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from export_cases import export_source
from huggingface_hub import HfApi

from abq_core.export import push as push_module
from abq_core.export.errors import ExportError
from abq_core.export.plugin.writer import write_packed
from abq_core.export.push import check_repository, push
from abq_core.models.loading import load_model


class FakeHub:
    """Answers what creating a repository and committing small files ask; keeps what was sent."""

    def __init__(self) -> None:
        self.created: list[dict[str, object]] = []
        self.committed: dict[str, object] = {}
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer({})

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if self.path == "/api/repos/create":
                    hub.created.append(json.loads(body))
                    self._answer({"url": f"{hub.url}/me/model", "name": "me/model"})
                elif self.path == "/api/validate-yaml":
                    self._answer({"errors": [], "warnings": []})
                elif self.path.endswith("/preupload/main"):
                    files = [{"path": one["path"], "uploadMode": "regular"} for one in json.loads(body)["files"]]
                    self._answer({"files": [{**file, "shouldIgnore": False} for file in files]})
                elif "/commit/" in self.path:
                    lines = [json.loads(line) for line in body.splitlines()]
                    files = [line["value"] for line in lines if line["key"] == "file"]
                    hub.committed |= {file["path"]: file["content"] for file in files}
                    address = f"{hub.url}/me/model/commit/{'0' * 40}"
                    self._answer({"success": True, "commitUrl": address, "commitOid": "0" * 40})
                else:
                    self.send_error(404)

            def _answer(self, content: dict[str, object]) -> None:
                data = json.dumps(content).encode()
                self.send_response(200)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, *_: object) -> None:
                """Print nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)

    def __enter__(self) -> "FakeHub":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeHub]:
    """A hub of this process, which `push` talks to."""
    with FakeHub() as found:
        monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint=found.url, token="hf_test"))
        yield found


def test_a_folder_is_pushed_to_a_private_repository(hub: FakeHub, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("# A card\n")
    (tmp_path / "config.json").write_text("{}\n")
    assert push(tmp_path, "me/model") == f"{hub.url}/me/model"
    (created,) = hub.created
    assert created["visibility"] == "private" and created["organization"] == "me" and created["name"] == "model"
    assert hub.committed.keys() == {"README.md", "config.json"}


PUSHES = """
import sys
import abq_core
from transformers import AutoModelForCausalLM
AutoModelForCausalLM.from_pretrained(sys.argv[1]).push_to_hub("me/model", token="hf_test", private=True)
"""


def test_transformers_pushes_a_loaded_export_in_the_same_format(hub: FakeHub, tiny_llama: Path, tmp_path: Path) -> None:
    folder = tmp_path / "out"
    folder.mkdir()
    write_packed(export_source(load_model(str(tiny_llama)), "W2*A8"), folder, lambda done, total: None)
    environment = {**os.environ, "HF_ENDPOINT": hub.url, "HF_HUB_OFFLINE": "0"}
    subprocess.run([sys.executable, "-c", PUSHES, str(folder)], env=environment, check=True)
    (created,) = hub.created
    assert created["visibility"] == "private"
    config = json.loads(base64.b64decode(str(hub.committed["config.json"])))
    assert (config["model_type"], config["quantization_config"]["quant_method"]) == ("abq", "abq")
    weights = base64.b64decode(str(hub.committed["model.abq.safetensors"]))
    assert len(weights) == pytest.approx((folder / "model.abq.safetensors").stat().st_size, rel=0.01)


def test_a_hub_that_cannot_be_reached_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(push_module, "HfApi", lambda: HfApi(endpoint="http://127.0.0.1:9", token="hf_test"))
    with pytest.raises(ExportError, match=r"is written, but it was not pushed to me/model"):
        push(tmp_path, "me/model")


@pytest.mark.parametrize("name", ["model", "a/b/c", "../x", "me/../you", "me/mod el", "me/", "/x", "me/-x", "me/a--b"])
def test_names_that_are_no_repository(name: str) -> None:
    with pytest.raises(ExportError, match="is not the name of a repository"):
        check_repository(name)
