"""The papers' published results by task, to compare with.

GPT-3's is table H.1 of Brown et al. 2020, its four BLEU rows tables 3.4 and H.1, its
perplexity of PTB table 3.1; 175B on the split of the task's file `split`, not on a test
server. GPT-2's is table 3 of Radford et al. 2019 and its sections 3.3 to 3.8.
Percentages and BLEU from 0 to 100; perplexities and bits as they are.
"""

from typing import NamedTuple

GPT3_SIZES = tuple('Small Medium Large XL 2.7B 6.7B 13B 175B'.split())
GPT2_SIZES = tuple('117M 345M 762M 1542M'.split())


class Published(NamedTuple):
  """One published number.

  Attributes:
    model: 'GPT-3 175B', 'GPT-2 117M', ...
    metric: a name of `PromptedTask.metrics`.
    shots: 'zero', 'one' or 'few'.
    value: percent, BLEU, perplexity or bits.
  """

  model: str
  metric: str
  shots: str
  value: float


def published(task: str) -> list[Published]:
  """Returns the published results of a task, in the order of the papers' tables."""
  return [each for name, each in _ALL if name == task]


def _parsed(table: str, family: str, sizes: tuple[str, ...]):
  """Yields (task, Published) of a table; '-' is a cell without a number."""
  task = metric = ''
  for words in map(str.split, table.strip().splitlines()):
    if words[0] not in ('zero', 'one', 'few'):
      task, metric = words
      continue
    for size, value in zip(sizes, words[1:], strict=True):
      if value != '-':
        yield task, Published(f'{family} {size}', metric, words[0], float(value))


_GPT2 = """
  lambada perplexity
    zero 35.13 15.60 10.87 8.63
  lambada accuracy
    zero 45.99 55.48 60.12 63.24
  cbt_cn accuracy
    zero 87.65 92.35 93.45 93.30
  cbt_ne accuracy
    zero 83.4 87.1 88.0 89.05
  wikitext2 word_perplexity
    zero 29.41 22.76 19.93 18.34
  ptb word_perplexity
    zero 65.85 47.33 40.31 35.76
  enwik8 bits_per_byte
    zero 1.16 1.01 0.97 0.93
  text8 bits_per_character
    zero 1.17 1.06 1.02 0.98
  wikitext103 word_perplexity
    zero 37.50 26.37 22.05 17.48
  lm1b word_perplexity
    zero 75.20 55.72 44.575 42.16
  winograd accuracy
    zero - - - 70.70
  coqa coqa_f1
    zero - - - 55
  cnn_dm rouge1
    zero - - - 29.34
  cnn_dm rouge2
    zero - - - 8.27
  cnn_dm rougeL
    zero - - - 26.58
  wmt14_en_fr bleu
    few - - - 5
  wmt14_fr_en bleu
    few - - - 11.5
  natural_questions em
    few - - - 4.1
"""

