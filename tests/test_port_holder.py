"""Who has an address is read from /proc, as far as it shows; what it does not show is no error."""

from __future__ import annotations

import os
import socket
from pathlib import Path

import pytest

from fastgw.port_holder import holder_of_port, holder_of_socket

TCP = """\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:1F90 00000000:0000 {state} 00000000:00000000 00:00000000 00000000 {uid}        0 4711 1 0 100 0 0 10 0
"""
LISTENS, CONNECTED = "0A", "01"


def made(proc: Path, state: str = LISTENS, uid: int = 0) -> Path:
    """A /proc with one socket on port 8080, which belongs to process 7."""
    (proc / "net").mkdir(parents=True)
    (proc / "net" / "tcp").write_text(TCP.format(state=state, uid=uid))
    (proc / "7" / "fd").mkdir(parents=True)
    (proc / "7" / "fd" / "3").symlink_to("socket:[4711]")
    (proc / "7" / "cmdline").write_bytes(b"nginx: master process\0-g\0")
    return proc


def test_a_listening_process_is_named_with_its_title(tmp_path: Path) -> None:
    assert holder_of_port(8080, made(tmp_path)) == "process 7 (nginx: master process -g)"
    assert holder_of_port(8081, tmp_path) == ""


def test_a_connection_from_that_port_holds_nothing(tmp_path: Path) -> None:
    assert holder_of_port(8080, made(tmp_path, CONNECTED)) == ""


def test_a_process_that_hides_its_descriptors_is_known_by_its_user(tmp_path: Path) -> None:
    made(tmp_path, uid=54321)
    (tmp_path / "7" / "fd" / "3").unlink()
    assert holder_of_port(8080, tmp_path) == "a process of user 54321"


def test_a_process_without_a_title_is_named_by_its_number(tmp_path: Path) -> None:
    made(tmp_path)
    (tmp_path / "7" / "cmdline").unlink()
    assert holder_of_port(8080, tmp_path) == "process 7"


def test_without_proc_nobody_is_named(tmp_path: Path) -> None:
    assert holder_of_port(8080, tmp_path / "proc") == ""
    assert holder_of_socket(tmp_path / "s", tmp_path / "proc") == ""


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_UNIX])
def test_the_real_proc_names_this_process(tmp_path: Path, family: socket.AddressFamily) -> None:
    path = tmp_path / "with a blank"
    with socket.create_server(("127.0.0.1", 0) if family == socket.AF_INET else str(path), family=family) as one:
        found = holder_of_port(one.getsockname()[1]) if family == socket.AF_INET else holder_of_socket(path)
    assert found.startswith(f"process {os.getpid()} (")
