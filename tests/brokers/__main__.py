"""`python -m tests.brokers --port N`: one Kafka in the foreground, until SIGTERM, SIGINT or Ctrl-C."""

from __future__ import annotations

import argparse
import signal
import sys

from tests.brokers.kafka_server import RealKafka, RealKafkaError


def main() -> int:
    """Start the brokers, print their bootstrap address on one line, and wait."""
    parser = argparse.ArgumentParser(prog="python -m tests.brokers", description=__doc__)
    parser.add_argument("--port", type=int, default=0, help="of the first broker; 0 (default) picks a free one")
    parser.add_argument("--nodes", type=int, default=1, help="brokers, each a process of its own (default 1)")
    parser.add_argument("--heap-mb", type=int, default=512, help="Java heap of each broker in MiB (default 512)")
    arguments = parser.parse_args()
    endings = {signal.SIGTERM, signal.SIGINT}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    try:
        with RealKafka(nodes=arguments.nodes, port=arguments.port, heap_mb=arguments.heap_mb) as kafka:
            print(kafka.bootstrap, flush=True)
            signal.sigwait(endings)
    except RealKafkaError as error:
        print(f"real_kafka: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
