"""README as the package's description: a package index has none of the files that its links name."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from hatchling.metadata.plugin.interface import MetadataHookInterface

_LINK = re.compile(r"\]\((?!https?://)([^)\s]+)\)")


class Description(MetadataHookInterface):
    """Makes README's links absolute: `files` in pyproject.toml says where the project's files are."""

    def update(self, metadata: dict[str, Any]) -> None:
        """Set the description."""
        text = (Path(self.root) / "README.md").read_text(encoding="utf-8")
        metadata["readme"] = {"content-type": "text/markdown", "text": _LINK.sub(self._absolute, text)}

    def _absolute(self, link: re.Match[str]) -> str:
        path = f"README.md{link[1]}" if link[1].startswith("#") else link[1]
        return f"]({self.config['files'].format(path=path)})"
