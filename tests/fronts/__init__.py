"""One conformance suite for every HTTP front: real sockets outside, the real intake and exchange inside.

`kinds.py` lists the fronts. A new one joins by one line there.
"""
