from pathlib import Path

import pytest

from levelq.laboratory.processes import Helper
from levelq_core import ConfigurationError, Settings


def test_word_to_a_helper_that_died_is_dropped_and_its_result_is_the_reason(tmp_path: Path) -> None:
    with Helper("no_such_module", {}, Settings.load(), tmp_path / "sender-0.log") as helper:
        with pytest.raises(ConfigurationError, match=r"sender-0 failed; its log ends with: .*no_such_module"):
            helper.await_ready()
        helper.send("stop")
        with pytest.raises(ConfigurationError, match="sender-0 failed"):
            helper.result()
