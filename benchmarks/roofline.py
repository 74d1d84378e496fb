"""What a compiled program takes of a device, at least, from XLA's text of it.

usage: python -m benchmarks.roofline FILE [--device=h100] [--turn] [--top=15]

FILE holds `compiled.as_text()`.
"""

import argparse
import pathlib

from gpt_jax.cli.messages import shown
from gpt_jax.programs import hlo, roofline


def main() -> None:
  parser = argparse.ArgumentParser(
    description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
  )
  parser.add_argument('file', type=pathlib.Path)
  parser.add_argument('--device', default='h100', choices=roofline.DEVICES)
  parser.add_argument('--turn', action='store_true', help='one turn of its loop')
  parser.add_argument('--top', type=int, default=15, help='kernels to list')
  parser.add_argument('--turns', type=int, help='of loops that may end early')
  args = parser.parse_args()
  with shown([str(args.file)]):
    module = hlo.read(args.file.read_text(encoding='utf-8'))
    of = roofline.estimate(module, args.device, turn=args.turn, turns=args.turns)
    print(roofline.table(of, args.device, args.top))


if __name__ == '__main__':
  with shown():
    main()
