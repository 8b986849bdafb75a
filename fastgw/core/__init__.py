"""What happens to a request: routing, the exchange, ownership of partitions. No I/O; time is an argument."""
