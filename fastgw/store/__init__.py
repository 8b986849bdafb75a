"""The store of a node: one process that reads what outlives a request, keeps it on disk, and tells the workers.

    topic_reader ──batches──> store ──> tables              on disk, a little later (write_behind)
                                │
    workers <──states── server ─┴─ requests, watches        what is known about a request, and who wants to know

    stream_reader ──records──> follows ──items──> workers   streams: who follows which, and how much they can take

Plain requests never come here. If the store is down or slow, they do not notice.
"""
