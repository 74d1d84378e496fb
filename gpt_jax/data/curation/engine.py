"""Runs pure functions over the shards of a corpus: here in processes, or by Spark.

There are two ways to work: `Engine.map`, a function of each item, and `Engine.group`,
which brings together what many items say under one key. A function writes its output
itself and returns a small result, which is kept as a *mark*: a JSON file in the folder
`state`, with the CPU seconds that it took. What has a mark is not done again, so that
the same command goes on after a kill. Nothing depends on which process does what: any
number of workers, and Spark, give the same bytes.

Spark (Zaharia et al. 2012, "Resilient Distributed Datasets") gives GPT-3's data, as its
authors, machines. It hands out the same tasks: what is sorted and grouped goes by way
of files in `state`, and not by Spark's own shuffle, whose files end with the
application. So all machines must reach `state` and the shards by the same path: a
network disk, or a URL of an object store.

A process of this machine is this module run by itself, as of `data/encode.py`: it ends
when the caller does, however that ends.
"""

import atexit
import contextlib
import functools
import hashlib
import json
import os
import queue
import shutil
import sys
import tempfile
import time
import traceback
import weakref
import zipfile
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed, wait
from pathlib import Path
from typing import Any, NamedTuple

import rich.console
import rich.progress

from gpt_jax.config import UserError
from gpt_jax.data import process
from gpt_jax.data.curation import groups
from gpt_jax.data.curation.shards import joined, names_in, opened, remove, written
from gpt_jax.data.formats import imported
from gpt_jax.data.process import Process
from gpt_jax.files import brief, field, of_kind, parse_json

_LINE_EVERY = 10.0  # seconds between lines of progress where there is no terminal
# There are as many processes as cores; and how many threads add decides the last bits.
_ONE_THREAD = {'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'}
_POLL = 0.5  # seconds between looks at what Spark has finished


class Task(NamedTuple):
  """One item's work.

  Attributes:
    function: called with the item; returns a value of JSON.
    mark: path of the file that keeps the result.
    digest: of the function, its settings and the item.
  """

  function: Callable[[Any], Any]
  item: Any
  mark: str
  digest: str


# How tasks are run: yields the results of tasks as they end, in any order, with their
# numbers. A result may be an exception.
_Runner = Callable[[Sequence[Task]], Iterator[tuple[int, Any]]]


class Engine:
  """Runs functions over items, and keeps what is done in a folder.

  Attributes:
    state: folder of the marks, or URL.
  """

  def __init__(
    self, state: str | Path, run: _Runner, rest: Callable[[], None] | None = None
  ):
    self.state = str(state)
    self._run, self._rest = run, rest

  def rest(self) -> None:
    """Ends idle processes of this machine and so frees their memory."""
    if self._rest:
      self._rest()

  def map(
    self, name: str, function: Callable[[Any], Any], items: Iterable[Any]
  ) -> list[Any]:
    """Returns the results of a function in the order of its items.

    Args:
      name: of the work, and of the folder of its marks; another work has another.
      function: of a module, or a partial of one, so that any process can import it;
        pure but for the files it writes, which are the same each time. Its result is
        a value of JSON.
      items: values whose repr says all of them: texts, numbers, tuples of such.

    Raises:
      UserError: the function raised one, a process died, or `state` has marks of the
        same name by another function, settings or item.
    """
    items = list(items)
    folder = joined(self.state, name)
    what, there = _described(function), set(names_in(folder))
    results, todo = {}, []
    for number, item in enumerate(items):
      mark = f'{number:06d}.json'
      task = Task(function, item, joined(folder, mark), _digest(what, item))
      if mark in there:
        results[number] = _result(task)
      else:
        todo.append((number, task))
    done = self._run([task for _, task in todo])
    for at, result in _shown(name, len(results), len(items), done):
      if isinstance(result, Exception):
        raise result
      results[todo[at][0]] = result
    return [results[number] for number in range(len(items))]

  def group(
    self,
    name: str,
    emit: Callable[[Any], Iterable[groups.Entry]],
    reduce: Callable[[bytes, Iterator[bytes]], Iterable[bytes]],
    items: Iterable[Any],
    parts: int,
  ) -> list[str]:
    """Returns the files, one a part, of the records that each key's values give.

    All values of a key meet in one call of `reduce`, in sorted order, equal ones as
    often as they came. Part p has the records of the keys whose crc32 is p modulo
    `parts`, in the order of the keys; `groups.read_records` reads it. The memory of a
    process is bounded, however many entries there are.

    Args:
      name: as in `map`.
      emit: yields the keys and values of an item; as the function of `map`.
      reduce: yields records of a key and an iterator of its values.
      parts: files that the records are divided over.

    Raises:
      UserError: as in `map`.
    """
    folder = joined(self.state, name)
    runs, listing = joined(folder, 'runs'), joined(folder, 'runs.json')
    counts = self.map(
      joined(name, 'emit'),
      functools.partial(groups.spill, emit, runs, parts),
      enumerate(items),
    )
    with written(listing) as stream:
      stream.write(json.dumps(counts).encode())
    paths = self.map(
      joined(name, 'reduce'),
      functools.partial(
        groups.reduce_part, reduce, runs, listing, joined(folder, 'records'), parts
      ),
      range(parts),
    )
    remove(runs)
    return paths


