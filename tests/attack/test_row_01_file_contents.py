"""Row 1: file contents come back to a user of the page, as token texts, errors, or losses of short windows."""

import io
import json
import os
import shutil
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import httpx
import pytest
from account_cases import PASSWORD
from attack_cases import command_line
from page_process import PageProcess, call, page_call, page_process, result

pytestmark = pytest.mark.attack(row=1)

SECRET = "correct-horse-battery-staple"
TEXT = "It reads and writes the files of a folder, one line at a time. " * 200


class Site(NamedTuple):
    """A page with a login: its folder, with a secret file outside the data folder, a model and a text inside."""

    page: PageProcess
    folder: Path

    @property
    def secret(self) -> str:
        return str(self.folder / "secret.txt")

    @property
    def model(self) -> str:
        return str(self.folder / "data" / "models" / "tiny")

    @property
    def text(self) -> str:
        return str(self.folder / "data" / "texts" / "ours.txt")

    def visitor(self, name: str) -> httpx.Client:
        return self.page.client(name, PASSWORD)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, tiny_llama: Path) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("page")
    data, accounts = folder / "data", str(folder / "accounts")
    for name in ("ada", "bob"):
        words = ("auth", "set-password", name, "--file", accounts)
        done = command_line(data, *words, input=f"{PASSWORD}\n{PASSWORD}\n")
        assert done.returncode == 0, done.stderr
    shutil.copytree(tiny_llama, data / "models" / "tiny")
    (data / "texts").mkdir()
    (data / "texts" / "ours.txt").write_text(f"The password is {SECRET}. " * 400)
    (folder / "secret.txt").write_text(f"The key is {SECRET}. " * 400)
    os.symlink(folder / "secret.txt", data / "texts" / "link.txt")
    with page_process(data, "--auth", accounts) as page:
        yield Site(page, folder)


def outside(site: Site) -> list[str]:
    """Paths that the page may not read: existing, missing, through links, through the parent folder."""
    data = site.folder / "data"
    return [
        site.secret, str(site.folder / "missing.txt"), str(data / "texts" / "link.txt"), "/etc/hostname.txt",
        f"{data}/texts/../../secret.txt", "~/notes.txt", "~nosuchuser/notes.txt", "notes.txt", f"{data}-2/texts/a.txt",
        "wikitext2@x.txt",
    ]  # fmt: skip


def wait_until_done(client: httpx.Client, job: str) -> None:
    deadline = time.monotonic() + 500
    while (state := result(call(client, "job", job))["state"]) != "succeeded":
        assert state in ("queued", "running") and time.monotonic() < deadline, state
        time.sleep(0.2)


def test_a_path_elsewhere_is_refused_with_the_same_sentence_whether_it_exists_or_not(
    site: Site, tried: Callable[[int], None]
) -> None:
    said = set()
    with site.visitor("bob") as bob:
        for path in outside(site):
            said.add(call(bob, "evaluate", site.model, path, 2, 32).replace(path, "PATH"))
    tried(len(outside(site)))
    assert len(said) == 1 and "--allow" in said.pop()


def test_no_endpoint_reads_a_model_or_a_text_elsewhere(site: Site, tried: Callable[[int], None]) -> None:
    elsewhere = str(site.folder)
    with site.visitor("bob") as bob:
        answers = [
            call(bob, "submit", site.model, "W4A4", "rtn", site.secret, 2, 32, -1, 0),
            call(bob, "submit", elsewhere, "W4A4", "rtn", site.text, 2, 32, -1, 0),
            call(bob, "evaluate", site.model, site.secret, 2, 32),
            call(bob, "evaluate", elsewhere, site.text, 2, 32),
            call(bob, "explore", elsewhere, "W2A8"),
            call(bob, "allocate", elsewhere, 3.0, ["W2A8"], 0.0),
            call(bob, "generate", ["full"], "def", 4, 0.0, 0, elsewhere),
            bob.get("/abq/explore/linears.csv", params={"model": elsewhere, "precision": "W2A8"}).text,
            bob.get("/abq/lens/bit-planes.csv", params={"model": elsewhere, "precision": "W2A8"}).text,
            bob.get("/abq/lens/level-sets.csv", params={"model": elsewhere, "precision": "W2A8"}).text,
            bob.get("/abq/lens/transform.csv", params={"model": elsewhere, "precision": "W2A8"}).text,
        ]
        assert result(call(bob, "jobs")) == []
    tried(len(answers))
    for answer in answers:
        assert "outside the folders" in answer and SECRET not in answer, answer


def test_an_import_elsewhere_is_refused_with_the_same_sentence_whether_it_exists_or_not(
    site: Site, tried: Callable[[int], None]
) -> None:
    selection = json.dumps({"model": site.model, "tab": "compare"})
    paths = [path for path in outside(site) if "/" in path]  # without one, a name means a repository of the hub
    paths += [str(site.folder), str(site.folder / "missing.gguf"), "/dev/zero", "."]
    said = set()
    with site.visitor("bob") as bob:
        for path in paths:
            answer = json.dumps(page_call(bob, "start_import", [selection, path]))
            assert SECRET not in answer and "outside the folders" in answer, answer
            said.add(answer.partition(" is outside")[2].partition("Copy it")[0])
        inside = json.dumps(page_call(bob, "start_import", [selection, site.model]))
        assert "describes no quantization" in inside
        assert result(call(bob, "jobs")) == []
    tried(len(paths))
    assert len(said) == 1


