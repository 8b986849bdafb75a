"""Frames and Unix sockets between the worker processes of one node."""
