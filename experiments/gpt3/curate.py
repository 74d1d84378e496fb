"""GPT-3's filter of Common Crawl without copies, on your own crawl and curated texts.

Source: Brown et al. 2020, section 2.2 and appendix A: a classifier of quality tells
curated text from raw, and a raw document of score s is kept with probability
(2 - s)^-9. Give a folder with `curated` and `crawl` in it, of any formats that can be
read (docs/curation.md):

  python launch.py curate --config=experiments/gpt3/curate.py:FOLDER --workdir=corpus

GPT-3's curated texts were WebText, Wikipedia and a corpus of books from the web; its
crawl were 41 months of Common Crawl, 45 TB packed, of which 570 GB were left.

Differs: GPT-3 filtered Common Crawl's own text (WET); of WARC the main text of pages is
taken out here.
"""

from gpt_jax.data.curation.dedup import Dedup
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation
from gpt_jax.data.curation.quality import Quality


def get_curation(folder: str) -> Curation:
  """Returns the curation of a folder with `curated` and `crawl` in it."""
  return Curation(
    sources=(
      Source('curated', f'{folder}/curated'),
      Source('crawl', f'{folder}/crawl'),
    ),
    stages=(
      Quality(curated=('curated',)),
      Dedup(mode='gpt3', priority=('curated',), across='priority'),
    ),
  )
