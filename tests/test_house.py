"""The import rule of docs/design.md, and rooms that must stay without jax."""

import ast
import graphlib
import pathlib
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = (
  'config files tokenizers data tasks model weights training decoding evaluation '
  'inference runs sweep reports cli'
).split()
WITHOUT_JAX = [
  'config',
  'config.papers',
  'tokenizers',
  'tokenizers.hugging_face',
  'data.sources',
  'tasks.labelled',
  'data.token_files',
  'tasks.prompted',
  'evaluation.text_metrics',
  'evaluation.metrics',
  'evaluation.statistics',
  'evaluation.baselines',
  'sweep.plan',
]
MODULES = sorted((ROOT / 'gpt_jax').rglob('*.py'))


def room(module: str) -> str:
  return module.split('.')[1]


def imports(path: pathlib.Path) -> list[str]:
  names = []
  for node in ast.walk(ast.parse(path.read_text())):
    if isinstance(node, ast.Import):
      names += [alias.name for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
      assert node.level == 0, f'{path}: relative import'
      if node.module == 'gpt_jax':
        names += [f'gpt_jax.{alias.name}' for alias in node.names]
      else:
        names.append(node.module)
  return names


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_from_rooms_before_its_own(path):
  parts = path.relative_to(ROOT / 'gpt_jax').with_suffix('').parts
  if parts == ('__init__',):
    return  # it offers `load`, lazily
  for name in imports(path):
    assert name.split('.')[0] not in ('launch', 'experiments'), name
    if name.startswith('gpt_jax.'):
      assert ORDER.index(room(name)) <= ORDER.index(parts[0]), f'{path} imports {name}'


def module_name(path: pathlib.Path) -> str:
  parts = path.relative_to(ROOT).with_suffix('').parts
  return '.'.join(part for part in parts if part != '__init__')


def test_no_modules_import_each_other_in_a_circle():
  graph = {module_name(path): set() for path in MODULES}
  for path in MODULES:
    for node in ast.walk(ast.parse(path.read_text())):
      if isinstance(node, ast.ImportFrom):
        for alias in node.names:
          whole = f'{node.module}.{alias.name}'
          graph[module_name(path)].add(whole if whole in graph else node.module)
  del graph['gpt_jax']  # it offers `load`, lazily
  assert 'gpt_jax.tokenizers.protocol' in graph['gpt_jax.tokenizers.kinds']
  list(graphlib.TopologicalSorter(graph).static_order())  # or a CycleError names it


def test_every_room_is_named_in_the_order():
  tops = {p.relative_to(ROOT / 'gpt_jax').parts[0].removesuffix('.py') for p in MODULES}
  assert tops - {'__init__'} <= set(ORDER)


@pytest.mark.parametrize('module', WITHOUT_JAX)
def test_fast_rooms_import_without_jax(module):
  code = f'import sys, gpt_jax.{module}; assert "jax" not in sys.modules'
  subprocess.run([sys.executable, '-c', code], check=True, cwd=ROOT)
