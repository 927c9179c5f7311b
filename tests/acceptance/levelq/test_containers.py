"""The container files against their rules: the Compose specification, and what makes a container safe."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

from tests.support.containers import COMPOSE, ROOT, VARIABLE, compose, pyproject, seconds, stages


def validated(path: Path) -> int:
    command = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", "vendor.compose-spec", str(path)]
    return subprocess.run(command, capture_output=True, check=False).returncode


def test_compose_file_keeps_to_the_specification(tmp_path: Path) -> None:
    assert validated(COMPOSE) == 0
    wrong = tmp_path / "docker-compose.yml"
    wrong.write_text(COMPOSE.read_text().replace("healthcheck:", "healthchecks:"))
    assert validated(wrong) == 1


def test_passwords_come_from_outside_alone() -> None:
    text = COMPOSE.read_text()
    forms = {(match[2], match[3]) for match in VARIABLE.finditer(text) if match[2]}
    assert {name for name, form in forms if form == "?"} == {"POSTGRES_PASSWORD", "VALKEY_PASSWORD"}
    assert all(form in ("?", "-") for _, form in forms)
    for line in text.splitlines():
        if re.search(r"password:|_AUTH:|://.*@", line, re.IGNORECASE) and not line.startswith("#"):
            assert ":?" in line, line
    assert VARIABLE.match(re.findall(r"--requirepass\s+- (.*)", text)[0])


def test_services_are_closed_and_without_privileges() -> None:
    document = compose()
    for name, service in document["services"].items():
        assert service["read_only"] is True, name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert not {"privileged", "cap_add", "network_mode", "pid", "devices"} & set(service), name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        outside = {network for network in service["networks"] if not document["networks"][network].get("internal")}
        assert outside <= ({"screen"} if name in ("grafana", "console") else set()), name
        assert "build" in service or int(service["user"].partition(":")[0]) > 0, name
        assert re.search(r":v?\d+\.\d+", service["image"]), f"{name}: {service['image']} is not pinned"
        for volume in service.get("volumes", ()):
            assert volume.partition(":")[0] in document["volumes"], f"{name}: {volume} is no named volume"


def test_services_start_and_stop_in_order() -> None:
    services = compose()["services"]
    for name in ("valkey", "postgres"):
        assert "test" in services[name]["healthcheck"]
        assert services[name]["restart"] == "unless-stopped"
    for name in ("worker", "load", "cli"):
        conditions = {needed: how["condition"] for needed, how in services[name]["depends_on"].items()}
        assert conditions == {"migrate": "service_completed_successfully", "valkey": "service_healthy"}
    assert services["migrate"]["depends_on"] == {"postgres": {"condition": "service_healthy"}}
    assert services["migrate"]["restart"] == "no"
    worker = services["worker"]
    assert "container_name" not in worker, "a named container cannot be scaled"
    assert seconds(worker["stop_grace_period"]) > float(worker["environment"]["LEVELQ_CLAIM_SECONDS"])


def test_console_is_reached_from_this_host_alone_and_wants_a_login() -> None:
    document = compose()
    console = document["services"]["console"]
    assert console["ports"] == ["127.0.0.1:8420:8420"]
    assert console["environment"]["LEVELQ_CONSOLE_LOGINS"] == f"/run/secrets/{console['secrets'][0]}"
    assert console["secrets"] == list(document["secrets"])
    (installed,) = re.findall(r'"levelq\[([\w,]+)\]"', (ROOT / "Dockerfile").read_text())
    assert set(installed.split(",")) == {"worker", "console"}


def test_image_is_pinned_and_runs_without_root() -> None:
    project = pyproject()["project"]
    bases = {dict(stage)["FROM"].partition(" ")[0] for stage in stages()}
    assert len(bases) == 1, "both stages need the same Python"
    assert re.fullmatch(r"python:\d+\.\d+\.\d+-slim-\w+", bases.pop())
    *_, user = [rest for instruction, rest in stages()[-1] if instruction == "USER"]
    assert int(user.partition(":")[0]) > 0
    assert [rest for instruction, rest in stages()[-1] if instruction == "ENTRYPOINT"] == ['["levelq"]']
    assert "levelq" in project["scripts"]
    assert compose()["services"]["worker"]["image"] == f"levelq:{project['version']}"


def test_image_takes_nothing_unverified_and_holds_no_secret() -> None:
    for instruction, rest in (line for stage in stages() for line in stage):
        assert instruction not in ("ADD", "ARG"), rest
        assert not re.search(r"password|secret|token", rest, re.IGNORECASE), rest
        for command in rest.split("&&") if instruction == "RUN" else ():
            words = set(shlex.split(command))
            if words & {"pip", "venv"}:
                assert words & {"--no-index", "--require-hashes", "--without-pip"}, command
    assert all(instruction != "RUN" or "useradd" in rest for instruction, rest in stages()[-1])


def test_image_finds_what_it_copies_and_nothing_else_is_sent() -> None:
    copied = {source for instruction, rest in stages()[0] if instruction == "COPY" for source in rest.split()[:-1]}
    wanted = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert copied == wanted
    for source in copied:
        assert (ROOT / source).exists(), source
    project = pyproject()
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    shipped = [*wheel["packages"], *wheel["force-include"], *project["project"]["license-files"]]
    for needed in (*shipped, "hatch_build.py", "README.md"):
        assert any(Path(needed).is_relative_to(source) for source in copied), needed
