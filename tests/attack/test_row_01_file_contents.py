"""Row 1: file contents come back to a user of the page, as token texts, errors, or losses of short windows."""

import io
import json
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from account_cases import PASSWORD
from app_cases import settings_in, work_on
from served import served

from app.jobs.calibration_job import sentence_for
from app.jobs.error_details import stack_of
from app.services import Services, open_services
from app.web.access import accounts as accounts_module
from app.web.access.accounts import Accounts
from app.web.access.allowed_folders import AllowedFolders, ForbiddenPathError, page_folders
from app.web.access.private_texts import may_see_text

pytestmark = [
    pytest.mark.attack(row=1),
    pytest.mark.filterwarnings("ignore:'future.no_silent_downcasting' is deprecated"),  # gradio sets it
]

SECRET = "correct-horse-battery-staple"
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def services(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Services:
    """The services of a page with a login: a model and a text in its data folder, a secret text elsewhere."""
    folder = tmp_path_factory.mktemp("page")
    opened = open_services(settings_in(folder / "data"), page_folders(folder / "data", only_this_account=False))
    shutil.copytree(tiny_llama, folder / "data" / "models" / "tiny")
    (folder / "data" / "texts" / "ours.txt").write_text(f"The password is {SECRET}. " * 400)
    (folder / "secret.txt").write_text(f"The key is {SECRET}. " * 400)
    os.symlink(folder / "secret.txt", folder / "data" / "texts" / "link.txt")
    return opened


@pytest.fixture(scope="module")
def address(services: Services, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(accounts_module, "_COST", 1 << 4)
        accounts = Accounts(tmp_path_factory.mktemp("accounts") / "accounts")
        for name in ("ada", "bob"):
            accounts.set_password(name, PASSWORD)
        with served(services, accounts) as address:
            yield address.rstrip("/")


def visitor(address: str, name: str) -> httpx.Client:
    return httpx.Client(base_url=address, auth=(name, PASSWORD), timeout=120)


def call(client: httpx.Client, endpoint: str, *data: Any) -> str:
    """Everything that an endpoint returns."""
    submitted = client.post(f"/gradio_api/call/{endpoint}", json={"data": list(data)})
    assert submitted.status_code == 200, submitted.text
    return client.get(f"/gradio_api/call/{endpoint}/{submitted.json()['event_id']}").text


@pytest.fixture(scope="module")
def run_id(address: str, services: Services) -> str:
    """Ada's finished run on a text file."""
    data = services.settings.data_dir
    with visitor(address, "ada") as ada:
        said = call(
            ada, "submit", str(data / "models" / "tiny"), "W4A4", "rtn", str(data / "texts" / "ours.txt"), 2, 32, -1, 0
        )
    made = json.loads(said.split("data: ", 1)[1].strip())[0]
    assert work_on(services, services.jobs.get(made["job"])).state == "succeeded"
    return str(made["run"])


def outside(services: Services) -> list[str]:
    """Paths that the page may not read: existing, missing, through links, through the parent folder."""
    data = services.settings.data_dir
    return [
        str(data.parent / "secret.txt"), str(data.parent / "missing.txt"), str(data / "texts" / "link.txt"),
        str(data / "texts" / ".." / ".." / "secret.txt"), str(data / "abq.sqlite3"), "/etc/passwd", "~/notes.txt",
        "~nosuchuser/notes.txt", "notes.txt", f"{data}/texts/\0.txt", f"{data}-other/texts/a.txt", "wikitext2@x.txt",
    ]  # fmt: skip


def test_a_path_elsewhere_is_refused_with_the_same_sentence_whether_it_exists_or_not(services: Services) -> None:
    said = set()
    for path in outside(services):
        with pytest.raises(ForbiddenPathError) as caught:
            services.evaluation.evaluate("builtin", path)
        said.add(str(caught.value).replace(repr(path[:200]), "PATH"))
    assert len(said) == 1 and "--allow" in said.pop()


def test_files_outside_the_folders_are_not_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folders = AllowedFolders([tmp_path / "texts"])

    def looked(*_: object, **__: object) -> None:
        raise AssertionError("the file system was asked about a path outside the allowed folders")

    for name in ("stat", "lstat", "readlink"):
        monkeypatch.setattr(os, name, looked)
    inside = folders.contains(str(tmp_path / "secret.txt"))
    monkeypatch.undo()
    assert not inside


def test_no_endpoint_reads_a_model_or_a_text_elsewhere(address: str, services: Services) -> None:
    data = services.settings.data_dir
    secret, model, text = (
        str(data.parent / "secret.txt"),
        str(data / "models" / "tiny"),
        str(data / "texts" / "ours.txt"),
    )
    before = services.storage.jobs.counts()
    with visitor(address, "bob") as bob:
        for answer in (
            call(bob, "submit", model, "W4A4", "rtn", secret, 2, 32, -1, 0),
            call(bob, "submit", str(data.parent), "W4A4", "rtn", text, 2, 32, -1, 0),
            call(bob, "evaluate", model, secret, 2, 32),
            call(bob, "evaluate", str(data.parent), text, 2, 32),
            call(bob, "explore", str(data.parent), "W2A8"),
            call(bob, "allocate", str(data.parent), 3.0, ["W2A8"]),
            call(bob, "generate", ["full"], "def", 4, 0.0, 0, str(data.parent)),
        ):
            assert "event: error" in answer and "outside the folders" in answer and SECRET not in answer
        csv = bob.get("/abq/explore/linears.csv", params={"model": str(data.parent), "precision": "W2A8"})
        assert csv.status_code == 404 and "outside the folders" in csv.text
    assert services.storage.jobs.counts() == before


def test_an_evaluation_returns_no_losses_of_segments_and_no_positions(address: str, services: Services) -> None:
    data = services.settings.data_dir
    with visitor(address, "ada") as ada:
        answer = call(ada, "evaluate", str(data / "models" / "tiny"), str(data / "texts" / "ours.txt"), 8, 2)
    scores = json.loads(answer.split("data: ", 1)[1].strip())[0]
    assert scores["perplexity"] > 1 and "segment_losses" not in scores
    assert not {"windows", "sha256"} & set(scores["text"])


def test_texts_of_a_file_are_shown_to_the_account_that_named_it_only(
    address: str, services: Services, run_id: str
) -> None:
    paths = [f"/abq/run/{run_id}/{name}.csv" for name in ("attention_tokens", "attention", "balance", "blocks")]
    paths.append(f"/abq/run/{run_id}.zip")
    with visitor(address, "bob") as bob, visitor(address, "ada") as ada:
        for path in paths:
            assert bob.get(path).status_code == 404 and "only the account" in bob.get(path).text, path
            assert ada.get(path).status_code == 200, path
        assert "only the account" in call(bob, "diagnostics", run_id, "attention_tokens")
        assert "event: complete" in call(ada, "diagnostics", run_id, "attention_tokens")
        reports = {name: client.get(f"/abq/report.html?runs={run_id}") for name, client in (("a", ada), ("b", bob))}
        assert "Attention of the first head" in reports["a"].text
        assert reports["b"].status_code == 200 and "Attention of the first head" not in reports["b"].text
        archive = zipfile.ZipFile(io.BytesIO(ada.get(paths[-1]).content))
        for record in json.loads(archive.read(f"{run_id}/data.json")).values():
            assert record["tokens"] > 0 and not {"windows", "sha256"} & set(record)


def test_a_run_of_the_command_line_belongs_to_no_account(services: Services, run_id: str) -> None:
    class Request:
        scope = {"abq.visitor": "ada"}

    run = services.runs.get(run_id)
    assert run.account == "ada" and may_see_text(run, Request())
    job = services.storage.jobs.submit(run.spec, run.created_at)
    assert not may_see_text(services.runs.get(job.run_id), Request())


def test_a_failed_job_quotes_no_file() -> None:
    try:
        raise Exception(f"Token `{SECRET}` out of vocabulary")
    except Exception as error:
        said = sentence_for(error, Path("/data")) + stack_of(error)
    assert SECRET not in said.replace('raise Exception(f"Token `{SECRET}', "") and "Exception" in said


def test_the_page_of_one_account_reads_its_folders_and_what_allow_adds(tmp_path: Path) -> None:
    """`abq app` without a login, in its own process, with HOME, the current folder and --allow."""
    places = {name: tmp_path / name for name in ("home", "here", "data", "more", "elsewhere")}
    for place in places.values():
        place.mkdir()
        (place / "text.txt").write_text("It reads and writes files. " * 400)
    script = (
        "import sys; from pathlib import Path; from app.web.access.allowed_folders import page_folders\n"
        "folders = page_folders(Path(sys.argv[1]), True, [Path(sys.argv[2])])\n"
        "print([folders.contains(path) for path in sys.argv[3:]])"
    )
    named = [str(places[name] / "text.txt") for name in places] + ["text.txt", "~/text.txt"]
    environment = {**os.environ, "HOME": str(places["home"]), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", script, places["data"], places["more"], *named],
        cwd=places["here"], env=environment, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.strip() == str([True, True, True, True, False, True, True])
