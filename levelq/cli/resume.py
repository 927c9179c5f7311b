"""`levelq resume`: ends a pause."""

from __future__ import annotations

from typing import Annotated

from typer import Option

from .options import AsJson, DryRun, Specializations
from .pause import OneUser, print_dry, print_end, print_pauses, steering
from .screen import print_line


def resume(
    specialization: Specializations = None,
    user: OneUser = None,
    yes: Annotated[bool, Option("--yes", hidden=True)] = False,  # it never asks; as for pause
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """End a pause: drains go on at once, in order.

    Without --user, pauses of single users stay. What is not paused is left as it is, with exit code 0.
    """
    with steering(specialization, user) as (pausing, scope, _):
        if dry_run:
            print_dry(pausing, scope, as_json)
            return
        change = pausing.resume(scope)
        if not as_json:
            print_pauses(change.before, "resumed; it was ")
            if not change.before:
                print_line(f"{scope.target}: not paused")
        print_end(pausing, change, as_json)
