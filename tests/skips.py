"""What was not run, and how it can be: one line at the end of the suite.

A plugin of pytest, which conftest.py takes in. Under xdist a file that is skipped as it
is imported is known to the workers alone, so they send it.
"""

import collections
import re
from collections.abc import Iterable

import pytest

# What is needed, how to get it, and which reasons say so. The first that fits counts.
GROUPS = (
  (
    'torch, transformers and lm-eval',
    'make parity',
    r'torch|transformers|lm_eval|accelerate|make parity',
  ),
  ('a GPU', 'benchmarks/gpu.sh', r'^no GPU'),
  ('data sets', 'set GPT_JAX_DATA', r'^no data at|^no file of'),
  ('compilers of absent devices', 'make absent-test', r'absent'),
  (
    'what curation may use besides',
    'docs/curation.md',
    r"'(pyspark|moto.*|s3fs|mmh3|pycld2|resiliparse|warcio)'|^no java",
  ),
  ('packages of requirements-dev.txt', 'make test', r'^could not import'),
)
_FILES = pytest.StashKey[dict[str, str]]()


def line(tests: Iterable[str], files: Iterable[str] = ()) -> str:
  """Returns one line of all that was skipped, or ''.

  Args:
    tests: the reason of each test that was skipped.
    files: of each file none of whose tests were run.
  """
  counts: dict[str, list[int]] = collections.defaultdict(lambda: [0, 0])
  for kind, reasons in enumerate((tests, files)):
    for reason in reasons:
      counts[_why(reason)][kind] += 1
  parts = []
  for why, (single, whole) in sorted(counts.items(), key=lambda x: (-sum(x[1]), x[0])):
    number = [
      f'{n} {unit}{"s" * (n > 1)}'
      for n, unit in ((single, 'test'), (whole, 'whole file'))
      if n
    ]
    parts.append(f'{" and ".join(number)} {why}')
  return 'not run: ' + '; '.join(parts) if parts else ''


def _why(reason: str) -> str:
  """Returns what a reason comes to: what is needed and how to get it, or its words."""
  reason = reason.removeprefix('Skipped: ')
  for need, how, pattern in GROUPS:
    if re.search(pattern, reason):
      return f'for want of {need} ({how})'
  return f'({reason})'


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
  """Returns the words that a test was skipped with."""
  return report.longrepr[2]


def pytest_configure(config: pytest.Config) -> None:
  config.stash[_FILES] = {}


class _Collected:
  """Notes files that are skipped as they are imported."""

  def __init__(self, config: pytest.Config):
    self.files = config.stash[_FILES]

  def pytest_collectreport(self, report: pytest.CollectReport) -> None:
    if report.skipped:
      self.files[report.nodeid] = _reason(report)


def pytest_sessionstart(session: pytest.Session) -> None:
  session.config.pluginmanager.register(_Collected(session.config))


def pytest_sessionfinish(session: pytest.Session) -> None:
  if hasattr(session.config, 'workeroutput'):  # of xdist
    session.config.workeroutput['skipped_files'] = session.config.stash[_FILES]


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node) -> None:
  # A worker that crashed sent nothing; xdist names the test that it was at.
  sent = getattr(node, 'workeroutput', {}).get('skipped_files', {})
  node.config.stash[_FILES].update(sent)


def pytest_terminal_summary(terminalreporter, config: pytest.Config) -> None:
  reports = terminalreporter.stats.get('skipped', [])
  tests = [_reason(each) for each in reports if isinstance(each, pytest.TestReport)]
  if said := line(tests, config.stash[_FILES].values()):
    terminalreporter.write_line(said)
