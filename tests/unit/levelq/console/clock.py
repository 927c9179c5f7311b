"""A clock that tests turn."""


class Clock:
    """Called, it says what `now` is."""

    def __init__(self) -> None:
        self.now = 1_000.0

    def __call__(self) -> float:
        return self.now
