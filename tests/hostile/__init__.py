"""Clients in numbers that mean no good, and what they cost the others. `make hostile` runs the long version."""