_GPT3 = """
  hellaswag accuracy
    zero 33.7 43.6 51.0 54.7 62.8 67.4 70.9 78.9
    one  33.0 42.9 50.5 53.5 61.9 66.5 70.0 78.1
    few  33.5 43.1 51.3 54.9 62.9 67.3 71.3 79.3
  lambada accuracy
    zero 42.7 54.3 60.4 63.6 67.1 70.3 72.5 76.2
    one  22.0 47.1 52.6 58.3 61.1 65.4 69.0 72.5
    few  22.0 40.4 63.2 57.0 78.1 79.1 81.3 86.4
  lambada perplexity
    zero 18.6 9.09 6.53 5.44 4.60 4.00 3.56 3.00
    one  165.0 11.6 8.29 6.46 5.53 4.61 4.06 3.35
    few  165.0 27.6 6.63 7.45 2.89 2.56 2.56 1.92
  storycloze accuracy
    zero 63.3 68.5 72.4 73.4 77.2 77.7 79.5 83.2
    one  62.3 68.7 72.3 74.2 77.3 78.7 79.7 84.7
    few  62.3 70.2 73.9 76.1 80.2 81.2 83.0 87.7
  natural_questions em
    zero 0.64 1.75 2.71 4.40 6.01 5.79 7.84 14.6
    one  1.19 3.07 4.79 5.43 8.73 9.78 13.7 23.0
    few  1.72 4.46 7.89 9.72 13.2 17.0 21.0 29.9
  triviaqa em
    zero 4.15 7.61 14.0 19.7 31.3 38.7 41.8 64.3
    one  4.19 12.9 20.5 26.5 35.9 44.4 51.3 68.0
    few  6.96 16.3 26.5 32.1 42.3 51.6 57.5 71.2
  webquestions em
    zero 1.77 3.20 4.33 4.63 7.92 7.73 8.22 14.4
    one  2.56 6.20 8.51 9.15 14.5 15.1 19.0 25.3
    few  5.46 12.6 15.9 19.6 24.8 27.7 33.5 41.5
  winograd accuracy
    zero 66.3 72.9 74.7 76.9 82.4 85.7 87.9 88.3
    one  63.4 68.5 72.9 76.9 82.4 84.6 86.1 89.7
    few  63.4 67.4 73.6 76.9 84.3 85.4 82.4 88.6
  winogrande accuracy
    zero 52.0 52.1 57.4 58.7 62.3 64.5 67.9 70.2
    one  51.3 53.0 58.3 59.1 61.7 65.8 66.9 73.2
    few  51.3 52.6 57.5 59.1 62.6 67.4 70.0 77.7
  piqa accuracy
    zero 64.6 70.2 72.9 75.1 75.6 78.0 78.5 81.0
    one  64.3 69.3 71.8 74.4 74.3 76.3 77.8 80.5
    few  64.3 69.4 72.0 74.3 75.4 77.8 79.9 82.3
  arc_challenge accuracy
    zero 26.6 29.5 31.8 35.5 38.0 41.4 43.7 51.4
    one  25.5 30.2 31.6 36.4 38.4 41.5 43.1 53.2
    few  25.5 28.4 32.3 36.7 39.5 43.7 44.8 51.5
  arc_easy accuracy
    zero 43.6 46.5 53.0 53.8 58.2 60.2 63.8 68.8
    one  42.7 48.2 54.6 55.9 60.3 62.6 66.8 71.2
    few  42.7 51.0 58.1 59.1 62.1 65.8 69.1 70.1
  openbookqa accuracy
    zero 35.6 43.2 45.2 46.8 53.0 50.4 55.6 57.6
    one  37.0 39.8 46.2 46.4 53.4 53.0 55.8 58.8
    few  37.0 43.6 48.0 50.6 55.6 55.2 60.8 65.4
  quac coqa_f1
    zero 21.2 26.8 31.0 30.1 34.7 36.1 38.4 41.5
    one  21.1 26.9 31.9 32.3 37.4 39.0 40.6 43.4
    few  21.6 27.6 32.9 34.2 38.2 39.9 40.9 44.3
  race_high accuracy
    zero 35.2 37.9 40.1 40.9 42.4 44.1 44.6 45.5
    one  34.3 37.7 40.0 42.0 43.8 44.3 44.6 45.9
    few  34.3 37.0 40.4 41.4 42.3 44.7 45.1 46.8
  race_middle accuracy
    zero 42.1 47.2 52.1 52.3 54.7 54.4 56.7 58.4
    one  42.3 47.3 51.7 55.2 56.1 54.7 56.9 57.4
    few  42.3 47.0 52.7 53.0 55.6 55.4 58.1 58.1
  squad_v2 em
    zero 22.6 32.8 33.9 43.1 43.6 45.4 49.0 52.6
    one  25.1 37.5 37.9 47.9 47.9 51.1 56.0 60.1
    few  27.5 40.5 39.2 53.5 50.0 56.6 62.6 64.9
  squad_v2 f1
    zero 28.3 40.2 41.4 50.3 51.0 52.7 56.3 59.5
    one  30.1 43.6 44.1 54.0 54.1 57.1 61.8 65.4
    few  32.1 45.5 44.9 58.7 55.9 62.1 67.7 69.8
  coqa coqa_f1
    zero 34.5 55.0 61.8 65.3 71.1 72.8 76.3 81.5
    one  30.6 52.1 61.6 66.1 71.8 75.1 77.9 84.0
    few  31.1 52.0 62.7 66.8 73.2 77.3 79.9 85.0
  drop drop_f1
    zero 9.40 13.6 14.4 16.4 19.7 17.0 24.0 23.6
    one  11.7 18.1 20.9 23.0 26.4 27.3 29.2 34.3
    few  12.9 18.7 24.0 25.6 29.7 29.7 32.3 36.5
  boolq accuracy
    zero 49.7 60.3 58.9 62.4 67.1 65.4 66.2 60.5
    one  52.6 61.7 60.4 63.7 68.4 68.7 69.0 76.7
    few  43.1 60.6 62.0 64.1 70.3 70.0 70.2 77.5
  cb accuracy
    zero 0.00 32.1 8.93 19.6 19.6 28.6 19.6 46.4
    one  55.4 53.6 53.6 48.2 57.1 33.9 55.4 64.3
    few  42.9 58.9 53.6 69.6 67.9 60.7 66.1 82.1
  cb macro_f1
    zero 0.00 29.3 11.4 17.4 22.4 25.1 20.3 42.8
    one  60.1 39.8 45.6 37.5 45.7 28.5 44.6 52.5
    few  26.1 40.4 32.6 48.3 45.7 44.6 46.0 57.2
  copa accuracy
    zero 66 68 73 77 76 80 84 91
    one  62 64 66 74 76 82 86 87
    few  67 64 72 77 83 83 86 92
  rte accuracy
    zero 47.7 49.8 48.4 56.0 46.6 55.2 62.8 63.5
    one  53.1 47.3 49.5 49.5 54.9 54.9 56.3 70.4
    few  52.3 48.4 46.9 50.9 56.3 49.5 60.6 72.9
  wic accuracy
    zero 0.00 0.00 0.00 0.00 0.00 0.00 0.00 0.00
    one  50.0 50.3 50.3 49.2 49.4 50.3 50.0 48.6
    few  49.8 55.0 53.0 53.0 51.6 53.1 51.1 55.3
  wsc coreference
    zero 59.6 56.7 65.4 61.5 66.3 60.6 64.4 65.4
    one  58.7 58.7 60.6 62.5 66.3 60.6 66.3 69.2
    few  58.7 60.6 54.8 49.0 62.5 67.3 75.0 75.0
  multirc question_accuracy
    zero 4.72 9.65 12.3 13.6 14.3 18.4 24.2 27.6
    one  4.72 9.65 12.3 13.6 14.3 18.4 24.2 27.6
    few  6.09 11.8 16.8 20.8 24.7 23.8 25.0 32.5
  multirc f1
    zero 57.0 59.7 60.4 59.9 60.0 64.5 71.4 72.9
    one  57.0 59.7 60.4 59.9 60.0 64.5 71.4 72.9
    few  45.0 55.9 64.2 65.4 69.5 66.4 69.3 74.8
  record accuracy
    zero 70.8 78.5 82.1 84.1 86.2 88.6 89.0 90.2
    one  69.8 77.0 80.7 83.0 85.9 88.0 88.8 90.2
    few  69.8 77.2 81.3 83.1 86.6 87.9 88.9 89.0
  anli_r1 accuracy
    zero 33.4 34.2 33.4 33.4 34.2 32.3 33.2 34.6
    one  32.1 31.6 31.9 34.6 30.6 31.6 32.7 32.0
    few  32.1 32.5 30.9 32.5 33.5 33.1 33.3 36.8
  anli_r2 accuracy
    zero 33.2 31.9 33.3 33.3 33.8 33.5 33.5 35.4
    one  35.7 33.7 33.2 32.7 32.7 33.9 33.9 33.9
    few  35.7 33.8 32.1 31.4 32.6 33.3 32.6 34.0
  anli_r3 accuracy
    zero 33.6 34.0 33.8 33.4 35.3 34.8 34.4 34.5
    one  35.0 32.6 33.0 33.9 34.1 33.1 32.5 35.1
    few  35.0 34.4 35.1 36.0 32.7 33.9 34.5 40.2
  two_digit_addition exact
    zero 0.70 0.65 0.70 0.85 1.10 2.54 15.4 76.9
    one  2.00 0.55 3.15 4.00 12.1 19.6 73.0 99.6
    few  2.00 4.10 3.50 4.50 8.90 11.9 55.5 100.0
  two_digit_subtraction exact
    zero 1.25 1.25 1.25 1.25 1.60 7.60 12.6 58.0
    one  1.15 0.95 1.45 1.95 3.85 11.5 44.6 86.4
    few  1.15 1.45 2.25 2.70 7.35 13.6 52.4 98.9
  three_digit_addition exact
    zero 0.10 0.10 0.05 0.10 0.10 0.25 1.40 34.2
    one  0.15 0.00 0.10 0.30 0.45 0.95 15.4 65.5
    few  0.15 0.45 0.30 0.55 0.75 0.90 8.40 80.4
  three_digit_subtraction exact
    zero 0.05 0.05 0.05 0.05 0.05 0.45 1.35 48.3
    one  0.05 0.15 0.25 0.30 0.55 1.60 6.15 78.7
    few  0.05 0.10 0.15 0.35 0.65 1.05 9.20 94.2
  four_digit_addition exact
    zero 0.05 0.05 0.00 0.00 0.05 0.05 0.15 4.00
    one  0.00 0.00 0.10 0.00 0.00 0.10 0.80 14.0
    few  0.00 0.05 0.05 0.00 0.15 0.15 0.40 25.5
  four_digit_subtraction exact
    zero 0 0 0 0 0 0 0.10 7.50
    one  0 0 0 0 0.05 0 0.50 14.0
    few  0 0.05 0 0 0.10 0.05 0.40 26.8
  five_digit_addition exact
    zero 0 0 0 0 0 0 0 0.65
    one  0 0 0 0 0 0 0.05 3.45
    few  0 0 0 0 0 0 0.05 9.30
  five_digit_subtraction exact
    zero 0 0 0 0 0 0 0 0.80
    one  0 0 0 0 0 0 0.05 3.75
    few  0 0 0 0 0 0 0.00 9.90
  two_digit_multiplication exact
    zero 2.20 2.25 2.65 2.10 2.55 5.80 6.15 19.8
    one  1.35 2.35 3.35 2.35 4.75 9.15 11.0 27.4
    few  1.35 2.90 2.70 2.85 4.25 6.10 7.05 29.2
  single_digit_three_ops exact
    zero 1.25 2.95 2.75 0.05 0.30 2.35 0.75 9.75
    one  1.90 2.80 2.85 3.65 6.45 9.15 8.20 14.3
    few  1.70 2.15 3.90 5.75 6.20 7.60 9.95 21.3
  cycle_letters_in_word exact
    zero 0.62 0.71 2.85 0.00 0.63 1.35 2.58 3.66
    one  1.67 4.36 5.68 6.46 6.25 9.41 15.1 21.7
    few  4.63 9.27 10.7 14.5 16.7 21.9 27.7 37.9
  mid_word_1_anagrams exact
    zero 0.10 0.14 0.40 0.00 0.27 0.69 1.16 2.28
    one  0.21 0.61 1.12 1.27 1.60 2.72 3.72 8.62
    few  0.50 1.27 2.13 3.05 3.81 5.49 8.38 15.1
  mid_word_2_anagrams exact
    zero 0.81 1.21 2.69 0.01 1.71 3.75 4.53 8.91
    one  1.19 2.62 4.70 4.77 6.97 10.2 14.6 25.9
    few  1.94 4.80 7.59 9.87 12.6 18.9 25.6 39.7
  random_insertion_in_word exact
    zero 0.00 0.00 0.10 0.00 0.05 0.42 0.89 8.26
    one  0.03 0.05 0.57 1.18 1.67 3.46 6.62 45.4
    few  0.11 0.28 2.19 4.18 6.61 11.0 27.3 67.2
  reversed_words exact
    zero 0 0.01 0.01 0.01 0.02 0.03 0.03 0.09
    one  0.02 0.01 0.01 0 0.05 0.07 0.11 0.48
    few  0 0.05 0 0.17 0.24 0.30 0.42 0.44
  sat accuracy
    zero 35.6 39.0 45.2 44.1 50.0 49.2 52.7 53.7
    one  30.5 41.2 43.1 46.5 55.1 54.3 53.5 59.1
    few  30.5 40.4 42.8 40.6 48.4 51.9 53.5 65.2
  ptb word_perplexity
    zero - - - - - - - 20.5
  wmt14_en_fr bleu
    few 4.08 - - - - - - 32.6
  wmt14_fr_en bleu
    few 4.98 - - - - - - 39.2
  wmt16_en_de bleu
    few 3.42 - - - - - - 29.7
  wmt16_de_en bleu
    few 3.25 - - - - - - 40.6
  wmt16_en_ro bleu
    few 1.25 - - - - - - 21.0
  wmt16_ro_en bleu
    few 1.25 - - - - - - 39.5
"""

_ALL = (
  *_parsed(_GPT2, 'GPT-2', GPT2_SIZES),
  *_parsed(_GPT3, 'GPT-3', GPT3_SIZES),
)
