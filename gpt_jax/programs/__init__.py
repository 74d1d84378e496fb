"""What compiled programs move, compute and send, for devices that may be absent."""
