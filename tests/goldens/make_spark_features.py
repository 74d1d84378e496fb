"""Makes spark_features.json: words and buckets as Spark's Tokenizer and HashingTF.

  pip install pyspark==4.3.0 (which needs Java)
  python tests/goldens/make_spark_features.py

tests/test_curation_quality.py holds our features to it.
"""

import json
import pathlib

import pyspark
from pyspark.ml.feature import HashingTF, Tokenizer
from pyspark.sql import SparkSession

HERE = pathlib.Path(__file__).resolve().parent
TEXTS = (
  '',
  ' ',
  'a',
  'The cat and the Cat',
  ' two  blanks\tand\n\nlines \r\n ',
  'ends with blanks   ',
  'ÀÉ ΣΟΦΟΣ Straße İstanbul ǅ Привет, МИР! 漢字 かな \U0001f600 \u00a0x\u2003y',
  'a ab abc abcd abcde abcdef abcdefg abcdefgh ' * 3,
  'bells\x07 null\x00 tab\x0bvertical form\x0cfeed unit\x1fseparator '
  'line\u2028para\u2029x',
  ' '.join(f'w{n * n * 7919}' for n in range(60)),
)


def main() -> None:
  spark = SparkSession.builder.master('local[1]').getOrCreate()
  frame = spark.createDataFrame([(text,) for text in TEXTS], ['text'])
  words = Tokenizer(inputCol='text', outputCol='words').transform(frame)
  hashing = HashingTF(numFeatures=2**18, inputCol='words', outputCol='counts')
  rows = [
    {
      'text': row.text,
      'words': row.words,
      'buckets': [int(each) for each in row.counts.indices],
      'counts': [int(each) for each in row.counts.values],
    }
    for row in hashing.transform(words).collect()
  ]
  about = {'pyspark': pyspark.__version__, 'rows': rows}
  (HERE / 'spark_features.json').write_text(json.dumps(about, indent=1) + '\n')


if __name__ == '__main__':
  main()
