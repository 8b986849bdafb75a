"""The supervisor: starts, watches and replaces the agent and the workers. It serves nothing itself.

It owns what has to outlive any of them: the listening sockets, the shared table, the run directory. It is one thread
around one selector that wakes for signals, for children that speak (readiness pipe) and for children that end (pidfd);
what only time brings is looked after in between. Every step is a function, every state is data: a `Child` for each
process, a `Slot` for each worker, at most one `Reload`.

    agent ready ──> workers start ──> all ready, READY=1 ──> serving ──> SIGTERM ──> workers drain ──> agent ends

    a worker dies     its slots in the table are reclaimed, a successor starts: at once after a good run, else after a
                      pause that grows with each short run
    a standby waits   that has imported everything and becomes the next worker, so that a successor is there sooner
    a worker hangs    (no heartbeat for 2.5 s after its first one) it is killed, and so it died
    the watchdog      of systemd is fed while a worker serves and every heart beats
    the agent dies    a successor starts, the workers do not notice; one that hangs for 15 s is killed
    SIGHUP            the new configuration is read, and a checker asks Kafka what the agent asks at the start; then
                      slot by slot a new generation starts, and when it is ready the old one drains; if one does not
                      become ready, the slots done so far go back. The state file and systemd's status say what came
    SIGTERM, SIGINT   readiness goes false, the workers drain; what is left after the drain timeout is killed; exit 0
    a second SIGINT   everything is killed at once; exit 130
    we die            the children read EOF on the life pipe and end by themselves
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from functools import partial
from math import inf
from pathlib import Path
from typing import NamedTuple

import msgspec
import setproctitle
import structlog

from fastgw import config, logs, state_file, table
from fastgw.config import Config, changes
from fastgw.errors import ConfigError, StartError
from fastgw.supervisor import systemd
from fastgw.supervisor.children import Child, CommandFor, Start, State, by_exec, environment, fastgw_command
from fastgw.supervisor.liveness import Liveness
from fastgw.supervisor.resources import SupervisorResources, in_memory, opened_anew, rewrite
from fastgw.supervisor.standby import Standby
from fastgw.supervisor.systemd import Notifier
from fastgw.supervisor.worker_slots import PATIENCE, BackOff, Slot, SupervisorTimes, deaf_slots

log = structlog.get_logger("fastgw.supervisor")

EXIT_KILLED = 130  # what a shell says of a command that Ctrl-C ended
STATUS_LENGTH_MAX = 1000  # systemctl shows it on one line


class Phase(Enum):
    """Where the service is in its life."""

    STARTING_AGENT = 1
    STARTING_WORKERS = 2
    SERVING = 3
    DRAINING = 4


class ConfigVersion(NamedTuple):
    """One version of the configuration, with the sealed memory in which children receive it."""

    config: Config
    fd: int


@dataclass
class Reload:
    """A roll of all slots to another edition, one after the other; `todo[0]` is the slot that is being rolled."""

    edition: ConfigVersion
    todo: deque[int]
    done: list[int] = field(default_factory=list)
    back: bool = False  # this roll undoes one that failed
    error: str = ""  # why that one failed


def run(config_path: Path, command_for: CommandFor = fastgw_command, patience: SupervisorTimes = PATIENCE) -> int:
    """Run a gateway until it is told to end; the exit code (0 after a drain, 130 after a second Ctrl-C).

    The run directory is a fresh one of mode 0700 in `gateway.run_dir`, else in $RUNTIME_DIRECTORY (systemd's), else in
    $XDG_RUNTIME_DIR, else in the directory for temporary files; it goes when the supervisor does.
    Under systemd, sockets handed over in $LISTEN_FDS are used instead of binding; see `listeners.open_listeners`.

    Raises:
        ConfigError: the configuration is wrong; nothing was started.
        StartError: an address is in use, the agent or a worker says it cannot start, or one is not ready in time.
    """
    logs.configure("supervisor")
    supervisor = Supervisor(config_path, command_for, patience)
    setproctitle.setproctitle(f"fastgw: {supervisor.name} supervisor")
    return supervisor.run()


class Supervisor:
    """One running gateway. `run` is its whole life."""

    def __init__(self, config_path: Path, command_for: CommandFor, patience: SupervisorTimes) -> None:
        # For the life of the service.
        self._config_path = config_path
        self._command_for = command_for
        self._patience = patience
        self._notifier = Notifier()
        self._watchdog_s = systemd.watchdog_s()
        self._environ = environment(without=systemd.OWN_VARIABLES)
        self._selector = selectors.DefaultSelector()
        self._owned = contextlib.ExitStack()
        # Changed by reloads.
        self._edition = ConfigVersion(config.load(config_path), -1)
        self.name = self._edition.config.gateway.name  # a reload cannot change it
        self._checking: tuple[ConfigVersion, Child] | None = None  # a reload whose configuration is being checked
        self._reload: Reload | None = None
        self._reload_wanted = False
        # The processes.
        workers = self._edition.config.gateway.workers
        self._slots = [Slot(number, BackOff(patience)) for number in range(workers)]
        self._agent: Child | None = None
        self._agent_back_off = BackOff(patience)
        self._checkers: list[Child] = []
        self._standby: Standby | None = None
        self._standby_back_off = BackOff(patience)
        # Where it stands; times are monotonic seconds.
        self._phase = Phase.STARTING_AGENT
        self._state = state_file.of_this_process(self.name, config_path, time.time())
        self._start_by = inf
        self._watchdog_at = inf
        self._exit_code = 0

    def __repr__(self) -> str:
        return f"<Supervisor {self._phase.name} {self._children()}>"

    def run(self) -> int:
        """The whole life of the service."""
        with self._owned:
            self._open()
            self._start_service()
            while not self._over():
                for key, _events in self._selector.select(self._idle_s()):
                    key.data()
                self._look(time.monotonic())
        return self._exit_code

    def _over(self) -> bool:
        return self._phase is Phase.DRAINING and not self._children()

    def _children(self) -> list[Child]:
        return self._lasting() + self._checkers

    def _lasting(self) -> list[Child]:
        """The children that are to live on: their hearts beat."""
        agent = [self._agent] if self._agent else []
        return agent + self._workers()

    def _workers(self) -> list[Child]:
        return [child for slot in self._slots for child in slot.children()]

    # Opening. Whatever fails here or later, `_owned` takes all of it back.

    def _open(self) -> None:
        settings = self._edition.config
        self._open_signals()
        self._held = SupervisorResources(settings)
        self._owned.callback(self._held.close)
        self._vital_signs = Liveness(self._held.table, self._patience)
        self._owned.callback(os.close, state_file.hold(self._held.run_dir))
        self._publish(self._state)
        self._edition = ConfigVersion(settings, in_memory(config.to_json(settings), sealed=True))
        self._owned.callback(lambda: os.close(self._edition.fd))
        self._agent_config_fd = in_memory(config.to_json(settings), sealed=False)  # rewritten by reloads
        self._owned.callback(os.close, self._agent_config_fd)
        self._owned.callback(self._end_the_rest)

    def _publish(self, state: state_file.State) -> None:
        self._state = state
        try:
            state_file.write(self._held.run_dir, state)
        except OSError as error:
            log.error("state file not written", run_dir=str(self._held.run_dir), error=str(error))

    def _open_signals(self) -> None:
        self._owned.callback(self._selector.close)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._owned.callback(os.close, reading)
        self._owned.callback(os.close, writing)
        self._owned.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # The handler does nothing: the number arrives through the pipe, in the loop.
            before = signal.signal(number, lambda _number, _frame: None)
            # Who says SIGTERM twice must not kill us on our way out: the exit code would be a lie.
            self._owned.callback(signal.signal, number, signal.SIG_IGN if number == signal.SIGTERM else before)
        self._selector.register(reading, selectors.EVENT_READ, partial(self._signalled, reading))

    def _end_the_rest(self) -> None:
        """When the loop ended in an exception: no child survives it, and each may say goodbye to Kafka."""
        self._end_standby()
        for child in self._children():
            child.send(signal.SIGTERM)
        kill_at = time.monotonic() + self._patience.drain_more
        for child in self._children():
            if not child.ends_within(max(0.0, kill_at - time.monotonic())):
                child.send(signal.SIGKILL)
            child.reap()

    # Starting the service.

    def _start_service(self) -> None:
        self._notifier.tell("STATUS=starting the agent")
        self._start_by = time.monotonic() + self._patience.start
        self._spawn_agent()
        if self._agent is None:
            raise StartError("the agent could not be started")

    def _start_workers(self) -> None:
        self._phase = Phase.STARTING_WORKERS
        self._notifier.tell("STATUS=starting the workers")
        self._start_by = time.monotonic() + self._patience.start
        for slot in self._slots:
            slot.current = self._spawn_worker(slot, self._edition)

    def _started(self) -> None:
        self._phase, self._start_by = Phase.SERVING, inf
        self._publish(msgspec.structs.replace(self._state, stage=state_file.SERVING))
        self._standby_back_off.start_at = time.monotonic()
        if self._watchdog_s is not None:
            self._watchdog_at = 0.0
        self._tell_ready()
        log.info(
            "ready",
            addresses=self._held.listeners.addresses,
            admin=self._held.admin.addresses,
            workers=len(self._slots),
            node=f"{self._held.table.node:06x}",
        )
        if self._reload_wanted:
            self._begin_reload()

    def _tell_ready(self) -> None:
        addresses = " ".join(self._held.listeners.addresses)
        status = f"serving {addresses} with {len(self._slots)} workers"
        last = self._state.reload
        if last is not None and last.error:
            status += f"; last reload {last.result}: {_in_one_line(last.error)}"
        self._notifier.tell("READY=1", f"STATUS={status[:STATUS_LENGTH_MAX]}")

    def _spawn_agent(self) -> None:
        admin_fds = self._held.admin.fds_of(0)
        self._agent = self._spawn("agent", [], self._agent_config_fd, {"--admin-fds": admin_fds})
        if self._agent is None:
            self._agent_back_off.ended(time.monotonic(), 0.0)

    def _spawn_worker(self, slot: Slot, edition: ConfigVersion) -> Child | None:
        """Start the next generation in `slot`; None when that cannot be now (a successor is due after the back-off)."""
        generation = slot.next_generation()
        child = None
        if generation is not None:
            place = ["--slot", str(slot.number), "--generation", str(generation)]
            place += ["--listen-of", ",".join(map(str, self._held.listeners.bind_numbers))]
            fds = {"--listen-fds": self._held.listeners.fds_of(slot.number)}
            child = self._spawn("worker", place, edition.fd, fds, slot.number, generation)
        if child is None:
            slot.back_off.ended(time.monotonic(), 0.0)
        else:
            slot.generation = child.generation
        return child

    def _spawn(
        self,
        kind: str,
        arguments: list[str],
        config_fd: int,
        more_fds: dict[str, list[int]],
        slot: int = -1,
        generation: int = -1,
    ) -> Child | None:
        held = self._held
        try:
            own_config_fd = opened_anew(config_fd)
        except OSError as error:  # no descriptor is left
            log.error("child not started", child=kind, slot=slot, error=str(error))
            return None
        fds = {"--table-fd": [held.table_fd], "--config-fd": [own_config_fd], "--life-fd": [held.life_fd], **more_fds}
        fds = {option: numbers for option, numbers in fds.items() if numbers}
        arguments = ["--run-dir", str(held.run_dir), *arguments]
        now = time.monotonic()
        try:
            child = Child(self._start_of(kind, arguments), fds, now, now + self._patience.start, slot, generation, kind)
        except OSError as error:
            log.error("child not started", child=kind, slot=slot, error=str(error))
            return None
        finally:
            os.close(own_config_fd)
        self._selector.register(child.pidfd, selectors.EVENT_READ, partial(self._ended, child))
        self._selector.register(child.ready_fd, selectors.EVENT_READ, partial(self._spoke, child))
        log.debug("child started", child=child.name, pid=child.pid)
        return child

    def _start_of(self, kind: str, arguments: list[str]) -> Start:
        standby = self._standby if kind == "worker" else None
        if standby is None:
            return by_exec([*self._command_for(kind), *arguments], self._environ)
        self._selector.unregister(standby.pidfd)
        self._standby = None
        self._standby_back_off.start_at = time.monotonic()
        return partial(standby.take_over, arguments)

    # The worker in waiting.

    def _start_standby(self, now: float) -> None:
        """When nobody else is starting: it is there to save time, not to take it."""
        starting = any(child.state is State.STARTING for child in self._children())
        if self._phase is not Phase.SERVING or starting or not self._standby_back_off.due(now):
            return
        try:
            self._standby = Standby([*self._command_for("standby"), "--name", self.name], self._environ)
        except OSError as error:
            log.error("child not started", child="standby", error=str(error))
            self._standby_back_off.ended(now, 0.0)
            return
        since = now
        self._selector.register(
            self._standby.pidfd, selectors.EVENT_READ, lambda: self._standby_ended(time.monotonic() - since)
        )

    def _standby_ended(self, ran_s: float) -> None:
        log.error("child ended", child="standby", ran_s=round(ran_s, 3))
        self._end_standby()
        self._standby_back_off.ended(time.monotonic(), ran_s)

    def _end_standby(self) -> None:
        if self._standby is not None:
            self._selector.unregister(self._standby.pidfd)
            self._standby.end()
            self._standby = None

    # Children that speak.

    def _spoke(self, child: Child) -> None:
        if child.ready_fd < 0:
            return  # it ended in the same turn, and was heard then
        line = child.heard()
        if line is None:
            return
        self._selector.unregister(child.ready_fd)
        child.close_pipe()
        if child.state is not State.STARTING:
            return  # told to stop while it started
        if line == "ready":
            self._became_ready(child)
        elif line:
            self._refused(child, line.removeprefix("error "))
        # Nothing said: it ends, or the start timeout ends it.

    def _became_ready(self, child: Child) -> None:
        child.state, child.kill_at, child.ready_at = State.READY, inf, time.monotonic()
        log.info("child ready", child=child.name, pid=child.pid, took_s=round(child.ready_at - child.started_at, 3))
        if child in self._checkers:
            self._checked(child)
            return
        if child is self._agent:
            if self._phase is Phase.STARTING_AGENT:
                self._start_workers()
            return
        slot = self._slots[child.slot]
        if child is slot.incoming:
            self._rolled(slot)
        if self._phase is Phase.STARTING_WORKERS and all(
            slot.current and slot.current.state is State.READY for slot in self._slots
        ):
            self._started()

    def _refused(self, child: Child, why: str) -> None:
        """It says that it cannot start. At the first start that is the answer to the whole command."""
        if self._phase in (Phase.STARTING_AGENT, Phase.STARTING_WORKERS):
            raise StartError(why if child is self._agent else f"{child.name}: {why}")
        child.refusal = why
        if child not in self._checkers:
            log.error("child cannot start", child=child.name, why=why)
        child.state, child.kill_at = State.STOPPING, time.monotonic() + self._patience.agent_stop

    # Children that end.

    def _ended(self, child: Child) -> None:
        if child.ready_fd >= 0:
            self._spoke(child)  # its last words come before its death
        if child.ready_fd >= 0:
            self._selector.unregister(child.ready_fd)
        self._selector.unregister(child.pidfd)
        how = child.reap()
        ran_s = time.monotonic() - child.started_at
        expected = child.state is State.STOPPING
        (log.info if expected else log.error)("child ended", child=child.name, how=how, ran_s=round(ran_s, 3))
        if child in self._checkers:
            self._checker_ended(child, how)
        elif child is self._agent:
            self._agent_ended(how, ran_s)
        else:
            self._worker_ended(self._slots[child.slot], child, how, ran_s)

    def _agent_ended(self, how: str, ran_s: float) -> None:
        self._agent = None
        if self._phase is Phase.STARTING_AGENT:
            raise StartError(f"the agent ended before it was ready ({how})")
        if self._phase is not Phase.DRAINING:
            self._agent_back_off.ended(time.monotonic(), ran_s)

    def _worker_ended(self, slot: Slot, child: Child, how: str, ran_s: float) -> None:
        self._reclaim(child)
        self._held.listeners.left_by(slot.number)
        if child is slot.current:
            slot.current = None
            if self._phase is not Phase.DRAINING and slot.incoming is None:
                slot.back_off.ended(time.monotonic(), ran_s)
        elif child is slot.incoming:
            slot.incoming = None
            self._roll_failed(slot, child.refusal or how)
        else:
            slot.outgoing.remove(child)
            self._roll_next()  # it may have waited for this range in the table

    def _reclaim(self, child: Child) -> None:
        process = table.process_index(child.slot, child.generation)
        reclaimed, repaired = self._held.table.reclaim(process)
        if reclaimed or repaired:
            log.warning("slots reclaimed", child=child.name, reclaimed=reclaimed, repaired=repaired)

    # What only time brings.

    def _idle_s(self) -> float:
        """How long nothing has to be done unless a signal or a child says so."""
        due = [child.kill_at for child in self._children()]
        due += [slot.back_off.start_at for slot in self._slots]
        due += [self._agent_back_off.start_at, self._start_by, self._watchdog_at]
        return min(self._patience.look, max(0.0, min(due) - time.monotonic()))

    def _look(self, now: float) -> None:
        if now >= self._start_by:
            waited_for = [child.name for child in self._children() if child.state is not State.READY]
            raise StartError(f"not ready within {self._patience.start:g} s: {', '.join(waited_for) or 'the workers'}")
        listeners = self._held.listeners
        listeners.set_deaf(deaf_slots(self._slots, now, self._patience, self._vital_signs.accepts, listeners.deaf))
        self._start_successors(now)
        self._start_standby(now)
        self._kill_the_late(now)
        for child in self._vital_signs.hung(self._lasting(), now):
            log.error("child hangs: killed", child=child.name, pid=child.pid)
            child.kill()
        if now >= self._watchdog_at:
            self._feed_watchdog(now)
        if self._phase is Phase.DRAINING:
            self._stop_agent_last(now)

    def _start_successors(self, now: float) -> None:
        if self._agent_back_off.due(now):
            self._spawn_agent()
        for slot in self._slots:
            if slot.back_off.due(now) and slot.current is None and slot.incoming is None:
                slot.current = self._spawn_worker(slot, self._edition_of(slot))

    def _kill_the_late(self, now: float) -> None:
        for child in self._children():
            if now >= child.kill_at:
                log.error("out of patience: killed", child=child.name, pid=child.pid, state=child.state.value)
                if child.state is State.STARTING:
                    child.refusal = f"not ready within {self._patience.start:g} s"
                child.kill()

    def _feed_watchdog(self, now: float) -> None:
        """Tell systemd that all is well, if it is."""
        assert self._watchdog_s is not None
        if self._vital_signs.all_well(self._workers(), now):
            self._notifier.tell("WATCHDOG=1")
            self._watchdog_at = now + self._watchdog_s / 2
        else:
            self._watchdog_at = now + self._patience.look

    # Reloading.

    def _begin_reload(self) -> None:
        """SIGHUP: read, check, then roll. Whatever is wrong with the new configuration, the old one stays."""
        self._reload_wanted = False
        self._notifier.tell("RELOADING=1", f"MONOTONIC_USEC={time.monotonic_ns() // 1000}", "STATUS=reloading")
        self._publish(self._state.begun(time.time()))
        try:
            edition = self._next_edition()
        except (ConfigError, OSError) as error:
            self._reload_refused(str(error))
            return
        checker = self._spawn("checker", [], edition.fd, {})
        if checker is None:
            os.close(edition.fd)
            self._reload_refused("the checker could not be started")
            return
        self._checkers.append(checker)
        self._checking = edition, checker

    def _reload_refused(self, why: str) -> None:
        log.error("reload refused, the old configuration stays", error=_in_one_line(why))
        self._reload_over(state_file.REFUSED, why)

    def _checked(self, checker: Child) -> None:
        """Kafka is as the new configuration needs it: the roll begins."""
        checker.stop(time.monotonic() + self._patience.agent_stop)  # it has nothing more to do
        if self._checking is None or checker is not self._checking[1]:
            return
        edition, self._checking = self._checking[0], None
        log.info("reloading", config=str(self._config_path))
        self._reload = Reload(edition, deque(range(len(self._slots))))
        self._roll_next()

    def _checker_ended(self, checker: Child, how: str) -> None:
        self._checkers.remove(checker)
        if self._checking is None or checker is not self._checking[1]:
            return
        os.close(self._checking[0].fd)
        self._checking = None
        self._reload_refused(checker.refusal or f"the checker ended without a result ({how})")

    def _next_edition(self) -> ConfigVersion:
        before = self._edition.config
        after = config.load(self._config_path)
        if fixed := changes.restart_only_changes(before, after):
            raise ConfigError(
                f"{self._config_path}: {', '.join(fixed)}: expected no change while the gateway runs,"
                " got another value; restart the gateway for it"
            )
        after = changes.keep_route_numbers(before, after)
        return ConfigVersion(after, in_memory(config.to_json(after), sealed=True))

    def _roll_next(self) -> None:
        """Start the new generation of the next slot, if it is its turn and its range in the table is free."""
        if self._reload is None:
            return
        if not self._reload.todo:
            self._reload_done()
            return
        slot = self._slots[self._reload.todo[0]]
        if slot.incoming is not None or slot.next_generation() is None:
            return
        slot.back_off.cancel()
        slot.incoming = self._spawn_worker(slot, self._reload.edition)
        if slot.incoming is None:
            self._roll_failed(slot, "could not be started")

    def _rolled(self, slot: Slot) -> None:
        """The new generation is ready: the old one drains while the next slot is rolled."""
        assert self._reload is not None
        before = slot.succeed()
        if before is not None:
            before.stop(time.monotonic() + self._drain_s())
        self._reload.done.append(self._reload.todo.popleft())
        self._roll_next()

    def _roll_failed(self, slot: Slot, how: str) -> None:
        """The new generation is not to be: slots that have it already go back to the configuration that works."""
        if slot.current is None and self._phase is not Phase.DRAINING:
            slot.back_off.ended(time.monotonic(), 0.0)
        failed, self._reload = self._reload, None
        if failed is None:
            return
        log.error("reload stopped, the old configuration stays", worker=slot.number, how=how, undone=failed.done)
        if failed.back:
            self._reload_over(state_file.UNDONE, f"{failed.error}; on the way back, worker {slot.number}: {how}")
            return
        os.close(failed.edition.fd)
        self._reload = Reload(self._edition, deque(failed.done), back=True, error=f"worker {slot.number}: {how}")
        self._roll_next()

    def _reload_done(self) -> None:
        assert self._reload is not None
        done, self._reload = self._reload, None
        if done.back:
            self._reload_over(state_file.UNDONE, done.error)
            return
        os.close(self._edition.fd)
        self._edition = done.edition
        self._tell_agent()
        log.info("reloaded", config=str(self._config_path))
        self._reload_over(state_file.OK)

    def _reload_over(self, result: str, error: str = "") -> None:
        self._publish(self._state.ended(time.time(), result, error))
        self._tell_ready()
        if self._reload_wanted:
            self._begin_reload()

    def _tell_agent(self) -> None:
        """The agent reads its configuration again. A restart would be a rebalance where the nodes are a group."""
        rewrite(self._agent_config_fd, config.to_json(self._edition.config))
        if self._agent is None:
            return  # its successor reads the new one
        if self._agent.state is State.READY:
            self._agent.send(signal.SIGHUP)
        elif self._agent.state is State.STARTING:
            self._agent.stop(time.monotonic() + self._patience.agent_stop)  # nobody knows which one it has read

    def _edition_of(self, slot: Slot) -> ConfigVersion:
        """What a successor in `slot` starts with: in the middle of a roll, slots that are done have the new one."""
        if self._reload is not None and slot.number in self._reload.done:
            return self._reload.edition
        return self._edition

    # Signals, and the end.

    def _signalled(self, reading: int) -> None:
        for number in os.read(reading, 256):
            if number == signal.SIGHUP:
                self._hung_up()
            elif self._phase is not Phase.DRAINING:
                self._begin_drain(signal.Signals(number))
            elif number == signal.SIGINT:
                self._kill_at_once()

    def _hung_up(self) -> None:
        if self._phase is Phase.SERVING and self._reload is None and self._checking is None:
            self._begin_reload()
        elif self._phase is not Phase.DRAINING:
            self._reload_wanted = True  # done after what is under way

    def _begin_drain(self, number: signal.Signals) -> None:
        log.info("draining", signal=number.name)
        self._phase, self._start_by = Phase.DRAINING, inf
        self._reload = self._checking = None
        for checker in self._checkers:
            checker.kill()
        self._held.table.set_service_draining()  # first: readiness is false before any worker refuses
        to_the_end_us = int((self._drain_s() + self._patience.agent_stop) * 1e6)
        self._notifier.tell("STOPPING=1", "STATUS=draining", f"EXTEND_TIMEOUT_USEC={to_the_end_us}")
        self._publish(msgspec.structs.replace(self._state, stage=state_file.DRAINING))
        self._end_standby()
        self._held.listeners.close()  # the workers' copies decide from now on when new connections are refused
        self._agent_back_off.cancel()
        kill_at = time.monotonic() + self._drain_s()
        for slot in self._slots:
            slot.back_off.cancel()
            for child in slot.children():
                if child.state is not State.STOPPING:
                    child.stop(kill_at)

    def _drain_s(self) -> float:
        return self._edition.config.gateway.drain_timeout_ns / 1e9 + self._patience.drain_more

    def _stop_agent_last(self, now: float) -> None:
        """It tells until the end how the drain goes."""
        if self._agent and self._agent.state is not State.STOPPING and not any(s.children() for s in self._slots):
            self._agent.stop(now + self._patience.agent_stop)

    def _kill_at_once(self) -> None:
        log.warning("interrupted again: killing")
        self._exit_code = EXIT_KILLED
        for child in self._children():
            child.kill()


def _in_one_line(text: str) -> str:
    return "; ".join(line.strip() for line in text.splitlines() if line.strip(" ^"))
