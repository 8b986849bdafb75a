"""The HTTP clients that people use, each as a small program of its own, through reloads and an end of the gateway.

`fleet.py` lists the programs and starts them, `judge.py` holds what they were told against what is in Kafka, `trip.py`
is the play. Every program takes the same arguments and writes the same lines:

    PROGRAM CA CONNECTIONS PAUSE_MS NAME=VERSION=URL...

For each NAME it keeps CONNECTIONS connections busy with one request after the other, PAUSE_MS between them, over HTTP
VERSION (1 or 2), trusting CA. The bodies of two requests out of four have no length: they are streamed. It writes one
JSON line per request when its fate is known:

    {"client": NAME, "body": ..., "status": 200, "version": "1.1", "answer": ..., "outcome": "recorded", "error": ""}

A request that got no answer has status 0, and says why in `error`. When its standard input ends, the program finishes
the requests that are under way and ends.
"""
