"""The SDK for services behind the gateway: `from fastgw.service import Service`."""

from fastgw.service.messages import Problem, Reply, Request
from fastgw.service.service import Counts, Service

__all__ = ["Counts", "Problem", "Reply", "Request", "Service"]
