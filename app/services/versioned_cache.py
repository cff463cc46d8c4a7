"""What many visitors ask for at once, made once for all of them. What is made, and from what, is others' business."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

Value = TypeVar("Value")
Moment = tuple[int, int]

SHARED_SECONDS = 0.5
MOST_QUESTIONS = 16


class Shared(Generic[Value]):
    """Answers to one kind of question, each made once a moment. Safe to call from several threads.

    make: answers a question; its answers go to all who ask, so that nobody may change them.
    moment: what time it is, as (writes of this process that have ended, number of the current SHARED_SECONDS). An
    answer that was begun at a moment is good for all who ask at that moment or before. So whoever wrote something in
    this process sees it in the next answer, and what other processes wrote is seen within SHARED_SECONDS.
    """

    def __init__(self, make: Callable[..., Value], moment: Callable[[], Moment]) -> None:
        self._make, self._moment = make, moment
        self._answers: OrderedDict[tuple[str, ...], tuple[Moment, Value]] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, *question: str) -> Value:
        """The answer. One thread makes it while the others wait for it; what making it raises is not kept.

        Of more than MOST_QUESTIONS questions the one that was answered first is forgotten.
        """
        asked = self._moment()
        with self._lock:
            known = self._answers.get(question)
            if known is None or known[0] < asked:
                begun = self._moment()
                known = self._answers[question] = (begun, self._make(*question))
                self._answers.move_to_end(question)
                while len(self._answers) > MOST_QUESTIONS:
                    self._answers.popitem(last=False)
            return known[1]
