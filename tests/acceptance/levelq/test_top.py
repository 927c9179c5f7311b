"""`levelq top` in a terminal of 80 columns and 24 rows."""

from __future__ import annotations

import fcntl
import os
import pty
import signal
import struct
import subprocess
import sys
import termios

import pytest

from tests.support.system import System


@pytest.mark.parametrize("end", ["q", "Ctrl-C"])
def test_top_draws_frames_until_it_is_ended(system: System, end: str) -> None:
    system.fill(30)
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 24, 80, 0, 0))
    top = subprocess.Popen(
        [sys.executable, "-m", "levelq", "top", "--interval", "0.2"],
        env=os.environ | system.settings.environment() | {"TERM": "xterm"},
        stdin=theirs, stdout=theirs, stderr=theirs,
    )  # fmt: skip
    try:
        shown = b""
        while b"Hot lanes" not in shown:
            shown += os.read(ours, 65_536)
        assert b"PLAYER:1:0" in shown and b"no worker serves it" in shown
        if end == "q":
            os.write(ours, b"q")
        else:
            top.send_signal(signal.SIGINT)
        while b"\x1b[?1049l" not in shown:  # back to the terminal's own screen
            shown += os.read(ours, 65_536)
        assert top.wait(20) == 0 and b"Traceback" not in shown
    finally:
        top.kill()
        top.wait()
        os.close(ours)
        os.close(theirs)
