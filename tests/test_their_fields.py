"""The tables of Hugging Face's fields: of transformers' classes, and of the page."""

import json
import pathlib

import pytest

from gpt_jax.weights import config_json, their_fields
from gpt_jax.weights.their_fields import ALIASES, CONFIG, FAMILIES, GENERATION

ROOT = pathlib.Path(__file__).resolve().parent.parent
THEIRS = json.loads((ROOT / 'tests/goldens/hugging_face_fields.json').read_text())
PAGE = (ROOT / 'docs/hugging_face.md').read_text(encoding='utf-8')


def config_rows():
  """A row for each field with its fate; architectures that have the same share it."""
  rows = {}
  for family in FAMILIES:
    for name, field in CONFIG[family].items():
      rows.setdefault((name, fate(field), field.note), []).append(family)
  for (name, what, note), families in rows.items():
    whose = 'all' if len(families) == len(FAMILIES) else ', '.join(families)
    yield f'| `{name}` | {whose} | {what} | {note} |'


def fate(field):
  if field.fate != 'only':
    return field.fate
  return 'only ' + ' or '.join(json.dumps(value) for value in field.only)


def generation_rows():
  for name, field in GENERATION.items():
    yield f'| `{name}` | {fate(field)} | {field.note} |'


def alias_rows():
  for family in FAMILIES:
    for alias, name in ALIASES[family].items():
      yield f'| `{alias}` | {family} | `{name}` |'


def activation_rows():
  for family in FAMILIES:
    for name, ours in config_json.ACTIVATIONS[family].items():
      yield f'| `{name}` | {family} | `{ours}` |'


TABLES = {
  'config.json': config_rows,
  'Other names': alias_rows,
  'Activations': activation_rows,
  'generation_config.json': generation_rows,
}


@pytest.mark.parametrize('title', TABLES)
def test_the_page_has_the_tables_of_the_code(title):
  (section,) = [part for part in PAGE.split('\n## ') if part.startswith(f'{title}\n')]
  rows = [line for line in section.splitlines() if line.startswith('| `')]
  assert rows == list(TABLES[title]())


@pytest.mark.parametrize('family', FAMILIES)
def test_every_field_that_transformers_has_is_known(family):
  known = CONFIG[family].keys() | GENERATION.keys()
  assert set(THEIRS['config'][family]) <= known
  assert THEIRS['aliases'][family].items() <= ALIASES[family].items()
  # An alias is no field of its own, and means one that there is.
  assert not ALIASES[family].keys() & CONFIG[family].keys()
  assert set(ALIASES[family].values()) <= CONFIG[family].keys()


def test_every_field_of_generation_is_known():
  assert set(THEIRS['generation_config']) == GENERATION.keys()
  assert their_fields.FLAGS.keys() <= GENERATION.keys()


def test_flags_of_generation_are_flags_of_sample():
  from gpt_jax.decoding.generation_config import FLAGS

  assert set(their_fields.FLAGS.values()) <= {name for name, _, _ in FLAGS}


def test_activations_have_names_of_transformers():
  for family in FAMILIES:
    key = 'activations of openai-gpt' if family == 'openai-gpt' else 'activations'
    assert set(config_json.ACTIVATIONS[family]) <= set(THEIRS[key])


@pytest.mark.parametrize(
  'name, value, refused',
  [
    ('rotary_dim', 64, True),
    ('rotary_dim', None, False),
    ('alibi', False, False),
    ('use_alibi', True, True),
    ('num_kv_heads', 2, True),
    ('hidden_dropout_prob', 0.1, False),
    ('attention_dropout_2', 0.1, False),
    ('trained_by', 'me', False),
    ('activation_checkpoint', [], False),
    ('mup_multiplier', 2.0, True),
  ],
)
def test_an_unknown_field_is_refused_where_it_names_a_part(name, value, refused):
  assert their_fields.may_change_the_function(name, value) == refused
