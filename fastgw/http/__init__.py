"""The HTTP fronts: bytes of HTTP come in, calls of the gateway's door go out."""
