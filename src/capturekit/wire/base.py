"""What all answers have in common."""

from typing import Annotated, TypeAlias

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

Moment: TypeAlias = Annotated[AwareDatetime, Field(examples=["2026-11-24T17:03:00.000Z"])]
"""A time, in UTC to the millisecond."""

Point: TypeAlias = Annotated[list[float], Field(min_length=2, max_length=2)]
"""x and y, in pixels of the upright picture."""

Cursor: TypeAlias = Annotated[
    str | None, Field(description="Where the next page begins, for `cursor`; null on the last.")
]


class Answer(BaseModel):
    """An answer, or a part of one."""

    model_config = ConfigDict(
        frozen=True,
        extra="ignore",
        validate_by_name=True,
        use_attribute_docstrings=True,
        protected_namespaces=(),
    )
