"""The admin port: its pages and metrics. It reads the shared table and changes nothing."""
