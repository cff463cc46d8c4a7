"""Entry points for Ray on a node: the check of the node, and the actor that calibrates."""

import ray

from app.jobs.executors.node import Assignment, NodeCalibrator, check_node, prepare_process


def check_this_node(versions: dict[str, str], paths: list[str]) -> list[str]:
    """The reasons why this node cannot run the jobs; see `check_node`."""
    prepare_process()
    return check_node(versions, paths)


class RayCalibrator(NodeCalibrator):
    """A NodeCalibrator as a Ray actor, in its own process.

    Stored blocks are references to Ray objects.
    """

    def __init__(self) -> None:
        prepare_process()
        super().__init__()

    def begin_here(self, assignment: Assignment) -> None:
        """Start the calibration."""
        self.begin(assignment, ray.get)
