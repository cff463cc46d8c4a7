"""The components of a method as checkboxes, and the changes from its defaults in words."""

from collections.abc import Sequence

from abq_core.methods import SWITCHES, Switches, default_switches, read_switches

CHOICES = [label for info in SWITCHES.values() for label in info.labels]
END_TO_END = SWITCHES["end_to_end"].labels[0]


def to_boxes(switches: Switches) -> list[str]:
    """The labels of the boxes that are ticked for these switches."""
    return [
        label for name, info in SWITCHES.items() for label in info.labels[: info.values.index(getattr(switches, name))]
    ]


def from_boxes(boxes: Sequence[str]) -> Switches:
    """The switches for these ticked boxes. Raises SpecError."""
    values: dict[str, object] = {}
    for name, info in SWITCHES.items():
        ticked = [index for index, label in enumerate(info.labels, start=1) if label in boxes]
        values[name] = info.values[max(ticked, default=0)]
    for name, info in SWITCHES.items():
        if info.part_of is not None and values[name] != info.values[0]:
            values[info.part_of] = SWITCHES[info.part_of].values[-1]
    return read_switches(values)


def changed_boxes(boxes: Sequence[str], method: str) -> str:
    """The boxes that differ from the method's defaults, such as `DLC off, AKL per head on`.

    Empty if none does.
    """
    default, now = set(to_boxes(default_switches(method))), set(boxes)
    changed = [f"{name} {'on' if name in now else 'off'}" for name in CHOICES if (name in default) != (name in now)]
    return ", ".join(changed)
