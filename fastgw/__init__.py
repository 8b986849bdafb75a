"""fastgw: an HTTP gateway to services that communicate through Kafka.

Packages, in the order in which to read them. Each imports only what stands above it, and not all of that
(tests/source/test_imports.py has the table):

    errors.py, ids.py, table.py   how requests end; the correlation id; the memory that all processes of a node share
    config/                       what the operator wrote: sections, checks, the reference
    dialects/                     requests and replies as Kafka records; bytes only
    core/                         what happens to a request: routing, exchange, waiters; no I/O, time is an argument
    http/                         the fronts: HTTP in, calls of the door out
    kafka/                        records out, replies in; producers, topics
    mesh/                         frames and Unix sockets between the processes of a node
    worker/                       one worker process: joins core, http, kafka and mesh
    admin/                        the admin port: health, metrics, status
    agent/                        the agent process: partition map, membership, consumer lag
    store/                        the store process: kept replies, idempotency keys, streams
    supervisor/                   starts, watches, replaces and reloads the processes
    service/                      the library for services: `from fastgw.service import Service`
    doctor/                       what is wrong with an installation
    demo/                         an embedded broker, and services to try it with
    cli/                          the commands

Begin with core/exchange.py, the life of one request. docs/architecture.md explains how the parts work together.
"""

__version__ = "0.1.0"
