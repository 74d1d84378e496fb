"""Stages of curation that tests run in processes of their own, to kill them."""

import sys

from gpt_jax.data.curation import dedup, engine, shards


def deduplicate(folder: str, workers: int) -> dict:
  """De-duplicates the corpus FOLDER/in into FOLDER/out."""
  settings = dedup.Dedup(bands=20, rows=2, threshold=0.5, parts=2)
  runs = engine.local(workers, f'{folder}/state')
  return dedup.run(runs, shards.list_shards(f'{folder}/in'), f'{folder}/out', settings)


if __name__ == '__main__':
  globals()[sys.argv[1]](sys.argv[2], int(sys.argv[3]))
