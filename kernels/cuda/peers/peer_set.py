"""The peers that work on this machine: imported once, checked before each timing."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from kernels.cuda.peers import gemlite, humming, torch_libraries
from kernels.cuda.peers.peer import LeftOut, Peer, Product, check

if TYPE_CHECKING:
    from torch import Tensor

Recorded = TypeVar("Recorded")
Maker = Callable[["Tensor", "Tensor", Callable[[int], int]], Peer]
_LIBRARIES = {"torch": torch_libraries, "gemlite": gemlite, "humming": humming}
_LONGEST_REASON = 200
_COMPILING = ("gemlite", "humming")  # at the first call with a shape, for seconds or longer


class PeerSet:
    """The peers of one benchmark run.

    Each peer that cannot be timed is reported to `on_left_out`, each reason once.
    seconds: total time for libraries that compile at their first calls; after that they are left out.
    """

    def __init__(self, on_left_out: Callable[[LeftOut], None], seconds: float) -> None:
        self._on_left_out = on_left_out
        self._seconds, self._spent = seconds, 0.0
        self._reported: set[LeftOut] = set()
        self._makers = {library: self._load(library) for library in _LIBRARIES}

    def record_all(
        self, weight: Tensor, x: Tensor, copies_of: Callable[[int], int], record: Callable[[Product], Recorded]
    ) -> list[Recorded]:
        """Call `record` for each correct peer product of weight (n, k) and x (m, k), both float16.

        copies_of(bytes): number of copies of a weight of that size.
        """
        found = [
            self._recorded(library, precision, partial(make, weight, x, copies_of), len(x), record)
            for library, makers in self._makers.items()
            for precision, make in makers.items()
        ]
        return [recorded for recorded in found if recorded is not None]

    def _load(self, library: str) -> dict[str, Maker]:
        try:
            return _LIBRARIES[library].makers()
        except ModuleNotFoundError as error:
            self._report(library, "", f"{error}; to compare with it, install the package {_package(library)}")
        except Exception as error:  # libraries raise many types of error on unsupported machines
            self._report(library, "", f"importing it failed with {_first_line(error)}")
        return {}

    def _recorded(
        self, library: str, precision: str, make: Callable[[], Peer], m: int, record: Callable[[Product], Recorded]
    ) -> Recorded | None:
        compiles = library in _COMPILING
        if compiles and self._spent > self._seconds:
            self._report(library, "", f"the {self._seconds:g} seconds for libraries that compile are used up")
            return None
        start = time.perf_counter()
        try:
            peer = make()
            check(peer, m)
            return record(peer.product)
        except Exception as error:  # libraries raise many types of error on unsupported machines
            self._report(library, precision, _first_line(error))
            return None
        finally:
            self._spent += time.perf_counter() - start if compiles else 0.0

    def _report(self, library: str, precision: str, reason: str) -> None:
        left_out = LeftOut(library, precision, reason)
        if left_out not in self._reported:
            self._reported.add(left_out)
            self._on_left_out(left_out)


def _package(library: str) -> str:
    return {"humming": "humming-kernels"}.get(library, library)


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines() or ["no reason given"]
    return f"{type(error).__name__}: {lines[0][:_LONGEST_REASON]}"
