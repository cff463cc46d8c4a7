"""The components of a method as checkboxes, and what was switched away from the method's own."""

from collections.abc import Sequence

from abq_core.spec import METHODS, Switches

BALANCE, LEARN_BALANCE = "balance vectors", "learned balance"
CLIPPING, COMPENSATION = "learned clipping", "compensation"
DLC, AKL, AKL_PER_HEAD = "DLC", "AKL", "AKL per head"
MSE, MSE_BOTH = "MSE", "MSE on quantized input too"
CLIP_SEARCH, ROUNDING = "searched clipping", "learned rounding"
END_TO_END, BLOCK_TARGETS = "end-to-end pass", "block targets in the pass"
ACT_CLIPPING, HADAMARD = "activation clipping", "Hadamard transform"
SYMMETRIC, HALF_ZERO = "symmetric levels", "half-step zero points"
CHOICES = [
    BALANCE, LEARN_BALANCE, CLIPPING, CLIP_SEARCH, ACT_CLIPPING, COMPENSATION, ROUNDING, DLC, AKL, AKL_PER_HEAD, MSE,
    MSE_BOTH, END_TO_END, BLOCK_TARGETS, HADAMARD, HALF_ZERO, SYMMETRIC,
]  # fmt: skip


def to_boxes(switches: Switches) -> list[str]:
    """The boxes that are ticked for these switches."""
    ticked = {
        BALANCE: switches.balance != "none",
        LEARN_BALANCE: switches.balance == "learned",
        CLIPPING: switches.clipping,
        COMPENSATION: switches.compensation,
        DLC: switches.dlc,
        AKL: switches.akl,
        AKL_PER_HEAD: switches.akl_per_head,
        MSE: switches.mse != "none",
        MSE_BOTH: switches.mse == "both",
        CLIP_SEARCH: switches.clip_search,
        ACT_CLIPPING: switches.act_clipping,
        ROUNDING: switches.rounding,
        END_TO_END: switches.end_to_end,
        BLOCK_TARGETS: switches.block_targets,
        HADAMARD: switches.hadamard,
        HALF_ZERO: switches.half_zero,
        SYMMETRIC: switches.symmetric,
    }
    return [name for name in CHOICES if ticked[name]]


def from_boxes(boxes: Sequence[str], method: str) -> Switches | None:
    """The switches that the boxes say, None where they are the method's own. Raises SpecError."""
    on = set(boxes)
    switches = Switches(
        balance="learned" if LEARN_BALANCE in on else "started" if BALANCE in on else "none",
        clipping=CLIPPING in on,
        compensation=COMPENSATION in on,
        dlc=DLC in on,
        akl=AKL in on or AKL_PER_HEAD in on,
        mse="both" if MSE_BOTH in on else "full" if MSE in on else "none",
        akl_per_head=AKL_PER_HEAD in on,
        rounding=ROUNDING in on,
        clip_search=CLIP_SEARCH in on,
        act_clipping=ACT_CLIPPING in on,
        end_to_end=END_TO_END in on,
        block_targets=BLOCK_TARGETS in on,
        hadamard=HADAMARD in on,
        half_zero=HALF_ZERO in on,
        symmetric=SYMMETRIC in on,
    )
    return None if switches == METHODS.get(method) else switches


def away(boxes: Sequence[str], method: str) -> str:
    """Which boxes differ from the method's own, as words; empty where none does."""
    own, now = set(to_boxes(METHODS[method])), set(boxes)
    changed = [f"{name} {'on' if name in now else 'off'}" for name in CHOICES if (name in own) != (name in now)]
    return ", ".join(changed)
