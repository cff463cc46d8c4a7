"""Numbers as the page, the command line and reports show them."""

import math
from collections.abc import Callable
from dataclasses import replace

import pandas
import pytest

from abq_core.text.records import TextRecord
from app import formatting
from app.formatting import MISSING

MIB = 2**20


@pytest.mark.parametrize(
    ("size", "shown"),
    [(None, MISSING), (3.77 * MIB, "3.77 MiB"), (99.99 * MIB, "99.99 MiB"), (1017.37 * MIB, "1017 MiB"),
     (1024 * MIB, "1.00 GiB"), (230.4 * 1024 * MIB, "230.40 GiB")],
)  # fmt: skip
def test_bytes_have_decimals_below_100_mib_and_from_1_gib(size: float | None, shown: str) -> None:
    assert formatting.size(size) == shown


@pytest.mark.parametrize(
    ("value", "shown"),
    [(None, MISSING), (0, "0 s"), (4.14e-6, "4.14 µs".replace("\N{MICRO SIGN}", "\N{GREEK SMALL LETTER MU}")),
     (0.82, "820 ms"), (4.523, "4.52 s"), (59.96, "1 min 0 s"), (72, "1 min 12 s"), (100, "1 min 40 s"),
     (3599.6, "1 h 0 min"), (7500, "2 h 5 min")],
)  # fmt: skip
def test_times_are_in_minutes_from_one_minute_on(value: float | None, shown: str) -> None:
    assert formatting.seconds(value) == shown


def test_measures_carry_their_unit_and_their_standard_error() -> None:
    assert formatting.perplexity(15.434, 0.118) == "15.43 ± 0.12"
    assert formatting.perplexity(1234.5) == "1,234.50"
    assert formatting.perplexity(3.2e7, 1.0) == "3.20e+07 ± 1.00"
    assert formatting.nats(0.12345) == "0.1235 nats"
    assert (formatting.bits(2.0), formatting.bits(2.3219)) == ("2", "2.32")
    assert formatting.percent(0.8754) == "87.5 %"
    assert formatting.accuracy(0.621, 0.0141) == "62.1 % ± 1.4"
    assert formatting.task_metric("acc_norm", 0.5, 0.05) == "50.0 % ± 5.0"
    assert formatting.task_metric("word_perplexity", 12.345, 0.5) == "word_perplexity 12.35 ± 0.5"
    assert formatting.count(12288) == "12,288"


@pytest.mark.parametrize(
    ("rate", "shown"), [(24.02, "24.0 tokens/s"), (475.3, "475 tokens/s"), (2048.4, "2,048 tokens/s")]
)
def test_decode_rates_have_three_figures(rate: float, shown: str) -> None:
    assert formatting.tokens_per_second(rate) == shown


@pytest.mark.parametrize("value", [None, math.nan, math.inf, pandas.NaT, "no number"])
@pytest.mark.parametrize(
    "show",
    [formatting.perplexity, formatting.nats, formatting.bits, formatting.size, formatting.seconds, formatting.percent,
     formatting.accuracy, formatting.count, formatting.tokens_per_second, lambda v: formatting.task_metric("f1", v)],
)  # fmt: skip
def test_missing_values_read_the_same_everywhere(show: Callable[[object], str], value: object) -> None:
    assert show(value) == MISSING


def test_kl_names_its_floor() -> None:
    assert formatting.kl(0.1234, 0.000301) == "0.1234 nats (floor 0.0003)"
    assert formatting.kl(0.1234) == formatting.kl(0.1234, math.nan) == "0.1234 nats"
    assert formatting.kl(None, 0.1) == formatting.MISSING


def test_buckets_are_ranges_of_confidence() -> None:
    edges = [(0.0, 0.5), (0.5, 0.9), (0.9, 0.99), (0.99, 1.0)]
    assert [formatting.bucket(*edge) for edge in edges] == ["below 50 %", "50 to 90 %", "90 to 99 %", "above 99 %"]
    row = {"low": 0.99, "high": 1.0, "share": 0.25, "kl_mean": None}
    assert formatting.bucket_cells(row) == ["above 99 %", "25.0 %", formatting.MISSING]


def test_a_text_says_how_its_windows_begin_and_which_part_was_read() -> None:
    record = TextRecord("notes.txt", "sha256 " + "a" * 64, "calibration", 3, 1, 999, 32, (4, 2), "f" * 64, ())
    assert formatting.text(record) == (
        "2 windows of 32 tokens of notes.txt (calibration split, 1 document), seed 3, sha256 ffffffffffff"
    )
    assert formatting.text(replace(record, prefix=(2,))).endswith(", each after BOS (token 2)")
    assert formatting.text(replace(record, prefix=None)).endswith(", made without BOS")
    paper = replace(record, protocol="paper", split="whole", prefix=(2,), seed=0)
    assert formatting.text(paper) == (
        "2 consecutive windows of 32 tokens of notes.txt (whole file, 1 document), sha256 ffffffffffff, "
        "the first after BOS (token 2)"
    )
