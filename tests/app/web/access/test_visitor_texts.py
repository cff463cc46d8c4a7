"""Texts that visitors add: bounded, for their account only, and deleted when unused."""

import os
import stat
from pathlib import Path

import pytest

from abq_core.text.errors import DataError
from app.web.access.allowed_folders import ForbiddenPathError, page_folders
from app.web.access.visitor_texts import KEPT_DAYS, MAX_BYTES, MAX_TEXT_BYTES, MAX_TEXTS, VisitorTextError, VisitorTexts

TEXT = b"It reads and writes the files of a folder. "
DAY = 86_400


class Texts(VisitorTexts):
    """Texts on a clock of the test."""

    def __init__(self, data_dir: Path) -> None:
        self.needed: set[str] = set()
        self.days = 0.0
        super().__init__(data_dir, lambda: self.needed, lambda: os.stat(data_dir).st_mtime + self.days * DAY)


@pytest.fixture
def texts(tmp_path: Path) -> Texts:
    return Texts(tmp_path)


@pytest.mark.parametrize("only_this_account", [True, False])
def test_only_the_account_that_added_a_text_may_name_it(texts: Texts, tmp_path: Path, only_this_account: bool) -> None:
    folders = page_folders(tmp_path, only_this_account, allow=[tmp_path])
    paths = {account: str(texts.add(account, "notes.txt", TEXT)) for account in ("ada", "bob", None)}
    missing = f"{Path(paths['ada']).parent}/0123456789-notes.txt"
    for owner, path in paths.items():
        for visitor in paths:
            if visitor == owner:
                folders.check_text(path, visitor)
                continue
            with pytest.raises(ForbiddenPathError) as refused:
                folders.check_text(path, visitor)
            with pytest.raises(ForbiddenPathError) as absent:
                folders.check_text(missing if owner != "ada" or visitor == "ada" else "/nowhere.txt", "eve")
            sentence = str(refused.value).partition(" is outside")[2]
            assert sentence and sentence == str(absent.value).partition(" is outside")[2]
        with pytest.raises(ForbiddenPathError):
            folders.model(str(Path(path).parent))


def test_links_and_dots_do_not_lead_to_texts_of_others(texts: Texts, tmp_path: Path) -> None:
    folders = page_folders(tmp_path, only_this_account=False)
    ada, bob = (texts.add(account, "notes.txt", TEXT) for account in ("ada", "bob"))
    link = bob.with_name("0123456789-link.txt")
    link.symlink_to(ada)
    for path in (
        link,
        bob.parent / ".." / ada.parent.name / ada.name,
        tmp_path / "texts" / ".." / "uploads" / ada.name,
    ):
        with pytest.raises(ForbiddenPathError):
            folders.check_text(str(path), "bob")
    (tmp_path / "texts" / "link.txt").symlink_to(ada)
    with pytest.raises(ForbiddenPathError):
        folders.check_text(str(tmp_path / "texts" / "link.txt"), "bob")


def test_files_are_for_this_account_only_and_have_unguessable_names(texts: Texts) -> None:
    one, other = (texts.add("ada", "notes.txt", TEXT) for _ in range(2))
    assert one != other and stat.S_IMODE(one.stat().st_mode) == 0o600
    assert stat.S_IMODE(one.parent.stat().st_mode) == 0o700
    assert one.read_bytes() == TEXT and "ada" not in str(one.relative_to(texts.root))
    assert [name for name, _ in texts.of("ada")] == ["notes.txt", "notes.txt"] and not texts.of("bob")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("notes.pdf", TEXT, "cannot be the name"),
        ("../notes.txt", TEXT, "cannot be the name"),
        ("a b.txt", TEXT, "cannot be the name"),
        ("\u00e9.txt", TEXT, "cannot be the name"),
        ("x" * 60 + ".txt", TEXT, "cannot be the name"),
        ("", TEXT, "cannot be the name"),
        ("notes.txt", b" \n", "empty"),
        ("notes.txt", b"a" * (MAX_TEXT_BYTES + 1), "8,388,609 bytes"),
        ("notes.txt", b"\xff\xfe", "UTF-8"),
        ("notes.jsonl", TEXT, "Line 1 .* is not JSON"),
        ("notes.jsonl", b'{"text": 1}', "no field 'text'"),
    ],
)
def test_what_is_no_text_is_refused_and_leaves_nothing(texts: Texts, name: str, content: bytes, message: str) -> None:
    with pytest.raises((VisitorTextError, DataError), match=message):
        texts.add("ada", name, content)
    assert not [path for path in texts.root.rglob("*") if path.is_file()]


def test_an_account_has_a_bounded_number_of_texts_and_bytes(texts: Texts) -> None:
    for _ in range(MAX_TEXTS):
        path = texts.add("ada", "notes.txt", TEXT)
    with pytest.raises(VisitorTextError, match="You have 20 texts"):
        texts.add("ada", "notes.txt", TEXT)
    texts.remove("ada", str(path))
    texts.add("ada", "notes.txt", TEXT)
    for _ in range(MAX_BYTES // MAX_TEXT_BYTES):
        texts.add("bob", "notes.txt", b"a" * MAX_TEXT_BYTES)
    with pytest.raises(VisitorTextError, match="67,108,864 bytes"):
        texts.add("bob", "notes.txt", TEXT)


def test_texts_are_deleted_when_they_were_not_used_for_long(texts: Texts, tmp_path: Path) -> None:
    unused, used, needed = (texts.add("ada", f"{name}.txt", TEXT) for name in ("unused", "used", "needed"))
    other = texts.root / unused.parent.name / "notes.txt"  # not a text that a visitor added
    other.write_bytes(TEXT)
    for path in (unused, used, needed, other):
        os.utime(path, (0, 0))
    page_folders(tmp_path, only_this_account=False).check_text(str(used), "ada")
    texts.needed.add(str(needed))
    texts.days = KEPT_DAYS - 1
    assert [name for name, _ in texts.of("ada")] == ["used.txt", "needed.txt"]
    texts.days = KEPT_DAYS + 1
    assert [name for name, _ in texts.of("bob")] == [] and not used.exists()
    assert needed.exists() and other.exists()


def test_a_text_is_deleted_by_its_account_unless_a_job_needs_it(texts: Texts) -> None:
    path = texts.add("ada", "notes.txt", TEXT)
    with pytest.raises(VisitorTextError, match="not a text that you added"):
        texts.remove("bob", str(path))
    texts.needed.add(str(path))
    with pytest.raises(VisitorTextError, match="queued or running"):
        texts.remove("ada", str(path))
    texts.needed.clear()
    texts.remove("ada", str(path))
    assert not path.exists()
