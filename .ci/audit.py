"""Looks for known vulnerabilities of the packages in lock files, by pip-audit.

  .tools/bin/python .ci/audit.py requirements-dev.lock

It exits with 0 if all packages were looked up and none has any, with 1 if one has, and
with 2 if some could not be looked up, as on a machine without the network.
"""

import json
import pathlib
import re
import subprocess
import sys
import tempfile
from typing import Any


def pins(text: str) -> list[str]:
  """Returns the NAME==VERSION of a lock file, for every Python and platform."""
  return re.findall(r'^([\w.-]+==[^\s;\\]+)', text, re.MULTILINE)


def layers(pinned: list[str]) -> list[list[str]]:
  """Returns the same pins in lists with each package once, as pip-audit wants them."""
  lists: list[dict[str, str]] = []
  for pin in dict.fromkeys(pinned):
    name = pin.partition('==')[0]
    free = next((each for each in lists if name not in each), None)
    if free is None:
      lists.append(free := {})
    free[name] = pin
  return [list(each.values()) for each in lists]


def audited(pinned: list[str]) -> tuple[list[dict[str, Any]], str]:
  """Returns what pip-audit says of packages, and why it failed, or ''."""
  with tempfile.TemporaryDirectory() as folder:
    path = pathlib.Path(folder, 'requirements.txt')
    path.write_text('\n'.join(pinned) + '\n', encoding='utf-8')
    command = [sys.executable, '-m', 'pip_audit', '--no-deps', '--disable-pip']
    command += ['--format=json', '--progress-spinner=off', '-r', str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
  try:
    return json.loads(done.stdout)['dependencies'], ''
  except (ValueError, KeyError):
    lines = done.stderr.strip().splitlines()
    return [], lines[-1] if lines else f'it ended with {done.returncode}'


def verdict(
  asked: int, packages: list[dict[str, Any]], failure: str
) -> tuple[int, list[str]]:
  """Returns the exit code, and the lines to print.

  Args:
    asked: how many packages should have been looked up.
    packages: what pip-audit says of each.
    failure: why it could say nothing of some, or ''.
  """
  faults = [
    f'{each["name"]} {each["version"]}: {fault["id"]}, mended in '
    f'{", ".join(fault["fix_versions"]) or "no version yet"}'
    for each in packages
    for fault in each.get('vulns', ())
  ]
  missing = asked - sum('vulns' in each for each in packages)
  if missing or not asked:
    reasons = [each['skip_reason'] for each in packages if 'skip_reason' in each]
    unknown = (
      f'NOT AUDITED: {missing} of {asked} packages could not be looked up '
      f'({next(filter(None, [failure, *reasons]), "no reason given")}); run '
      '`make audit` where the index of packages can be reached'
    )
    return (1 if faults else 2), [*faults, unknown]
  if faults:
    return 1, faults
  return 0, [f'no known vulnerabilities in {asked} packages']


def main() -> int:
  """Audits the files named on the command line, and returns the exit code."""
  texts = [pathlib.Path(name).read_text(encoding='utf-8') for name in sys.argv[1:]]
  pinned = pins('\n'.join(texts))
  packages, failure = [], ''
  for layer in layers(pinned):
    more, failed = audited(layer)
    packages, failure = packages + more, failure or failed
  code, lines = verdict(len(set(pinned)), packages, failure)
  print('\n'.join(lines))
  return code


if __name__ == '__main__':
  sys.exit(main())
