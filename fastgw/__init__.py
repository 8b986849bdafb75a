"""fastgw: an HTTP gateway to services that communicate through Kafka.

Read the files floor by floor (each imports only from floors below): errors, ids, messages; config, kafka_wire,
mesh_wire, problem, _ctable; table, partitions, intake, exchange, metrics; the edges (http_granian, kafka_link,
mesh_links, membership, admin); worker and agent; supervisor; cli and demo.
"""

__version__ = "0.1.0"
