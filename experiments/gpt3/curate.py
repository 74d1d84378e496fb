"""GPT-3's data from your own crawl and curated texts: filtered, without copies, clean.

Source: Brown et al. 2020, section 2.2, appendices A and C: a classifier of quality
tells curated text from raw, and a raw document of score s is kept with probability
(2 - s)^-9; copies are taken out; and what has 13 words in a row of a benchmark is cut.
Give a folder with `curated`, `crawl` and `tests` in it, of any formats that can be read
(docs/curation.md); `tests` are the texts of benchmarks, one a document:

  python launch.py curate --config=experiments/gpt3/curate.py:FOLDER --workdir=corpus

GPT-3's curated texts were WebText, Wikipedia and a corpus of books from the web; its
crawl were 41 months of Common Crawl, 45 TB packed, of which 570 GB were left.

Differs: GPT-3's data kept some texts of benchmarks, mostly in long documents such as
books, by an error that was seen too late (appendix C). GPT-3 filtered Common Crawl's
own text (WET); of WARC the main text of pages is taken out here.
"""

from gpt_jax.data.curation.decontaminate import Decontaminate
from gpt_jax.data.curation.dedup import Dedup
from gpt_jax.data.curation.ingest import Source
from gpt_jax.data.curation.pipeline import Curation
from gpt_jax.data.curation.quality import Quality


def get_curation(folder: str) -> Curation:
  """Returns the curation of a folder with `curated`, `crawl` and `tests` in it."""
  return Curation(
    sources=(
      Source('curated', f'{folder}/curated'),
      Source('crawl', f'{folder}/crawl'),
    ),
    stages=(
      Quality(curated=('curated',)),
      Dedup(mode='gpt3', priority=('curated',), across='priority'),
      Decontaminate(f'{folder}/tests'),
    ),
  )
