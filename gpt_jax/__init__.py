"""The GPT line in JAX/Flax, from raw text to the papers' tables.

The rooms, in reading order; each imports only from those before it:

  config      the schema of a run, its checks, the published models
  files       files written whole or not at all
  tokenizers  text <-> token ids
  data        sources of text, token files, training windows
  tasks       labelled and prompted tasks: their files, inputs and prompts
  model       attention, layers, the GPT
  weights     other people's weights, read and written
  training    objective, step, optimizer, sharding, checkpoints, the loop
  decoding    sampling and beam search, compiled
  evaluation  likelihoods, metrics, statistics, benchmarks
  inference   a trained model with its tokenizer
  runs        workdirs, training runs, fine-tuning, evaluation, reproduction
  sweep       many runs of one config
  reports     pages, figures and tables about runs
  cli         the verbs of launch.py

`gpt_jax.load(path)` opens a trained model:

  model = gpt_jax.load('runs/quickstart')
  model.generate('Once upon a time', max_new_tokens=50)[0].text
"""

import importlib
import importlib.abc
import importlib.machinery
import sys

# Names that users' files may import -> the modules that have them now.
_ALIASES = {
  'gpt_jax.papers': 'gpt_jax.config.papers',
  'gpt_jax.data.rows': 'gpt_jax.tasks.readers',
  'gpt_jax.prompting': '',  # a package of the next ones, and nothing else
  'gpt_jax.prompting.question': 'gpt_jax.tasks.prompts',
  'gpt_jax.prompting.files': 'gpt_jax.tasks.prompted_files',
  'gpt_jax.prompting.detokenize': 'gpt_jax.tasks.detokenize',
  'gpt_jax.harness': 'gpt_jax.cli.lm_eval',
}


class _Aliases(importlib.abc.MetaPathFinder, importlib.abc.Loader):
  """Imports a module under an older name: the same object, not a copy."""

  def find_spec(self, name, path=None, target=None):
    del path, target
    if name in _ALIASES:
      # A package has no code of its own, as `python -m` would need.
      package = not _ALIASES[name]
      return importlib.machinery.ModuleSpec(name, self, is_package=package)
    return None

  def create_module(self, spec):
    target = _ALIASES[spec.name]
    return importlib.import_module(target) if target else None

  def exec_module(self, module):
    """Nothing: it is executed under its own name."""

  def get_code(self, name):
    """Returns the code to run for `python -m NAME`."""
    return importlib.util.find_spec(_ALIASES[name]).loader.get_code(_ALIASES[name])


sys.meta_path.append(_Aliases())


def __getattr__(name: str):
  # Lazy, so that rooms without jax stay without jax.
  if name == 'load':
    from gpt_jax.runs.load import load

    return load
  if f'gpt_jax.{name}' in _ALIASES:
    return importlib.import_module(f'gpt_jax.{name}')
  raise AttributeError(f'module {__name__!r} has no attribute {name!r}')
