"""What the kernel says of a process: of this one, and of one that is made to take something."""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import time

from fastgw.admin.process_usage import usage_of
from tests.waiting import eventually


def test_this_process_is_as_large_as_it_says_itself() -> None:
    usage = usage_of(os.getpid())
    assert usage is not None
    own = resource.getrusage(resource.RUSAGE_SELF)
    assert 1 << 20 < usage.resident_bytes <= own.ru_maxrss * 1024 + (1 << 20)
    assert abs(usage.cpu_s - (own.ru_utime + own.ru_stime)) < 1


def test_open_descriptors_are_counted() -> None:
    before = usage_of(os.getpid())
    fds = [os.dup(0) for _ in range(20)]
    after = usage_of(os.getpid())
    for fd in fds:
        os.close(fd)
    assert before is not None
    assert after is not None
    assert after.open_fds - before.open_fds == 20


def test_cpu_time_is_that_of_user_and_system() -> None:
    before = usage_of(os.getpid())
    until = time.process_time() + 0.05
    while time.process_time() < until:
        pass
    after = usage_of(os.getpid())
    assert before is not None
    assert after is not None
    assert 0.03 <= after.cpu_s - before.cpu_s < 1


def test_a_name_with_brackets_and_blanks_in_it_is_no_hindrance() -> None:
    name = ") 1 (x) 2"
    code = f"import setproctitle, sys\nsetproctitle.setthreadtitle({name!r})\nprint(flush=True)\nsys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        usage = usage_of(child.pid)
        assert usage is not None
        assert 0 < usage.cpu_s < 10
        assert child.stdin is not None
        child.stdin.close()


def test_of_a_process_that_has_ended_nothing_is_known() -> None:
    with subprocess.Popen([sys.executable, "-c", ""]) as child:
        child.wait()
    eventually(lambda: usage_of(child.pid) is None)
