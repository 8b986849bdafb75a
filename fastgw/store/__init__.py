"""The store process: what outlives one reply, kept for all workers of a node.

- `tables`: the records of the kept topics, by their place in the log and by their keys
- `entries`: one such record, and the bytes in which it is kept
- `engine`: the file in which they are, LMDB
- `folder`: the folder of the tables: its lock, and whether what lies in it can be trusted
"""
