"""A column's process that ends early is a named error."""

import os
import signal
from multiprocessing.connection import Connection

import pytest
from column_process import ColumnError, ColumnProcess


def ends_after_its_row(pipe: Connection) -> None:
    pipe.send({})
    pipe.close()


def killed_by_a_request(pipe: Connection) -> None:
    pipe.send({})
    pipe.recv()
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_process_that_has_ended_is_named() -> None:
    column = ColumnProcess("W4A8", ends_after_its_row)
    column._process.join()
    for _ in range(2):  # at the latest, the second write finds the pipe closed
        with pytest.raises(ColumnError, match="of W4A8 ended with exit code 0"):
            column.measure(1)


def test_a_killed_process_is_named() -> None:
    column = ColumnProcess("W4A8", killed_by_a_request)
    with pytest.raises(ColumnError, match="ended by SIGKILL; SIGKILL means that the memory was not enough"):
        column.measure(1)