def _described(value: Any) -> str:
  """Returns what a function and the arguments bound to it are, the same in any run."""
  if isinstance(value, functools.partial):
    bound = [*value.args, *sorted(value.keywords.items())]
    return f'{_described(value.func)}({", ".join(map(_described, bound))})'
  if isinstance(value, (tuple, list)):
    return f'({", ".join(map(_described, value))})'
  if hasattr(value, '__qualname__'):
    return f'{value.__module__}.{value.__qualname__}'
  text = repr(value)
  if ' at 0x' in text:
    raise TypeError(f'{text} says nothing of what it is, so that no mark can name it')
  return text


def _digest(what: str, item: Any) -> str:
  """Returns the digest of a function, by its description, with an item."""
  text = f'{what}\n{_described(item)}'
  return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def _result(task: Task) -> Any:
  """Returns the result that a mark keeps; a UserError says that it is another's."""
  remedy = 'take another --workdir, or remove this one to begin again'
  with opened(task.mark) as stream:
    mark = parse_json(stream.read().decode(errors='replace'), task.mark, remedy)
  of_kind(mark, dict, task.mark, remedy)
  if field(mark, 'digest', str, task.mark, remedy) != task.digest:
    raise UserError(f'{task.mark} is of other settings or another input; {remedy}')
  return field(mark, 'result', None, task.mark, remedy)


def work(task: Task) -> Any:
  """Returns a task's result, kept in its mark; or the exception that it raised."""
  begun = time.process_time()
  try:
    result = task.function(task.item)
    with written(task.mark) as stream:
      cpu = round(time.process_time() - begun, 3)
      mark = {'digest': task.digest, 'result': result, 'cpu': cpu}
      text = json.dumps(mark, allow_nan=False)
      stream.write(text.encode())
    return json.loads(text)['result']
  except (UserError, OSError) as error:
    return error
  except Exception:  # a bug; the other process must say where
    return RuntimeError(f'a process of the engine raised:\n{traceback.format_exc()}')


def _shown(
  name: str, done: int, total: int, results: Iterator[tuple[int, Any]]
) -> Iterator[tuple[int, Any]]:
  """Yields results and shows how many there are, of how many, with the time left.

  Args:
    done: items that were finished before.
  """
  console = rich.console.Console(stderr=True)
  columns = (
    rich.progress.TextColumn('{task.description}'),
    rich.progress.BarColumn(),
    rich.progress.MofNCompleteColumn(),
    rich.progress.TimeElapsedColumn(),
    rich.progress.TextColumn('left'),
    rich.progress.TimeRemainingColumn(),
  )
  bar = rich.progress.Progress(
    *columns, console=console, disable=not console.is_terminal, transient=True
  )
  if done and done < total:
    print(f'{name}: {done:,} of {total:,} were done before')
  begun = said = time.monotonic()
  with contextlib.closing(results), bar:
    line = bar.add_task(name, completed=done, total=total)
    for count, each in enumerate(results, 1):
      yield each
      bar.update(line, advance=1)
      now = time.monotonic()
      if not console.is_terminal and now - said >= _LINE_EVERY:
        left = (now - begun) / count * (total - done - count)
        print(f'{name}: {done + count:,} of {total:,}, {left:,.0f} s left', flush=True)
        said = now


def local(workers: int, state: str | Path) -> Engine:
  """Returns an engine of processes on this machine.

  Args:
    workers: processes at a time; 1 works in this one.
    state: folder of the marks, or URL.
  """
  if workers == 1:
    return Engine(state, _inside)
  processes = _Processes(workers)
  return Engine(state, processes.run, processes.end)


def alone(state: str | Path) -> Engine:
  """Returns an engine of one process of this machine, whose sums are of one thread."""
  process = _Processes(1)
  return Engine(state, process.run, process.end)


