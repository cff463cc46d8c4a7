"""What Ray runs on a node: a look at it, and a calibration."""

import ray

from app.jobs.executors.node import Assignment, NodeCalibrator, check_node, prepare_process


def look(versions: dict[str, str], paths: list[str]) -> list[str]:
    """Why this node cannot take part; see `check_node`."""
    prepare_process()
    return check_node(versions, paths)


class RayCalibrator(NodeCalibrator):
    """A NodeCalibrator in a process of its own, as an actor; stored blocks are references to Ray's objects."""

    def __init__(self) -> None:
        prepare_process()
        super().__init__()

    def begin_here(self, assignment: Assignment) -> None:
        """Start."""
        self.begin(assignment, ray.get)
