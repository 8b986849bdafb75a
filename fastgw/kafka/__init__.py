"""Records out, replies in: the Kafka links, their settings, and topics."""
