"""The command line: parses arguments, runs a command, returns its exit code.

Each command imports its modules when it runs, so that `--help` and configuration errors appear at once.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

from fastgw import __version__
from fastgw.errors import FastgwError, StartError
from fastgw.structlog_alone import import_structlog

if TYPE_CHECKING:
    from fastgw.config import Config
    from fastgw.kafka.topic_checks import Findings

PIPE_WIDTH = 10_000  # longer than any line
INTERRUPTED = 130  # as shells report Ctrl-C: 128 + SIGINT

app = typer.Typer(
    name="fastgw",
    help="HTTP in front of services that are reached through Kafka request/reply.\n\n"
    "Start with `fastgw demo`: it needs no Kafka and no configuration. Then write a fastgw.toml "
    "(`fastgw schema` lists its settings), let `fastgw topics` create its topics and start `fastgw run`.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,  # plain text: [kafka] in a help text is a table of the configuration, not markup
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

ConfigPath = Annotated[Path, typer.Argument(metavar="CONFIG", help="The configuration file.", show_default=True)]
DEFAULT_CONFIG = Path("fastgw.toml")


def main() -> None:
    """The `fastgw` command."""
    app(prog_name="fastgw")


def _finish(work: Callable[[], int]) -> NoReturn:
    """Exit with the code that `work` returns. An error is printed in one line, without a traceback."""
    import_structlog()
    try:
        code = work()
    except FastgwError as error:
        print(f"fastgw: {error}", file=sys.stderr)
        code = error.exit_code
    except KeyboardInterrupt:
        code = INTERRUPTED
    raise typer.Exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        print(f"fastgw {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@app.command()
def run(config: ConfigPath = DEFAULT_CONFIG) -> None:
    """Run the gateway: a supervisor with its workers and agent.

    SIGTERM or Ctrl-C drains it: open requests are answered, then it ends. SIGHUP reads the configuration again and
    replaces the workers one by one without losing a request; a configuration with a mistake changes nothing.
    """

    def work() -> int:
        from fastgw.supervisor import supervisor

        return supervisor.run(config)

    _finish(work)


@app.command()
def reload(
    config: ConfigPath = DEFAULT_CONFIG,
    pid: Annotated[
        int | None, typer.Option(min=1, help="The pid of the supervisor, if several gateways run with this file.")
    ] = None,
    timeout: Annotated[float, typer.Option(min=0.1, help="How long to wait for the result, in seconds.")] = 300.0,
) -> None:
    """Reload the configuration of the running gateway, and wait for the result.

    The gateway is found by its configuration file, on this machine. It makes the same checks as `fastgw run`, topics
    included. Then it replaces its workers one by one. Ctrl-C ends the waiting, not the reload.

    Exit code 0: the gateway runs with the new configuration. With any other code the old configuration stays. Exit code
    2: the new configuration was refused, or no gateway runs with this file. Exit code 1: workers could not start with
    the new configuration, or there was no result in time.
    """

    def work() -> int:
        from fastgw.cli import reload_request

        done = reload_request.reload(config, pid, timeout)
        print(f"{config}: reloaded by the gateway with pid {done.pid} in {done.took_s:.1f} s")
        return 0

    _finish(work)


@app.command()
def check(
    config: ConfigPath = DEFAULT_CONFIG,
    live: Annotated[
        bool,
        typer.Option("--live", help="Check topics in Kafka, too: existence, partitions, rights and replicas."),
    ] = False,
) -> None:
    """Check a configuration without starting anything.

    Exit code 0: the gateway can start (there may be warnings). Exit code 2: it cannot start; stderr says why.
    """

    def work() -> int:
        from fastgw import config as configuration
        from fastgw.kafka import cluster, topic_checks

        settings = configuration.load(config)
        cluster.check_client(settings)
        print(_summary(settings))
        for warning in configuration.warnings_about(settings):
            print(f"warning: {config}: {warning}")
        return _report(topic_checks.examine(settings)) if live else 0

    _finish(work)


def _summary(config: Config) -> str:
    gateway, routes = config.gateway, len(config.routes)
    listens = ", ".join(listen.bind for listen in gateway.listens)
    counted = "1 route" if routes == 1 else f"{routes} routes"
    workers = "1 worker" if gateway.workers == 1 else f"{gateway.workers} workers"
    return f"{config.source}: {counted}, {workers} on {listens}, replies on topic {gateway.response_topic}"


def _report(findings: Findings) -> int:
    """Print the findings; returns the exit code."""
    _print_table(findings)
    if not findings.facts.has_admin:
        print("This broker has no admin API: rights, replicas and settings were not checked.")
    for finding in findings.warnings:
        print(f"warning: {finding}")
    for finding in findings.errors:
        print(f"fastgw: {finding}", file=sys.stderr)
    return StartError.exit_code if findings.errors else 0


def _print_table(findings: Findings) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table("topic", "partitions", "replicas", "min.insync", box=None, pad_edge=False)
    for name, topic in findings.facts.topics.items():
        least = (topic.settings or {}).get("min.insync.replicas", "-")
        partitions = str(topic.partitions) if topic.partitions else "missing"
        table.add_row(name, partitions, str(topic.replicas or "-"), least)
    # rich would wrap lines in a pipe at 80 characters.
    console = Console(markup=False, highlight=False)
    if not console.is_terminal:
        console.width = PIPE_WIDTH
    console.print(table)


@app.command()
def doctor(
    config: ConfigPath = DEFAULT_CONFIG,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check a live installation, and say what to do about each problem.

    Checks Kafka, this machine and, through its admin port, the gateway that runs here. Changes nothing.

    Exit code 0: no errors, at most warnings. Exit code 1: an error keeps the gateway from working. Exit code 2: the
    configuration is wrong.
    """

    def work() -> int:
        from fastgw import config as configuration
        from fastgw.doctor import doctor as examination

        findings = examination.examine(configuration.load(config))
        if as_json:
            print(json.dumps([finding._asdict() for finding in findings], indent=2, ensure_ascii=False))
        else:
            examination.print_table(findings)
        return examination.exit_code(findings)

    _finish(work)


