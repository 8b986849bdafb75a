"""What the supervisor holds for its children: where it stands, and that nothing of it stays."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import msgspec
import pytest

from fastgw import config
from fastgw.config import Config
from fastgw.errors import StartError
from fastgw.supervisor.resources import SupervisorResources, in_memory, opened_anew, rewrite
from tests.actors.alone import left_open

TEXT = """
[gateway]
name = "shop"
listen = ["127.0.0.1:0"]
workers = 2
slots = 64
[kafka]
bootstrap = "127.0.0.1:9"
[admin]
listen = "127.0.0.1:0"
[[route]]
path = "/orders"
method = "POST"
topic = "orders"
"""


def settings(run_dir: str = "", admin: str = "127.0.0.1:0") -> Config:
    read = config.loads(TEXT)
    gateway = msgspec.structs.replace(read.gateway, run_dir=run_dir)
    return msgspec.structs.replace(read, gateway=gateway, admin=config.Admin(listen=admin))


@pytest.fixture(autouse=True)
def no_places(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("RUNTIME_DIRECTORY", raising=False)
    monkeypatch.delenv("XDG_RUNTIME_DIR", raising=False)


def run_dir_of(given: Config) -> Path:
    """Where the run directory is made; it must be private, and gone after the close."""
    held = SupervisorResources(given)
    made = held.run_dir
    assert made.stat().st_mode & 0o777 == 0o700
    held.close()
    assert not made.exists()
    return made.parent


def test_the_run_directory_is_where_the_first_of_four_says(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert run_dir_of(settings()) == Path(tempfile.gettempdir())
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path / "user"))
    assert run_dir_of(settings()) == tmp_path / "user"
    monkeypatch.setenv("RUNTIME_DIRECTORY", f"{tmp_path}/systemd:/other")
    assert run_dir_of(settings()) == tmp_path / "systemd"
    assert run_dir_of(settings(run_dir=str(tmp_path / "configured"))) == tmp_path / "configured"


def test_two_gateways_in_one_configured_directory_do_not_meet(tmp_path: Path) -> None:
    first, second = (
        SupervisorResources(settings(run_dir=str(tmp_path))),
        SupervisorResources(settings(run_dir=str(tmp_path))),
    )
    assert first.run_dir != second.run_dir
    first.close()
    second.close()


def test_a_run_directory_that_cannot_be_is_a_start_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StartError, match=r"run directory in .*/file: "):
        SupervisorResources(settings(run_dir=str(tmp_path / "file")))


FAILING = """
with socket.socket() as taken:
    taken.bind(("127.0.0.1", 0))
    taken.listen()
    try:
        SupervisorResources(settings(admin=f"127.0.0.1:{taken.getsockname()[1]}"))
    except StartError as error:
        print(error)
"""


def test_what_was_opened_before_a_failure_is_closed() -> None:
    imports = "import socket\nfrom tests.supervisor.test_resources import SupervisorResources, StartError, settings\n"
    *error, left = left_open(imports, FAILING).splitlines()
    assert "in use" in "".join(error)
    assert left == "left open:"


def test_sealed_memory_cannot_be_changed_and_each_opening_reads_from_the_start() -> None:
    fd = in_memory(b"one", sealed=True)
    first, second = opened_anew(fd), opened_anew(fd)
    assert os.read(first, 10) == os.read(second, 10) == b"one"
    with pytest.raises(PermissionError):
        os.pwrite(fd, b"two", 0)
    for number in (fd, first, second):
        os.close(number)


def test_other_memory_can_be_rewritten_under_its_readers() -> None:
    fd = in_memory(b"a long text", sealed=False)
    reader = opened_anew(fd)
    rewrite(fd, b"short")
    assert os.pread(reader, 100, 0) == b"short"
    os.close(fd)
    os.close(reader)
