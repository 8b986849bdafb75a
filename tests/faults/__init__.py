"""Faults under load, and an oracle that compares every HTTP answer with what is in Kafka afterwards."""
