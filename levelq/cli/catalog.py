"""`levelq catalog`: the levels and their requirements."""

from __future__ import annotations

from rich.text import Text

from .screen import Listing, print_line


def catalog() -> None:
    """List the specializations, their levels and what each requires."""
    from levelq_core.domain.catalog import Requirement

    from .connections import load

    tracks = load().tracks
    levels = [level for track in tracks.values() for level in track.levels]
    used = [name for name in Requirement._fields if name == "total_xp" or any(getattr(level, name) for level in levels)]
    shown = Listing("Specialization", "Level", *used, right=("Level", *used))
    for name, track in tracks.items():
        for number, level in enumerate(track.levels, 1):
            label = Text(name, style="bold" if number == 1 else "dim")
            shown.add(label, number, *(getattr(level, requirement) for requirement in used))
        shown.end_section()
    shown.print()
    for track in tracks.values():
        if track.tracks_hours:
            print_line(f"{track.name} counts theory and practice hours, too.")
