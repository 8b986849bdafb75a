"""Requests and replies as Kafka records and back, one file for each dialect. Bytes only, no client."""