def _inside(tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
  """Runs tasks in this process; see `_Runner`."""
  for number, task in enumerate(tasks):
    yield number, work(task)


class _Processes:
  """Processes of this machine, which start as they are needed and are used again."""

  def __init__(self, most: int):
    self._most, self._all = most, []
    weakref.finalize(self, _end, self._all)

  def end(self) -> None:
    """Ends all; the next tasks start new ones."""
    _end(self._all)

  def run(self, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
    """Runs tasks; see `_Runner`."""
    while len(self._all) < min(self._most, len(tasks)):
      self._all.append(_process())
    idle: queue.SimpleQueue[Process] = queue.SimpleQueue()
    for one in self._all:
      idle.put(one)

    def call(task: Task) -> Any:
      one = idle.get()
      try:
        return one.ask(task)
      except UserError as died:
        return died
      finally:
        idle.put(one)

    with contextlib.ExitStack() as stack:
      pool = stack.enter_context(ThreadPoolExecutor(self._most))
      stack.callback(_end, self._all)  # what is not done yet is not waited for
      stack.callback(pool.shutdown, wait=False, cancel_futures=True)
      numbers = {pool.submit(call, task): number for number, task in enumerate(tasks)}
      for future in as_completed(numbers):
        yield numbers[future], future.result()
      stack.pop_all()
      pool.shutdown()


def _end(processes: list[Process]) -> None:
  """Ends processes and empties their list."""
  while processes:
    processes.pop().end()


def _process() -> Process:
  """Returns a running process that does tasks."""
  one = Process(
    ['-c', _SERVE],
    _ONE_THREAD,
    'run the same command again, with fewer at a time: --workers=1',
  )
  one.tell([str(Path(__file__).parents[3]), *sys.path])
  return one


# It must import nothing of ours before it knows where ours is.
_SERVE = """
import pickle, sys
sys.path[:] = pickle.load(sys.stdin.buffer)
from gpt_jax.data.curation import engine
engine.serve()
"""


def serve() -> None:
  """Does the tasks of the standard input until it ends: in a process of its own."""
  process.serve(lambda: work)


def spark(master: str, state: str | Path) -> Engine:
  """Returns an engine of Spark's executors; an extra.

  Args:
    master: URL of the cluster, as Spark takes it: local[4], spark://host:7077, yarn.
    state: folder of the marks, or URL, which all its machines reach.
  """
  return Engine(state, functools.partial(_on_spark, master))


def _on_spark(master: str, tasks: Sequence[Task]) -> Iterator[tuple[int, Any]]:
  """Runs tasks on Spark, each as a task of its own; see `_Runner`."""
  if not tasks:
    return
  context = _context(master)
  job = context.parallelize(list(enumerate(tasks)), len(tasks)).map(_numbered_work)
  folder = tasks[0].mark.rpartition('/')[0]
  left = {task.mark.rpartition('/')[2]: number for number, task in enumerate(tasks)}
  with contextlib.ExitStack() as stack:
    pool = stack.enter_context(ThreadPoolExecutor(1))
    stack.callback(context.cancelAllJobs)
    collected = pool.submit(job.collect)
    while not collected.done():
      wait([collected], timeout=_POLL)
      for name in left.keys() & set(names_in(folder)):
        number = left.pop(name)
        yield number, _result(tasks[number])
    results = dict(collected.result())
    for number in left.values():
      yield number, results[number]


def _numbered_work(numbered: tuple[int, Task]) -> tuple[int, Any]:
  number, task = numbered
  return number, work(task)


def _context(master: str) -> Any:
  """Returns Spark's context at a master, which knows this package."""
  pyspark = imported('pyspark', f'--engine=spark ({master})')
  os.environ.setdefault('PYSPARK_PYTHON', sys.executable)
  active = pyspark.SparkContext._active_spark_context
  if active and active.master == master:
    return active
  if active:
    active.stop()
  settings = pyspark.SparkConf().setMaster(master).setAppName('gpt_jax')
  settings.set('spark.ui.showConsoleProgress', 'false')  # ours is shown
  try:
    context = pyspark.SparkContext(conf=settings)
  except Exception as error:  # Java's, whatever they are
    raise UserError(
      f'--master={master}: Spark does not start ({brief(error)}); it needs Java, and a '
      'master that answers'
    ) from error
  # Executors fetch it whenever they start, so it stays as long as this process.
  folder = tempfile.mkdtemp(prefix='gpt_jax')
  atexit.register(shutil.rmtree, folder, ignore_errors=True)
  package, archive = Path(__file__).parents[2], Path(folder, 'gpt_jax.zip')
  with zipfile.ZipFile(archive, 'w') as out:
    for path in sorted(package.rglob('*.py')):
      out.write(path, path.relative_to(package.parent))
  context.addPyFile(str(archive))
  return context