@app.command()
def topics(
    config: ConfigPath = DEFAULT_CONFIG,
    partitions: Annotated[int, typer.Option(min=1, max=4096, help="Partitions of a new request topic.")] = 4,
    response_partitions: Annotated[
        int | None,
        typer.Option(
            min=1, max=4096, help="Partitions of the response topic. [default: 4 for each worker, a power of two]"
        ),
    ] = None,
    replication: Annotated[
        int | None,
        typer.Option(min=1, max=32, help="Replicas of each new topic. [default: 3, or the number of brokers]"),
    ] = None,
) -> None:
    """Create the topics that a configuration needs.

    Existing topics stay unchanged, except a response topic with fewer partitions than workers: it gets more partitions.
    The response topic keeps replies for an hour.
    """

    def work() -> int:
        from fastgw import config as configuration
        from fastgw.kafka import topic_checks
        from fastgw.kafka import topics as kafka_topics

        settings = configuration.load(config)
        kafka_topics.create(
            settings,
            partitions=partitions,
            response_partitions=response_partitions,
            replication=replication,
            progress=lambda step: print(step, flush=True),
        )
        for warning in topic_checks.check(settings):
            print(f"warning: {warning}")
        return 0

    _finish(work)


@app.command()
def demo(
    listen: Annotated[str, typer.Option(help="Address of the gateway.")] = "127.0.0.1:8080",
    admin: Annotated[str, typer.Option(help="Address of the admin port: health, metrics, status.")] = "127.0.0.1:9100",
    workers: Annotated[int, typer.Option(min=1, max=128, help="Worker processes of the gateway.")] = 2,
) -> None:
    """Start an embedded broker, three small services and a gateway.

    Prints requests to try, and runs until Ctrl-C.
    """

    def work() -> int:
        from fastgw.demo import demo

        return demo.run(listen=listen, admin=admin, workers=workers)

    _finish(work)


@app.command()
def broker(
    topics: Annotated[
        list[str] | None, typer.Argument(metavar="TOPIC:PARTITIONS", help="Topics to create, such as orders:4.")
    ] = None,
    brokers: Annotated[int, typer.Option(min=1, max=16, help="Number of brokers in the cluster.")] = 1,
    listen: Annotated[
        str,
        typer.Option(metavar="HOST:PORT", help="Address of the first broker; the others take the next ports."),
    ] = "",
    advertise: Annotated[
        str, typer.Option(metavar="HOST", help="Host name of the brokers for clients, if it differs.")
    ] = "",
) -> None:
    """Run only the embedded broker, for experiments.

    Without --listen it uses free ports of 127.0.0.1. It prints its address and runs until Ctrl-C. It keeps nothing on
    disk. A topic that is not named here is created on first use, with 4 partitions.
    """

    def work() -> int:
        from fastgw.demo import broker

        try:
            parsed = [broker.parse_topic(topic) for topic in topics or ()]
            return broker.run(parsed, brokers=brokers, listen=listen, advertise=advertise)
        except broker.BrokerError as error:
            raise StartError(str(error)) from None

    _finish(work)


@app.command()
def schema(
    markdown: Annotated[bool, typer.Option("--markdown", help="Print a Markdown reference instead.")] = False,
) -> None:
    """Print the JSON Schema of the configuration file, for editors."""

    def work() -> int:
        from fastgw import config as configuration

        if markdown:
            print(configuration.markdown_reference(), end="")
        else:
            print(json.dumps(configuration.json_schema(), indent=2, ensure_ascii=False))
        return 0

    _finish(work)
