"""What compiled programs move, compute and send, read off XLA's text of them."""
