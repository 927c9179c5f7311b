"""What root can do to a machine: small disks, other clocks, cut cables. All of it is undone at the end."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

UNUSED_ADDRESS = "02:00:00:00:00:01"  # an unused hardware address: frames to it vanish
SMALL = "160m"  # holds a new PostgreSQL and some WAL

Way = Literal["requests", "replies"]


def run(*command: str | Path) -> str:
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(map(str, command))}: {done.stderr}"
    return done.stdout


# Disks


@contextmanager
def small_disk(folder: Path) -> Iterator[None]:
    """A small disk of its own at this folder."""
    folder.mkdir(parents=True, exist_ok=True)
    run("mount", "-t", "tmpfs", "-o", f"size={SMALL},mode=700", "levelq-tests", folder)
    try:
        yield
    finally:
        run("umount", "--lazy", folder)


@contextmanager
def filled(folder: Path) -> Iterator[None]:
    """No space left on the disk of this folder, until the end."""
    filler = folder / "filler"
    try:
        with filler.open("wb", buffering=0) as file:
            while file.write(bytes(4096)):
                pass
    except OSError:
        pass  # full
    try:
        yield
    finally:
        filler.unlink()


# Clocks


def faked(clock: Path) -> dict[str, str]:
    """The environment of processes whose clock follows a file: `+86400` is a day ahead. Durations stay right."""
    (library,) = Path("/usr/lib").glob("*/faketime/libfaketime.so.1")
    return {
        "LD_PRELOAD": str(library),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_CACHE_DURATION": "1",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
    }


# Networks


class Cable:
    """A network namespace, and the cable to it from the machine: another host to its processes."""

    def __init__(self, number: int = 0) -> None:
        self.name = f"levelq-{os.getpid()}-{number}"
        self.inside = ("nsenter", f"--net=/run/netns/{self.name}")
        # Of the range for benchmarks, which is not routed.
        self.host, self.guest = (f"198.18.77.{4 * number + n}" for n in (1, 2))
        self._device = f"lq{os.getpid()}n{number}"

    def __enter__(self) -> Cable:
        run("ip", "netns", "add", self.name)
        try:
            run("ip", "link", "add", self._device, "type", "veth", "peer", "name", "eth0", "netns", self.name)
            self._plug_in()
        except BaseException:
            run("ip", "netns", "delete", self.name)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        # The kernel ends a network some time after it is deleted: until then another cable could not have this name.
        run("ip", "link", "delete", self._device)
        run("ip", "netns", "delete", self.name)

    def _plug_in(self) -> None:
        run("ip", "address", "add", f"{self.host}/30", "dev", self._device)
        run(*self.inside, "ip", "address", "add", f"{self.guest}/30", "dev", "eth0")
        run("ip", "link", "set", self._device, "up")
        run(*self.inside, "ip", "link", "set", "eth0", "up")
        self._host = _hardware_address(self._device)
        self._guest = _hardware_address("eth0", self.inside)
        self.heal()

    def heal(self) -> None:
        """All frames arrive."""
        self._address_guest_as(self._guest)
        self._address_host_as(self._host)

    def cut(self, *ways: Way) -> None:
        """Lose all frames that go this way, without a word to either end."""
        if "requests" in ways:
            self._address_host_as(UNUSED_ADDRESS)
        if "replies" in ways:
            self._address_guest_as(UNUSED_ADDRESS)

    def _address_guest_as(self, address: str) -> None:
        run("ip", "neighbour", "replace", self.guest, "lladdr", address, "dev", self._device, "nud", "permanent")

    def _address_host_as(self, address: str) -> None:
        run(*self.inside, "ip", "neighbour", "replace", self.host, "lladdr", address, "dev", "eth0", "nud", "permanent")


def _hardware_address(device: str, inside: Sequence[str] = ()) -> str:
    links: list[dict[str, Any]] = json.loads(run(*inside, "ip", "-json", "link", "show", device))
    return str(links[0]["address"])
