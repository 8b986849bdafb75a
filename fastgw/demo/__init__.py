"""The embedded broker and the demo with its services."""
