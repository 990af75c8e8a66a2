"""The one error of the lab: what was seen, and what the reader can do about it."""


class LabError(Exception):
    """The lab cannot go on; the text says what was seen and what to do."""

    def __init__(self, *, seen: str, hint: str) -> None:
        super().__init__(f"{seen}\n  -> {hint}")