def test_an_evaluation_returns_no_losses_of_segments_and_no_positions(site: Site) -> None:
    with site.visitor("ada") as ada:
        answer = call(ada, "evaluate", site.model, site.text, 8, 2)
    scores = result(answer)
    assert scores["perplexity"] > 1 and "segment_losses" not in scores
    assert not {"windows", "sha256"} & set(scores["text"])


@pytest.mark.slow
def test_texts_of_a_file_are_shown_to_the_account_that_named_it_only(site: Site, tried: Callable[[int], None]) -> None:
    with site.visitor("bob") as bob, site.visitor("ada") as ada:
        made = result(call(ada, "submit", site.model, "W4A4", "rtn", site.text, 2, 32, -1, 0))
        run = made["run"]
        wait_until_done(ada, made["job"])
        paths = [f"/abq/run/{run}/{name}.csv" for name in ("attention_tokens", "attention", "balance", "blocks")]
        paths += [f"/abq/run/{run}/attention_heads.csv", f"/abq/run/{run}.zip"]
        tried(len(paths) + 2)
        for path in paths:
            assert bob.get(path).status_code == 404 and "only the account" in bob.get(path).text, path
            assert ada.get(path).status_code == 200, path
        export = f"/abq/export/{run}/transformers.zip"
        assert "only the account" in bob.get(export).text and "not exported" in ada.get(export).text
        assert "only the account" in call(bob, "diagnostics", run, "attention_tokens")
        assert "event: complete" in call(ada, "diagnostics", run, "attention_tokens")
        reports = [client.get(f"/abq/report.html?runs={run}").text for client in (ada, bob)]
        assert ["Attention of head" in report for report in reports] == [True, False]
        archive = zipfile.ZipFile(io.BytesIO(ada.get(paths[-1]).content))
    for record in json.loads(archive.read(f"{run}/data.json")).values():
        assert record["tokens"] > 0 and not {"windows", "sha256"} & set(record)


@pytest.mark.slow
def test_a_text_that_a_visitor_adds_is_for_that_account_only(site: Site, tried: Callable[[int], None]) -> None:
    with site.visitor("bob") as bob, site.visitor("ada") as ada, site.page.client() as stranger:
        path = ada.post("/abq/texts/notes.txt", content=f"The password is {SECRET}. " * 400).json()["text"]
        assert "event: complete" in call(ada, "evaluate", site.model, path, 2, 32)
        made = result(call(ada, "submit", site.model, "W4A4", "rtn", path, 2, 32, -1, 0))
        refusals = [
            call(bob, "evaluate", site.model, path, 2, 32),
            call(bob, "submit", site.model, "W4A4", "rtn", path, 2, 32, -1, 0),
            call(bob, "evaluate", site.model, f"{site.folder}/data/uploads/nosuch.txt", 2, 32),
        ]
        assert all("outside the folders" in refusal and SECRET not in refusal for refusal in refusals)
        assert len({refusal.partition(" is outside")[2] for refusal in refusals}) == 1
        hostile = [
            stranger.post("/abq/texts/notes.txt", content=TEXT).status_code,
            bob.post("/abq/texts/notes.txt", content=TEXT, headers={"Origin": "http://evil.example"}).status_code,
            bob.post("/abq/texts/notes.txt", content=b"a" * ((8 << 20) + 1)).status_code,
            bob.post("/abq/texts/..%2Fnotes.txt", content=TEXT).status_code,
            bob.post("/abq/texts/notes.html", content=TEXT).status_code,
            bob.get(f"/abq/texts/{Path(path).name}").status_code,
        ]
        assert hostile == [401, 403, 413, 404, 422, 404]
        tried(len(refusals) + len(hostile) + 1)
        wait_until_done(ada, made["job"])
        assert bob.get(f"/abq/run/{made['run']}/attention_tokens.csv").status_code == 404


def test_without_a_login_the_page_reads_the_folders_of_its_account_and_what_allow_adds(
    tmp_path: Path, tiny_llama: Path, tried: Callable[[int], None]
) -> None:
    places = {name: tmp_path / name for name in ("home", "here", "data", "more", "elsewhere")}
    for place in places.values():
        place.mkdir()
        (place / "text.txt").write_text(TEXT)
    shutil.copytree(tiny_llama, places["more"] / "tiny")
    model = str(places["more"] / "tiny")
    allowed = [*(str(places[name] / "text.txt") for name in ("home", "here", "data", "more")), "text.txt", "~/text.txt"]
    options = {"cwd": places["here"], "home": places["home"]}
    tried(len(allowed) + 1)
    with page_process(places["data"], "--allow", str(places["more"]), **options) as page, page.client() as client:
        for path in allowed:
            assert "event: complete" in call(client, "evaluate", model, path, 2, 32), path
        refused = call(client, "evaluate", model, str(places["elsewhere"] / "text.txt"), 2, 32)
        assert "outside the folders" in refused
