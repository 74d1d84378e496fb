"""How a sweep is shown while it runs: a live table, or plain lines."""

import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping

import rich.live
import rich.table

from gpt_jax.sweep.plan import Sweep
from gpt_jax.sweep.status import Result, result

_EVERY = {True: 1.0, False: 20.0}  # seconds between two looks; on a terminal, elsewhere
_FIRST = ('running', 'failed', 'in use', 'stopped', 'waiting')
_COLOURS = {'running': 'cyan', 'finished': 'green', 'failed': 'red'}


class Board:
  """Shows the states of all runs; made new from their folders each time."""

  def __init__(self, sweep: Sweep, states: Mapping[str, str]):
    """Takes the runs and their states, which it looks at whenever it shows them."""
    self.sweep, self.states = sweep, states
    self.told = dict(states)
    self.terminal = sys.stdout.isatty()
    self.next = 0.0
    self.known: dict[str, Result] = {}
    console = rich.console.Console()
    self.height = console.height
    # It has no thread of its own, as workers are forked from this one.
    self.live = rich.live.Live(console=console, auto_refresh=False)

  def __enter__(self) -> Callable[[], None]:
    if self.terminal:
      self.live.start()
    else:
      print(self._counts(), flush=True)
    return self.show

  def __exit__(self, *_) -> None:
    self.next = 0.0
    self.show()
    self.live.stop()

  def show(self) -> None:
    """Shows how things stand, if that is due; elsewhere also what has changed."""
    changed = [name for name, state in self.states.items() if state != self.told[name]]
    due = time.monotonic() >= self.next
    if not due and not changed:
      return
    self._look(changed)
    if due:
      self.next = time.monotonic() + _EVERY[self.terminal]
    if self.terminal:
      self.live.update(self._table(), refresh=True)
    else:
      named = [
        n for n, s in self.states.items() if n in changed or due and s == 'running'
      ]
      for name in named:
        print(self._line(name), flush=True)
    self.told = dict(self.states)

  def _look(self, changed: list[str]) -> None:
    """Reads the folders of runs that have news."""
    for entry in self.sweep.entries:
      name = entry.name
      if name not in self.known or name in changed or self.states[name] == 'running':
        self.known[name] = result(entry)

  def _counts(self) -> str:
    count = Counter(self.states.values())
    told = ', '.join(f'{number} {state}' for state, number in count.items())
    return f'{len(self.states)} runs: {told}'

  def _cells(self, name: str) -> list[str]:
    found = self.known[name]
    running = self.states[name] == 'running' and found.left is not None
    return [
      name,
      self.states[name],
      f'{found.step}/{found.steps}',
      '-' if found.loss is None else f'{found.loss:.4f}',
      '-' if found.best_nll is None else f'{found.best_nll:.4f}',
      f'{found.left:.0f} s' if running else '-',
    ]

  def _line(self, name: str) -> str:
    name, state, updates, loss, best, left = self._cells(name)
    done = sum(each == 'finished' for each in self.states.values())
    parts = [f'[{done}/{len(self.states)}] {name}: {state}', f'update {updates}']
    told = (f'loss {loss}', f'held-out {best}', f'{left} left')
    return '  '.join(parts + [part for part in told if '-' not in part.split()])

  def _table(self) -> rich.table.Table:
    """Returns the table of all runs, or of those that are at work where it is high."""
    table = rich.table.Table(caption=self._counts())
    for head in ('run', 'state', 'update', 'loss', 'best held-out', 'left'):
      table.add_column(head, justify='left' if head in ('run', 'state') else 'right')
    names = list(self.states)
    room = max(self.height - 7, 3)
    if len(names) > room:
      order = {state: place for place, state in enumerate(_FIRST)}
      names.sort(key=lambda name: order.get(self.states[name], len(_FIRST)))
      table.caption += f' ({len(names) - room} not shown)'
    for name in names[:room]:
      table.add_row(*self._cells(name), style=_COLOURS.get(self.states[name]))
    return table
