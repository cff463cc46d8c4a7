"""Types of the values in requests, and the first problem of a wrong one as a sentence."""

from typing import Annotated

from pydantic import AfterValidator, Field, ValidationError
from pydantic_core import PydanticCustomError

MAX_WHOLE_NUMBER = 2**53 - 1  # largest integer that every JSON client represents exactly


def _encodable(text: str) -> str:
    """The text. Raises PydanticCustomError for half of a surrogate pair, which is not Unicode."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise PydanticCustomError("not_unicode", "This text cannot be encoded as UTF-8") from error
    return text


WholeNumber = Annotated[int, Field(ge=-MAX_WHOLE_NUMBER, le=MAX_WHOLE_NUMBER)]
Finite = Annotated[float, Field(allow_inf_nan=False)]
Text = Annotated[str, AfterValidator(_encodable)]


def sentence(error: ValidationError) -> str:
    """The first problem of a validation, with the place and the value, shortened."""
    first = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in first["loc"])
    if first["type"] == "missing":
        return f"{place} is missing."
    if not place:
        return f"{_shown(first['input'])} cannot be used. {first['msg']}."
    return f"{place} is {_shown(first['input'])}. {first['msg']}."


def _shown(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
