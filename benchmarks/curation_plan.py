"""What GPT-3's curation of 45 TB of Common Crawl takes, by what was measured here.

  python -m benchmarks.curation_plan

Every stage is a map over shards, whose CPU time is in proportion to the text, but for
the pairs of fuzzy de-duplication: a document is compared with `window` others in each
of 10 tables at most, and a share of these is verified, which grows with the corpus. So
maps cost what `benchmarks.curation_sizes` measured by GB, comparing and verifying what
it measured by pair, at the largest size that ran; the candidates of a document grow as
they did from its smallest to its largest size, by doubling.

From the paper (Brown et al. 2020, section 2.2, appendix A): 45 TB packed, 570 GB after
the filter and without copies, which were about a tenth. From us: what a byte unpacks
to, and a machine's cores.
"""

import json
import math
import pathlib
from collections.abc import Sequence
from typing import NamedTuple

from absl import flags

from gpt_jax.cli.messages import run_script
from gpt_jax.data.curation import candidates, dedup

_RESULT = flags.DEFINE_string(
  'result', 'benchmarks/results/curation.json', 'what curation_sizes wrote'
)
_PACKED = flags.DEFINE_float('packed', 45, 'TB of Common Crawl, packed')
_RATIO = flags.DEFINE_float('ratio', 2.6, 'bytes of text in a packed one; of gzip')
_LEFT = flags.DEFINE_float('left', 0.57, 'TB that are left in the end')
_COPIES = flags.DEFINE_float('copies', 0.1, 'share of copies before')
_CORES = flags.DEFINE_integer('cores', 32, 'cores of a machine')

_PAIRS = 'meet/reduce', 'gather/reduce', 'verify/emit', 'verify/reduce'


class Line(NamedTuple):
  """What a stage takes.

  Attributes:
    stage: its name.
    terabytes: of text that it reads.
    core_seconds: of CPU.
    shuffled: bytes of sorted runs on the disks at once.
  """

  stage: str
  terabytes: float
  core_seconds: float
  shuffled: float


class Pairs(NamedTuple):
  """What fuzzy de-duplication compares.

  Attributes:
    documents: there are.
    compared: pairs whose sketches are compared.
    verified: pairs whose sets are compared.
    bucket: documents of the largest bucket.
    bucket_seconds: of one core for that bucket, which is the work of one reducer.
  """

  documents: float
  compared: float
  verified: float
  bucket: float
  bucket_seconds: float


def _of(rows: Sequence[dict], stage: str) -> list[dict]:
  """Returns a stage's rows by size."""
  return sorted(
    (row for row in rows if row['stage'] == stage), key=lambda row: row['megabytes']
  )


def mapped(rows: Sequence[dict], stage: str, terabytes: float) -> Line:
  """Returns what a stage takes whose cost is in proportion to the text."""
  row = _of(rows, stage)[-1]
  share = terabytes * 1e12 / row['read']
  steps = dict(row['steps'])
  if stage == 'quality':
    # The classifier is fitted once, on as many documents, whatever the corpus; to draw
    # them a second pass reads all of it.
    steps |= {'fit': 0.0, 'sample': steps['count']}
  return Line(stage, terabytes, share * sum(steps.values()), share * row['shuffled'])


def compared(rows: Sequence[dict], terabytes: float) -> tuple[Line, Pairs]:
  """Returns what de-duplication in mode `gpt3` takes, and what it compares."""
  every = _of(rows, 'gpt3')
  least, row = every[0], every[-1]
  pairs, steps, share = row['report']['pairs'], row['steps'], terabytes * 1e12
  share /= row['read']
  documents = share * row['report']['documents']
  plan: candidates.Plan = dedup.Dedup('gpt3').plan()
  most = documents * plan.bands * plan.window

  def each(of: dict) -> float:
    return of['report']['pairs']['candidates'] / of['report']['documents']

  doublings = math.log2(row['report']['documents'] / least['report']['documents'])
  growth = (each(row) - each(least)) / doublings if doublings else 0.0
  verified = documents * (each(row) + max(0.0, growth) * math.log2(share))
  by_pair = steps['meet/reduce'] / pairs['compared']
  by_candidate = sum(steps[step] for step in _PAIRS[1:]) / pairs['candidates']
  others = share * sum(v for step, v in steps.items() if step not in _PAIRS)
  bucket = share * pairs['largest']
  # Signatures and elements of the candidates go by runs: the more of them, the more.
  shuffled = row['shuffled'] * share * verified / (share * pairs['candidates'])
  return (
    Line(
      'gpt3', terabytes, others + most * by_pair + verified * by_candidate, shuffled
    ),
    Pairs(documents, most, verified, bucket, bucket * plan.window * by_pair),
  )


def main(argv: list[str]) -> None:
  del argv
  rows = json.loads(pathlib.Path(_RESULT.value).read_text(encoding='utf-8'))
  text, left = _PACKED.value * _RATIO.value, _LEFT.value
  with_copies = left / (1 - _COPIES.value)
  line, pairs = compared(rows, with_copies)
  lines = [
    mapped(rows, 'ingest', text),
    mapped(rows, 'quality', text),
    line,
    mapped(rows, 'decontaminate', left),
  ]
  total = sum(each.core_seconds for each in lines)
  print('| stage | text, TB | core hours | machine hours | sorted runs, GB |')
  print('|---|---|---|---|---|')
  for stage, terabytes, seconds, shuffled in [
    *lines,
    Line('together', text, total, max(each.shuffled for each in lines)),
    Line('besides: gopher', *mapped(rows, 'gopher', text)[1:]),
    Line('besides: c4', *mapped(rows, 'c4', text)[1:]),
    Line('besides: exact', *mapped(rows, 'exact', with_copies)[1:]),
    Line('besides: bands', *mapped(rows, 'bands', with_copies)[1:]),
  ]:
    hours = seconds / 3600
    print(
      f'| {stage} | {terabytes:,.2f} | {hours:,.0f} | {hours / _CORES.value:,.1f} '
      f'| {shuffled / 1e9:,.0f} |'
    )
  print(
    f'\nA machine has {_CORES.value} cores. {_PACKED.value:g} TB packed are '
    f'{text:,.0f} TB of text at {_RATIO.value:g} bytes a byte. De-duplication compares '
    f'the sketches of {pairs.compared:.1e} pairs of {pairs.documents:.1e} documents '
    f'and the words of {pairs.verified:.1e}. The largest bucket, that of a frequent '
    f'word, has {pairs.bucket:.1e} documents: all of it goes by one reducer, a chunk '
    f'of 2^18 at a time, which takes {pairs.bucket_seconds / 3600:.1f} hours of a '
    'core, and bounds how soon this step ends, however many machines there are.'
  )


if __name__ == '__main__':
  run_script(main)
