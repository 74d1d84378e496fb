"""The rules of docs/design.md that a program can check: imports, sizes, docstrings."""

import ast
import graphlib
import pathlib
import re
import subprocess
import sys

import pytest

ROOT = pathlib.Path(__file__).resolve().parent.parent
ORDER = (
  'config files paths tokenizers data tasks programs model weights training decoding '
  'evaluation inference runs sweep reports cli'
).split()
WITHOUT_JAX = [
  'config',
  'config.papers',
  'tokenizers',
  'tokenizers.hugging_face',
  'data.sources',
  'data.curation.pipeline',
  'tasks.labelled',
  'tasks.dialogue_tokens',
  'data.token_files',
  'training.xla_flags',
  'tasks.prompted',
  'programs.roofline',
  'evaluation.text_metrics',
  'evaluation.metrics',
  'evaluation.statistics',
  'evaluation.baselines',
  'sweep.plan',
]
# Exceptions whose words are for users.
REFUSALS = 'UserError', 'Diverged', 'Damaged'
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


def test_no_module_is_named_for_what_it_is_not():
  names = {p.stem for p in MODULES} | {p.parent.name for p in MODULES}
  assert not names & {'utils', 'util', 'helpers', 'common', 'misc'}


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_has_at_most_450_lines(path):
  assert len(path.read_text().splitlines()) <= 450


def defined(path: pathlib.Path, *kinds: type) -> dict[str, ast.AST]:
  """Returns what a module defines at any depth, by dotted name in it."""
  names = {}

  def visit(node: ast.AST, prefix: str):
    for child in ast.iter_child_nodes(node):
      inner = prefix
      if isinstance(child, (ast.FunctionDef, ast.ClassDef)):
        if isinstance(child, kinds):
          names[prefix + child.name] = child
        inner = f'{prefix}{child.name}.'
      visit(child, inner)

  visit(ast.parse(path.read_text()), '')
  return names


def code_lines(function: ast.FunctionDef, source: str) -> int:
  """Returns how many lines of a function are code: not blank, comment or docstring."""
  lines = set(range(function.lineno, function.end_lineno + 1))
  for node in ast.walk(function):
    if isinstance(node, ast.FunctionDef) and ast.get_docstring(node) is not None:
      lines -= set(range(node.body[0].lineno, node.body[0].end_lineno + 1))
  texts = [text.strip() for text in source.splitlines()]
  return sum(texts[i - 1] != '' and texts[i - 1][0] != '#' for i in lines)


# Functions that may have more than 70 lines of code, and why.
LONG = {
  'training.loop.train': 'the one loop: its order is what there is to read',
}


def test_a_function_has_at_most_70_lines_of_code():
  long = set()
  for path in MODULES:
    for name, function in defined(path, ast.FunctionDef).items():
      if code_lines(function, path.read_text()) > 70:
        long.add(f'{module_name(path).removeprefix("gpt_jax.")}.{name}')
  assert long == set(LONG)


# Words that say nothing about an argument, beside its name and the name of its type.
FILLERS = set(
  'a all an and are as by config every for function given has have in is it its model '
  'of on one or parameter parameters params run runs task that the their them these '
  'they this those to used what where which who whose with workdir'.split()
)


def words(text: str) -> set[str]:
  """Returns the words of a text or an identifier, lower-case and without plural s."""
  spaced = re.sub(r'(?<=[a-z])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|_|\W', ' ', text)
  return {word.lower().rstrip('s') for word in spaced.split()} - {''}


def empty_arguments(function: ast.FunctionDef) -> list[str]:
  """Returns the entries under `Args:` that only repeat a name.

  An entry is empty where nothing is left of it without fillers, the words of the
  argument's own name and those of its type. Numbers, units [..], quoted values,
  references `...` and what None means always are something.
  """
  doc = ast.get_docstring(function) or ''
  block = re.search(r'^Args:\n((?:  .*\n?|\n(?=  ))+)', doc, re.MULTILINE)
  if block is None:
    return []
  a = function.args
  types = {
    arg.arg: ast.unparse(arg.annotation)
    for arg in [*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg]
    if arg is not None and arg.annotation is not None
  }
  fillers = {word.rstrip('s') for word in FILLERS}
  empty = []
  for entry in re.split(r'\n(?=  \S)', block[1].rstrip()):
    name, _, text = entry.strip().partition(':')
    says = re.search(r'[`\'"\[\d]|None:', text) is not None
    known = fillers | words(name) | words(types.get(name.lstrip('*'), ''))
    if not says and not words(text) - known:
      empty.append(' '.join(entry.split()))
  return empty


@pytest.mark.parametrize('path', MODULES, ids=lambda p: str(p.relative_to(ROOT)))
def test_no_argument_entry_only_repeats_its_name(path):
  for name, function in defined(path, ast.FunctionDef).items():
    assert not empty_arguments(function), name


@pytest.mark.parametrize(
  'entry, empty',
  [
    ('cfg: of the model.', True),
    ('run: whose.', True),
    ('params: the parameters.', True),
    ('workdir: of the run.', True),
    ('layout: the layout that\n        the run has.', True),
    ('cfg: the given GPT config.', True),
    ('params: of the model, float32.', False),
    ('cfg: [B, T].', False),
    ('run: None: of the workdir.', False),
    ('cfg: as in `train`.', False),
  ],
)
def test_the_rule_of_argument_entries(entry, empty):
  source = f'''
def f(cfg: GPTConfig, run: config.Run, params: dict, workdir: Path, layout: Layout):
  """Returns something.

  Args:
    x: the features [B, T], which the others belong to.
    {entry}
    y: labels.

  Raises:
    UserError: the run.
  """
'''
  function = ast.parse(source).body[0]
  assert len(empty_arguments(function)) == empty


@pytest.mark.parametrize(
  'path', sorted((ROOT / 'gpt_jax/model').glob('*.py')), ids=lambda p: p.name
)
def test_the_call_of_a_layer_says_its_shapes(path):
  for name, function in defined(path, ast.FunctionDef).items():
    if name.endswith('.__call__'):
      assert '[' in (ast.get_docstring(function) or ''), name


def test_an_expected_refusal_is_expected_by_its_words():
  bare = []
  for path in sorted((ROOT / 'tests').glob('*.py')):
    tree = ast.parse(path.read_text(encoding='utf-8'))
    kept = {
      item.context_expr
      for node in ast.walk(tree)
      if isinstance(node, ast.With)
      for item in node.items
      if item.optional_vars is not None  # its text is compared
    }
    for node in ast.walk(tree):
      if isinstance(node, ast.Call) and ast.unparse(node.func) == 'pytest.raises':
        ours = ast.unparse(node.args[0]).rpartition('.')[2] in REFUSALS
        told = any(keyword.arg == 'match' for keyword in node.keywords)
        if ours and not told and node not in kept:
          bare.append(f'{path.name}:{node.lineno}')
  assert not bare, f'pytest.raises takes any message here; give match=: {bare}'


def test_slow_tests_are_tests():
  lines = (ROOT / 'tests/slow.txt').read_text(encoding='utf-8').splitlines()
  assert lines
  for line in lines:
    path, name = line.split('::')
    text = (ROOT / path).read_text(encoding='utf-8')
    assert f'\ndef {name.partition("[")[0]}(' in text, line
