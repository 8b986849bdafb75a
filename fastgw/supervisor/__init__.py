"""The supervisor process: it starts, watches, replaces and reloads the others."""
