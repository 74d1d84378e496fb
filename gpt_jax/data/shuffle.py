"""The inverse of the shuffle that windows of text are read in: grain's index_shuffle.

It is a Feistel network (Simon's round function; Beaulieu et al. 2013, "The SIMON and
SPECK Families of Lightweight Block Ciphers") over blocks of an even number of bits, at
least 16, with four round keys by C++'s `seed_seq`. What comes out too large goes into
it again (cycle walking; Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains").
All of that runs backwards, so that a window's place takes 40 microseconds, however many
windows there are.
"""

from collections.abc import Iterator

_MASK = 2**32 - 1
_KEYS = 4
_LEAST_BITS = 16


def places(window: int, number: int, seed: int) -> Iterator[int]:
  """Yields where grain's shuffle of 0 .. number - 1 has a number, in ascending order.

  Once, but where `number` is 1 more than a power of 4 from 4^8 on: its last place is
  then beyond the blocks and counts as the first, so that one number stands twice and
  the greatest never.

  Args:
    window: the number looked for.
    seed: of `shuffle`, with the epoch added.
  """
  if number == 1:
    yield 0
    return
  bits = max(_LEAST_BITS, (number - 2).bit_length())
  bits += bits % 2
  if window >> bits:
    return
  keys, place = _keys(seed % 2**32), window
  while True:
    place = _backwards(place, keys, bits // 2)
    if place < number:
      break
  yield place
  if place + 2**bits < number:
    yield place + 2**bits


def _backwards(value: int, keys: list[int], half: int) -> int:
  """Returns what the network makes a value of; `half`: bits of half a block."""
  mask = 2**half - 1
  left, right = value >> half, value & mask
  for first, second in ((keys[2], keys[3]), (keys[0], keys[1])):
    right ^= (_mixed(left, half) ^ second) & mask
    left ^= (_mixed(right, half) ^ first) & mask
  return left << half | right


def _mixed(value: int, half: int) -> int:
  """Returns Simon's round function of half a block."""

  def turned(by: int) -> int:
    return value << by | value >> (half - by)

  return (turned(1) & turned(8)) ^ turned(2)


def _keys(seed: int) -> list[int]:
  """Returns what `std::seed_seq{seed}` generates: [rand.util.seedseq] of C++."""
  b, n, p, q = [0x8B8B8B8B] * _KEYS, _KEYS, 1, 2

  def scrambled(value: int, factor: int) -> int:
    value &= _MASK
    return factor * (value ^ value >> 27) & _MASK

  for k in range(n):
    first = scrambled(b[k] ^ b[(k + p) % n] ^ b[k - 1], 1664525)
    added = (1, 1 + seed)[k] if k < 2 else k
    second = first + added & _MASK
    b[(k + p) % n] = b[(k + p) % n] + first & _MASK
    b[(k + q) % n] = b[(k + q) % n] + second & _MASK
    b[k] = second
  for k in range(n):
    first = scrambled(b[k] + b[(k + p) % n] + b[k - 1], 1566083941)
    second = first - k & _MASK
    b[(k + p) % n] ^= first
    b[(k + q) % n] ^= second
    b[k] = second
  return b
