"""The supervisor: starts, watches and replaces the agent and the workers. It serves no requests itself.

It owns everything that must outlive a single child: the listening sockets, the shared table, the run directory. It has
one thread with one selector, which wakes for signals, for reports of children (readiness pipe) and for children that
end (pidfd). Timeouts are checked in between. Every step is a function and every state is data: a `Child` for each
process, a `Worker` for the processes of one worker, a `Rollout` for the configuration that each worker should have.

    agent ready ──> workers start ──> all ready, READY=1 ──> serving ──> SIGTERM ──> workers drain ──> agent ends

    worker dies       its slots in the table are reclaimed and a successor starts: at once after a good run, else after
                      a pause that grows with each short run
    worker hangs      no heartbeat for 2.5 s after its first one: it is killed and replaced like a dead worker
    standby           a process that has imported everything waits to become the next worker: a successor starts faster
    watchdog          systemd's watchdog is notified while a worker serves and all heartbeats are fresh
    agent dies        a successor starts, the workers are not affected; an agent that hangs for 15 s is killed
    store dies        the same; it runs only if a route needs it; the end does not wait for one that cannot be killed
    SIGHUP            the new configuration is read, and a checker makes the agent's start-up checks with it in Kafka.
                      If the new workers need a store that is not there yet, it is started and waited for. Then a new
                      generation of each worker starts, one worker after the other; when it is ready, the old one
                      drains. If one does not become ready, the replaced workers go back to the old configuration.
                      The state file and systemd get the result
    SIGTERM, SIGINT   readiness becomes false and the workers drain; after the drain timeout they are killed; exit 0
    second SIGINT     all children are killed at once; exit 130
    supervisor dies   the children read EOF on the life pipe and end by themselves
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import time
from enum import Enum
from functools import partial
from math import inf
from pathlib import Path

import setproctitle
import structlog

from fastgw import config, logs, state_file, table
from fastgw.config import Config, changes
from fastgw.config.of_store import for_store
from fastgw.errors import ConfigError, StartError
from fastgw.supervisor import systemd
from fastgw.supervisor.children import Child, CommandFor, State, environment, fastgw_command
from fastgw.supervisor.liveness import Liveness
from fastgw.supervisor.reports import Reports, in_one_line
from fastgw.supervisor.resources import SupervisorResources, in_memory, rewrite
from fastgw.supervisor.rollout import ConfigVersion, Rollout, Stage, Step
from fastgw.supervisor.spawning import Spawner
from fastgw.supervisor.standby import Standby
from fastgw.supervisor.store_child import StoreChild
from fastgw.supervisor.times import TIMES, SupervisorTimes
from fastgw.supervisor.workers import Worker, back_off_of, not_accepting, run_ended

log = structlog.get_logger("fastgw.supervisor")

EXIT_KILLED = 130  # as shells report a command that Ctrl-C ended


class Phase(Enum):
    """The phases of the service."""

    STARTING_AGENT = 1
    STARTING_WORKERS = 2
    SERVING = 3
    DRAINING = 4


def run(config_path: Path, command_for: CommandFor = fastgw_command, times: SupervisorTimes = TIMES) -> int:
    """Run a gateway until a signal ends it. Returns the exit code: 0 after a drain, 130 after a second Ctrl-C.

    The run directory is a new directory of mode 0700 in `gateway.run_dir`, else in $RUNTIME_DIRECTORY (systemd), else
    in $XDG_RUNTIME_DIR, else in the directory for temporary files. It is removed when the supervisor ends.
    Under systemd, sockets passed in $LISTEN_FDS are used instead of binding; see `listeners.open_listeners`.

    Raises:
        ConfigError: the configuration is wrong; nothing was started.
        StartError: an address is in use, or the agent or a worker cannot start or is not ready in time.
    """
    logs.configure("supervisor")
    supervisor = Supervisor(config_path, command_for, times)
    setproctitle.setproctitle(f"fastgw: {supervisor.name} supervisor")
    return supervisor.run()


class Supervisor:
    """One running gateway."""

    def __init__(self, config_path: Path, command_for: CommandFor, times: SupervisorTimes) -> None:
        # For the life of the service.
        self._config_path = config_path
        self._command_for = command_for
        self._times = times
        self._watchdog_s = systemd.watchdog_s()
        self._environ = environment(without=systemd.OWN_VARIABLES)
        self._selector = selectors.DefaultSelector()
        self._owned = contextlib.ExitStack()
        # Changed by reloads.
        settings = config.load(config_path)
        self._rollout = Rollout(ConfigVersion(settings, -1))
        self._reload_wanted = False
        self.name = settings.gateway.name  # a reload cannot change it
        self._reports = Reports(self.name, config_path)
        # The processes.
        self._workers = [Worker(number, back_off_of(times)) for number in range(settings.gateway.workers)]
        self._agent: Child | None = None
        self._agent_back_off = back_off_of(times)
        self._store = StoreChild(self._start_store, times)
        self._store_config: Config | None = None
        self._checkers: list[Child] = []  # the last one belongs to the present reload
        self._standby: Standby | None = None
        self._standby_back_off = back_off_of(times)
        # Phase and deadlines; times are monotonic seconds.
        self._phase = Phase.STARTING_AGENT
        self._start_by = inf
        self._watchdog_at = inf
        self._exit_code = 0

    def __repr__(self) -> str:
        return f"<Supervisor {self._phase.name} {self._children()}>"

    def run(self) -> int:
        """Run the service from its start to its end; returns the exit code."""
        with self._owned:
            self._open()
            self._start_service()
            while not self._over():
                for key, _events in self._selector.select(self._idle_s()):
                    key.data()
                self._look(time.monotonic())
        return self._exit_code

    def _over(self) -> bool:
        if self._phase is not Phase.DRAINING:
            return False
        left = [child for child in self._children() if child is not self._store.child]
        return not left and not self._store.holds_up(time.monotonic())

    def _children(self) -> list[Child]:
        return self._lasting() + self._checkers

    def _lasting(self) -> list[Child]:
        """The long-running children, which have heartbeats."""
        agent = [self._agent] if self._agent else []
        store = [self._store.child] if self._store.child else []
        return agent + store + self._worker_processes()

    def _worker_processes(self) -> list[Child]:
        return [child for worker in self._workers for child in worker.processes()]

    # Opening. After any failure `_owned` closes everything that was opened.

    def _open(self) -> None:
        settings = self._rollout.current.config
        self._open_signals()
        self._resources = SupervisorResources(settings)
        self._owned.callback(self._resources.close)
        self._liveness = Liveness(self._resources.table, self._times)
        self._owned.callback(os.close, state_file.hold(self._resources.run_dir))
        self._reports.open(self._resources.run_dir)
        self._rollout.current = ConfigVersion(settings, in_memory(config.to_json(settings), sealed=True))
        self._owned.callback(lambda: os.close(self._rollout.current.fd))
        self._agent_config_fd = in_memory(config.to_json(settings), sealed=False)  # rewritten by reloads
        self._owned.callback(os.close, self._agent_config_fd)
        self._store_config_fd = in_memory(b"", sealed=False)  # `_tell_store` writes it
        self._owned.callback(os.close, self._store_config_fd)
        self._spawner = Spawner(self._resources, self._command_for, self._environ, self._times, self._take_standby)
        self._owned.callback(self._end_the_rest)

    def _open_signals(self) -> None:
        self._owned.callback(self._selector.close)
        reading, writing = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self._owned.callback(os.close, reading)
        self._owned.callback(os.close, writing)
        self._owned.callback(signal.set_wakeup_fd, signal.set_wakeup_fd(writing, warn_on_full_buffer=False))
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            # The handler does nothing: the number arrives through the pipe, in the loop.
            before = signal.signal(number, lambda _number, _frame: None)
            # A second SIGTERM must not kill us while we end: the exit code would be wrong.
            self._owned.callback(signal.signal, number, signal.SIG_IGN if number == signal.SIGTERM else before)
        self._selector.register(reading, selectors.EVENT_READ, partial(self._signalled, reading))

    def _end_the_rest(self) -> None:
        """Ends the children after an exception. SIGTERM comes first, so that each can leave Kafka in order."""
        self._end_standby()
        for child in self._children():
            child.send(signal.SIGTERM)
        kill_at = time.monotonic() + self._times.drain_more
        for child in self._children():
            if not child.ends_within(max(0.0, min(kill_at, child.killed_at) - time.monotonic())):
                child.kill()
            give_up_after = child.killed_at + self._times.agent_stop - time.monotonic()
            if child.ends_within(min(self._times.agent_stop, max(0.0, give_up_after))):
                child.reap()
            else:
                log.error("child cannot be killed: ended without it", child=child.name, pid=child.pid)

    # Starting the service.

    def _start_service(self) -> None:
        self._reports.starting("agent")
        self._start_by = time.monotonic() + self._times.start
        self._spawn_agent()
        if self._agent is None:
            raise StartError("the agent could not be started")

    def _start_workers(self) -> None:
        self._phase = Phase.STARTING_WORKERS
        self._reports.starting("workers")
        self._start_by = time.monotonic() + self._times.start
        self._tell_store()
        for worker in self._workers:
            worker.current = self._spawn_worker(worker, self._rollout.current)

    def _started(self) -> None:
        self._phase, self._start_by = Phase.SERVING, inf
        self._standby_back_off.succeeded(time.monotonic())
        if self._watchdog_s is not None:
            self._watchdog_at = 0.0
        self._tell_serving()
        log.info(
            "ready",
            addresses=self._resources.listeners.addresses,
            admin=self._resources.admin.addresses,
            workers=len(self._workers),
            node=f"{self._resources.table.node:06x}",
        )
        self._reload_if_wanted()

    def _tell_serving(self) -> None:
        self._reports.serving(self._resources.listeners.addresses, len(self._workers))

    # Starting children.

    def _spawn_agent(self) -> None:
        self._agent = self._watched(self._spawner.agent(self._agent_config_fd))
        if self._agent is None:
            self._agent_back_off.failed(time.monotonic())

    def _start_store(self) -> Child | None:
        return self._watched(self._spawner.store(self._store_config_fd))

    def _spawn_worker(self, worker: Worker, version: ConfigVersion) -> Child | None:
        """Start the next generation; None if that is not possible now (then it is due after the back-off)."""
        generation = worker.next_generation()
        child = None
        if generation is not None:
            child = self._watched(self._spawner.worker(worker.number, generation, version.fd))
        if child is None:
            worker.back_off.failed(time.monotonic())
        else:
            worker.generation, child.config = child.generation, version.config
        return child

    def _watched(self, child: Child | None) -> Child | None:
        if child is not None:
            self._selector.register(child.pidfd, selectors.EVENT_READ, partial(self._ended, child))
            self._selector.register(child.ready_fd, selectors.EVENT_READ, partial(self._spoke, child))
        return child

    # The standby.

    def _start_standby(self, now: float) -> None:
        """Start a standby while no other child is starting, so that it does not slow down their start."""
        starting = any(child.state is State.STARTING for child in self._children())
        if self._phase is not Phase.SERVING or starting or not self._standby_back_off.due(now):
            return
        self._standby = self._spawner.standby(self.name)
        if self._standby is None:
            self._standby_back_off.failed(now)
            return
        self._selector.register(self._standby.pidfd, selectors.EVENT_READ, partial(self._standby_ended, now))

    def _take_standby(self) -> Standby | None:
        """Take the standby to make it a worker; a new standby is due."""
        taken, self._standby = self._standby, None
        if taken is not None:
            self._selector.unregister(taken.pidfd)
            self._standby_back_off.due_at = time.monotonic()
        return taken

    def _standby_ended(self, since: float) -> None:
        now = time.monotonic()
        log.error("child ended", child="standby", ran_s=round(now - since, 3))
        self._end_standby()
        run_ended(self._standby_back_off, now, now - since, self._times)

    def _end_standby(self) -> None:
        if self._standby is not None:
            self._selector.unregister(self._standby.pidfd)
            self._standby.end()
            self._standby = None

    # Children that speak.

    def _spoke(self, child: Child) -> None:
        if child.ready_fd < 0:
            return  # it ended in the same turn of the loop and was read there
        line = child.heard()
        if line is None:
            return
        self._selector.unregister(child.ready_fd)
        child.close_pipe()
        if child.state is not State.STARTING:
            return  # it was told to stop while it started
        if line == "ready":
            self._became_ready(child)
        elif line:
            self._refused(child, line.removeprefix("error "))
        # An empty line: the child is about to end, or the start timeout ends it.

    def _became_ready(self, child: Child) -> None:
        child.state, child.kill_at, child.ready_at = State.READY, inf, time.monotonic()
        log.info("child ready", child=child.name, pid=child.pid, took_s=round(child.ready_at - child.started_at, 3))
        if child in self._checkers:
            self._checked(child)
        elif child is self._agent:
            if self._phase is Phase.STARTING_AGENT:
                self._start_workers()
        elif child.is_worker:
            self._worker_became_ready(self._workers[child.worker], child)

    def _worker_became_ready(self, worker: Worker, child: Child) -> None:
        if child is worker.incoming:
            self._replaced(worker)
        if self._phase is Phase.STARTING_WORKERS and all(
            worker.current and worker.current.state is State.READY for worker in self._workers
        ):
            self._started()

    def _refused(self, child: Child, why: str) -> None:
        """A child reports that it cannot start. During the first start this ends the whole command."""
        if self._phase in (Phase.STARTING_AGENT, Phase.STARTING_WORKERS):
            raise StartError(f"{child.name}: {why}" if child.is_worker else why)
        child.refusal = why
        if child not in self._checkers:
            log.error("child cannot start", child=child.name, why=why)
        child.state, child.kill_at = State.STOPPING, time.monotonic() + self._times.agent_stop

    # Children that end.

    def _ended(self, child: Child) -> None:
        if child.ready_fd >= 0:
            self._spoke(child)  # read its last message before it is reaped
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
        elif child is self._store.child:
            self._store.ended(ran_s)
        else:
            self._worker_ended(self._workers[child.worker], child, how, ran_s)

    def _agent_ended(self, how: str, ran_s: float) -> None:
        self._agent = None
        if self._phase is Phase.STARTING_AGENT:
            raise StartError(f"the agent ended before it was ready ({how})")
        if self._phase is not Phase.DRAINING:
            run_ended(self._agent_back_off, time.monotonic(), ran_s, self._times)

    def _worker_ended(self, worker: Worker, child: Child, how: str, ran_s: float) -> None:
        self._reclaim(child)
        self._resources.listeners.left_by(worker.number)
        if child is worker.current:
            worker.current = None
            if self._phase is not Phase.DRAINING and worker.incoming is None:
                run_ended(worker.back_off, time.monotonic(), ran_s, self._times)
        elif child is worker.incoming:
            worker.incoming = None
            self._tell_store()
            self._not_replaced(worker, child.refusal or how)
        else:
            worker.outgoing.remove(child)
            self._tell_store()
            self._replace_next()  # the next worker may have waited for this range in the table

    def _reclaim(self, child: Child) -> None:
        process = table.process_index(child.worker, child.generation)
        reclaimed, repaired = self._resources.table.reclaim(process)
        if reclaimed or repaired:
            log.warning("slots reclaimed", child=child.name, reclaimed=reclaimed, repaired=repaired)

    # Timeouts.

    def _idle_s(self) -> float:
        """Seconds until the next timeout."""
        due = [child.kill_at for child in self._children()]
        due += [worker.back_off.due_at for worker in self._workers]
        due += [self._agent_back_off.due_at, self._store.due_at, self._start_by, self._watchdog_at]
        return min(self._times.look, max(0.0, min(due) - time.monotonic()))

    def _look(self, now: float) -> None:
        self._end_a_start_without_end(now)
        self._spread_connections(now)
        self._start_successors(now)
        self._start_standby(now)
        self._kill_the_late(now)
        self._kill_the_hung(now)
        self._replace_next()  # it may have waited for the store
        if now >= self._watchdog_at:
            self._feed_watchdog(now)
        if self._phase is Phase.DRAINING:
            self._stop_agent_last(now)

    def _end_a_start_without_end(self, now: float) -> None:
        if now >= self._start_by:
            waited_for = [child.name for child in self._children() if child.state is not State.READY]
            raise StartError(f"not ready within {self._times.start:g} s: {', '.join(waited_for) or 'the workers'}")

    def _spread_connections(self, now: float) -> None:
        listeners, accepts = self._resources.listeners, self._liveness.accepts
        away = not_accepting(self._workers, now, self._times, accepts, listeners.not_accepting)
        listeners.set_not_accepting(away)

    def _start_successors(self, now: float) -> None:
        if self._agent_back_off.due(now):
            self._spawn_agent()
        self._store.start_if_due(now)
        for worker in self._workers:
            if worker.back_off.due(now) and worker.current is None and worker.incoming is None:
                worker.current = self._spawn_worker(worker, self._rollout.version_of(worker.number))

    def _kill_the_late(self, now: float) -> None:
        for child in self._children():
            if now >= child.kill_at:
                log.error("child timed out: killed", child=child.name, pid=child.pid, state=child.state.value)
                if child.state is State.STARTING:
                    child.refusal = f"not ready within {self._times.start:g} s"
                child.kill()

    def _kill_the_hung(self, now: float) -> None:
        for child in self._liveness.hung(self._lasting(), now):
            log.error("child hung: killed", child=child.name, pid=child.pid)
            child.kill()

    def _feed_watchdog(self, now: float) -> None:
        """Notify systemd's watchdog if all workers are well."""
        assert self._watchdog_s is not None
        if self._liveness.all_well(self._worker_processes(), now):
            self._reports.alive()
            self._watchdog_at = now + self._watchdog_s / 2
        else:
            self._watchdog_at = now + self._times.look

    # Reloading. `_rollout` decides; the methods here execute its decisions.

    def _reload_if_wanted(self) -> None:
        """Begin a reload if the service serves and no other reload runs. Requests during a reload cause one more."""
        if self._reload_wanted and self._phase is Phase.SERVING and self._rollout.stage is Stage.IDLE:
            self._reload_wanted = False
            self._begin_reload()

    def _begin_reload(self) -> None:
        """Read the new configuration and start its checker. After any failure the old configuration stays."""
        self._reports.reloading()
        self._rollout.begin()
        try:
            fresh = self._rollout.fresh = self._next_version()
        except (ConfigError, OSError) as error:
            self._take(self._rollout.failed(str(error)))
            return
        checker = self._watched(self._spawner.checker(fresh.fd))
        if checker is None:
            self._take(self._rollout.failed("the checker could not be started"))
            return
        self._checkers.append(checker)

    def _next_version(self) -> ConfigVersion:
        before = self._rollout.current.config
        after = config.load(self._config_path)
        if fixed := changes.restart_only_changes(before, after):
            raise ConfigError(
                f"{self._config_path}: {', '.join(fixed)}: expected no change while the gateway runs,"
                " got another value; restart the gateway to change it"
            )
        if broken := changes.broken_promise(before, after):
            raise ConfigError(f"{self._config_path}: {broken}")
        after = changes.keep_route_numbers(before, after)
        return ConfigVersion(after, in_memory(config.to_json(after), sealed=True))

    def _checked(self, checker: Child) -> None:
        """The checker has passed the new configuration: replace the first worker."""
        checker.stop(time.monotonic() + self._times.agent_stop)  # its work is done
        if self._is_awaited(checker):
            log.info("reloading", config=str(self._config_path))
            self._rollout.passed_check(len(self._workers))
            self._start_store_first()
            self._replace_next()

    def _checker_ended(self, checker: Child, how: str) -> None:
        awaited = self._is_awaited(checker)
        self._checkers.remove(checker)
        if awaited:
            why = checker.refusal or f"the checker ended without a result ({how})"
            self._take(self._rollout.failed(why))

    def _is_awaited(self, checker: Child) -> bool:
        return self._rollout.stage is Stage.CHECKING and checker is self._checkers[-1]

    def _replace_next(self) -> None:
        """Start the new generation of the next worker, if its range in the table is free."""
        if self._rollout.turn is None or self._store.is_awaited(time.monotonic(), self._liveness.store_serves):
            return
        worker = self._workers[self._rollout.turn]
        if worker.incoming is not None or worker.next_generation() is None:
            return
        worker.back_off.cancel()
        worker.incoming = self._spawn_worker(worker, self._rollout.target)
        if worker.incoming is None:
            self._not_replaced(worker, "could not be started")

    def _start_store_first(self) -> None:
        """Give the store what the new workers need; if that takes parts that it does not have, let them wait for it."""
        if self._tell_store():
            self._store.await_next(time.monotonic() + self._rollout.target.config.gateway.ready_wait_ns / 1e9)

    def _replaced(self, worker: Worker) -> None:
        """The new generation is ready: the old one drains while the next worker is replaced."""
        before = worker.succeed()
        if before is not None:
            before.stop(time.monotonic() + self._drain_s())
        self._take(self._rollout.replaced())

    def _not_replaced(self, worker: Worker, how: str) -> None:
        """The new generation failed: workers that were replaced already go back to the old configuration."""
        if worker.current is None and self._phase is not Phase.DRAINING:
            worker.back_off.failed(time.monotonic())
        if self._rollout.turn == worker.number:
            done = self._rollout.done
            log.error("reload stopped, the old configuration stays", worker=worker.number, how=how, undone=done)
            self._take(self._rollout.failed(f"worker {worker.number}: {how}"))

    def _take(self, step: Step) -> None:
        """Execute the result of a step of the rollout."""
        if step.unused is not None:
            os.close(step.unused.fd)
        if not step.result:
            self._replace_next()
            return
        self._tell_store()
        if step.result == state_file.OK:
            self._tell_agent()
            log.info("reloaded", config=str(self._config_path))
        elif step.result == state_file.REFUSED:
            log.error("reload refused, the old configuration stays", error=in_one_line(step.error))
        self._reports.reloaded(step.result, step.error)
        self._tell_serving()
        self._reload_if_wanted()

    def _tell_agent(self) -> None:
        """Make the agent read its configuration again. In group mode a restart would cause a rebalance."""
        rewrite(self._agent_config_fd, config.to_json(self._rollout.current.config))
        if self._agent is None:
            return  # its successor reads the new one
        if self._agent.state is State.READY:
            self._agent.send(signal.SIGHUP)
        elif self._agent.state is State.STARTING:
            self._agent.stop(time.monotonic() + self._times.agent_stop)  # it may have read the old or the new one

    def _tell_store(self) -> bool:
        """Give the store what living workers need, and those that may start next: also that of an old configuration.

        Returns:
            Whether it starts again with more parts than it had.
        """
        if self._phase is Phase.DRAINING:
            return False  # it ends after the last worker
        living = [child.config for child in self._worker_processes() if child.config is not None]
        needed = for_store(self._rollout.current.config, [self._rollout.target.config, *living])
        if needed == self._store_config:
            return False
        before, self._store_config = self._store_config, needed
        rewrite(self._store_config_fd, config.to_json(needed))
        self._store.want(needed.needs_store)
        self._store.read_again()
        keeps_replies, has_streams = (before.keeps_replies, before.has_streams) if before else (False, False)
        return needed.keeps_replies > keeps_replies or needed.has_streams > has_streams

    # Signals, and the end.

    def _signalled(self, reading: int) -> None:
        for number in os.read(reading, 256):
            if self._phase is not Phase.DRAINING:
                self._told(signal.Signals(number))
            elif number == signal.SIGINT:
                self._kill_at_once()

    def _told(self, number: signal.Signals) -> None:
        if number == signal.SIGHUP:
            self._reload_wanted = True
            self._reload_if_wanted()
        else:
            self._begin_drain(number)

    def _begin_drain(self, number: signal.Signals) -> None:
        log.info("draining", signal=number.name)
        self._phase, self._start_by = Phase.DRAINING, inf
        self._resources.table.set_service_draining()  # first: readiness is false before any worker refuses
        self._end_reload()
        self._reports.draining(self._drain_s() + self._times.agent_stop)
        self._end_standby()
        self._resources.listeners.close()  # workers hold copies and decide when new connections are refused
        self._agent_back_off.cancel()
        self._stop_workers(time.monotonic() + self._drain_s())

    def _end_reload(self) -> None:
        step = self._rollout.cancel()
        if step.unused is not None:
            os.close(step.unused.fd)
        for checker in self._checkers:
            checker.kill()

    def _stop_workers(self, kill_at: float) -> None:
        for worker in self._workers:
            worker.back_off.cancel()
            for child in worker.processes():
                if child.state is not State.STOPPING:
                    child.stop(kill_at)

    def _drain_s(self) -> float:
        return self._rollout.current.config.gateway.drain_timeout_ns / 1e9 + self._times.drain_more

    def _stop_agent_last(self, now: float) -> None:
        """Stop the store after the last worker, and then the agent, so that it reports the drain until its end."""
        if self._worker_processes():
            return
        self._store.want(False)
        if self._agent and self._agent.state is not State.STOPPING and not self._store.holds_up(now):
            self._agent.stop(now + self._times.agent_stop)

    def _kill_at_once(self) -> None:
        log.warning("second interrupt: killing")
        self._exit_code = EXIT_KILLED
        for child in self._children():
            child.kill()
