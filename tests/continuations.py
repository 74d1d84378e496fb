"""Every continuation of a prompt, for searches by brute force."""

import itertools


def endings(vocab, new, eot):
  """Returns all continuations of at most `new` tokens: end-of-text ends one."""
  return [
    ids
    for n in range(1, new + 1)
    for ids in itertools.product(range(vocab), repeat=n)
    if eot not in ids[:-1] and (n == new or ids[-1] == eot)
  ]
