"""What tasks ask a language model, in the papers' words; without jax."""
