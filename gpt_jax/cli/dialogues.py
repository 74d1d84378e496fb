"""Verbs of dialogues as files: metrics."""

from gpt_jax.cli.flags import path_flag


def metrics_flags(values):
  path_flag(values, 'replies', None, 'file with a reply a line')
  path_flag(
    values,
    'references',
    [],
    'file with the references of a reply a line, divided by tabs; may be repeated',
    several=True,
  )
  path_flag(values, 'target', '', "JSON file to write; '': only print")


def metrics(values) -> None:
  """Measures replies as DialoGPT's tables do: NIST, BLEU, METEOR, Entropy, Dist."""
  import rich

  from gpt_jax.evaluation import reply_files
  from gpt_jax.files import write_json
  from gpt_jax.paths import not_kept

  result = reply_files.measured(values.replies, values.references)
  rich.print(reply_files.table(result))
  if values.target:
    with not_kept('metrics'):
      write_json(values.target, result)
    print(f'wrote {values.target}')
