"""The store process: what outlives one reply (kept answers, claims of idempotency keys), told from the topics alone."""
