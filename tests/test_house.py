"""The import rule of docs/design.md, and rooms that must stay without jax."""

import ast
import graphlib
import pathlib
import re
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


def there(name: str, page: pathlib.Path) -> bool:
  """Returns whether a page's path, or dotted name, is one of this project."""
  if name.endswith('/'):
    return (ROOT / name).is_dir()
  if name.endswith('.py'):
    homes = ROOT, ROOT / 'gpt_jax', ROOT / 'experiments', page.parent
    bare = '/' not in name and any(ROOT.glob(f'[!.]*/**/{name}'))
    return bare or any((home / name).exists() for home in homes)
  *parents, last = name.split('.')
  module = ROOT.joinpath(*parents, last)
  if module.is_dir() or module.with_suffix('.py').exists():
    return True
  home = ROOT.joinpath(*parents)
  file = home / '__init__.py' if home.is_dir() else home.with_suffix('.py')
  text = file.read_text() if file.exists() else ''
  aliases = (ROOT / 'gpt_jax/__init__.py').read_text()
  return bool(re.search(rf'\b{last}\b', text)) or f"'{name}':" in aliases


def test_what_the_pages_name_exists():
  pages = [ROOT / 'README.md', *ROOT.glob('*/*.md')]
  # The page on tasks makes the first; the page of the house says the second is not.
  made_up = {'gpt_jax/tasks/prompted/quiz.py', 'utils.py'}
  missing = []
  for page in pages:
    text = page.read_text(encoding='utf-8')
    names = set(re.findall(r'(?<![\w./-])[\w/-]*\w\.py\b', text)) - made_up
    names |= set(re.findall(r'\bgpt_jax(?:\.[A-Za-z_]\w*)+(?!\w|/)', text))
    names |= set(re.findall(r'\bgpt_jax/[\w/]*/', text))
    for module, several in re.findall(r'from (gpt_jax[\w.]*) import ([\w, ]+)', text):
      names |= {f'{module}.{each.strip()}' for each in several.split(',')}
    names = {name for name in names if not name.endswith('.md')}
    missing += [f'{page.name}: {name}' for name in names if not there(name, page)]
  assert not missing
  folders, listed = [], []
  tree = (ROOT / 'docs/design.md').read_text(encoding='utf-8').split('```')[1]
  for line in tree.split('gpt_jax/\n')[1].split('\nexperiments/')[0].splitlines():
    name, depth = line.split()[0], (len(line) - len(line.lstrip())) // 2
    folders[depth - 1 :] = [name]
    listed.append(''.join(folders))
  modules = {path.relative_to(ROOT / 'gpt_jax').as_posix() for path in MODULES}
  inside = {name for name in modules if name.startswith('tasks/prompted/')}
  inside |= {name for name in modules if name.endswith('/__init__.py')}
  assert sorted(name for name in listed if name.endswith('.py')) == sorted(
    modules - inside
  )


def test_the_core_has_as_many_lines_as_readme_says():
  text = (ROOT / 'README.md').read_text(encoding='utf-8')
  core = ' '.join(text.split('### The core')[1].split('\n#')[0].split())
  files = re.findall(r'`(\w+/\w+\.py)`', core)
  said = int(re.search(r'about ([\d,]+) lines', core)[1].replace(',', ''))
  lines = [len((ROOT / 'gpt_jax' / file).read_text().splitlines()) for file in files]
  assert abs(sum(lines) - said) < 0.1 * said
