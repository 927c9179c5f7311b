"""The application's own `core`, which the wheel must not hide."""

NAME = "the application's own core"
