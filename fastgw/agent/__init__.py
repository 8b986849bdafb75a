"""The agent process: membership in the cluster, consumer lag, and the partition map of a node."""
