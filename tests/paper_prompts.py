"""The papers' own words for each task, copied by hand from figures: none of our code.

From Brown et al. 2020, appendix G (arXiv 2005.14165v4, pages 50 to 62), as three public
transcriptions of the PDF have it; long passages are cut to a few words. Quotes and
dashes are written in ASCII. What the transcriptions show of line breaks differs:

  'blank': line ends and empty lines are both shown (figures G.25 to G.30), or the
    authors released the strings themselves (github.com/openai/gpt-3, data/).
  'lines': line ends are shown, empty lines are not.

Where they disagree in a character, `unsure` says in which, and it is not compared.
"""

from typing import NamedTuple


class Figure(NamedTuple):
  """A figure that shows one question as the model reads it.

  Attributes:
    name: 'G.1' ...; page: of the PDF.
    context: what the model reads before the answer, the text before the first example
      included; of Winograd and Winogrande the right one.
    right: the answer that is named correct, or the completion that is wanted.
    wrong: answers that are named incorrect (of Winograd: the incorrect context); none
      where the figure shows the right one alone.
    breaks: 'blank' or 'lines', as above.
    unsure: what transcriptions disagree in.
  """

  name: str
  page: int
  context: str
  right: str
  wrong: tuple[str, ...] = ()
  breaks: str = 'lines'
  unsure: str = ''


class Unpublished(NamedTuple):
  """A task whose prompt no paper shows: what is said of it, and how ours was chosen."""

  said: str
  ours: str


_UNSCRAMBLE = 'Please unscramble the letters into a word, and write that word:\n'
_EXAM = (
  'Final Exam with Answer Key\nInstructions: Please carefully read the following '
  'passages. For each passage, you must identify which noun the pronoun marked in '
  '*bold* refers to.\n=====\nPassage: '
)
_PURPOSES = 'In no case may they be used for commercial purposes.'
_ZWECKE = 'Keinesfalls dürfen diese für den kommerziellen Gebrauch verwendet werden.'
_INSTARS = 'males were in more advanced instars than females.'
_STADES = 'les larves mâles étaient à des stades plus avancés que les larves femelles.'
_STANDSTILL = 'the democratic reforms are at a standstill.'
_MORT = 'reformele democratice au ajuns într-un punct mort.'
_RABIN = "- Rabin condemned {}'s aggressive rhetoric."


def _sum(name: str, page: int, question: str, right: str) -> Figure:
  return Figure(name, page, f'\n\nQ: What is {question}?\n\nA:', right, breaks='blank')


def _scrambled(name: str, page: int, letters: str, word: str) -> Figure:
  context = f'{_UNSCRAMBLE}{letters} ='
  return Figure(name, page, context, word, breaks='blank')


SHOWN = {
  'race_high': Figure(
    'G.1',
    50,
    'Article:\n'
    'Informal conversation is an important part of any business relationship.\n'
    'Q: Which is typically a friendly topic in most places according to the author?\n'
    'A: Sports.\n'
    'Q: The author considers politics and religion _ .\n'
    'A:',
    'taboo',
    ('cheerful topics', 'rude topics', 'topics that can never be talked about'),
  ),
  'anli_r2': Figure(
    'G.2',
    51,
    'anli 2: anli 2: The Gold Coast Hotel & Casino.\n'
    'Question: The Gold Coast is a budget-friendly casino. True, False, or Neither?',
    'Neither',
    ('True', 'False'),
  ),
  'race_middle': Figure(
    'G.3',
    51,
    'Article:\nMrs. Smith is an unusual teacher.\n'
    'Q: We can learn from the passage that we should _ .\n'
    'A: throw away the hatred inside\n'
    'Q: Mrs. Smith asked her students to write _ on the potatoes.\n'
    'A:',
    'names',
    ('numbers', 'time', 'places'),
  ),
  'piqa': Figure(
    'G.4',
    52,
    'How to apply sealant to wood.',
    'Using a brush, brush on sealant onto wood until it is fully saturated with the '
    'sealant.',
    (
      'Using a brush, drip on sealant onto wood until it is fully saturated with the '
      'sealant.',
    ),
  ),
  'copa': Figure(
    'G.5',
    52,
    'My body cast a shadow over the grass because',
    'the sun was rising.',
    ('the grass was cut.',),
  ),
  'record': Figure(
    'G.6',
    52,
    'Yuval Rabin criticized Donald Trump. Trump spoke of Hillary Clinton.\n'
    '- The son of a former Israeli Prime Minister wrote an op ed.\n'
    '- Warns of "parallels" between Israel of the 1990s and the U.S. today.',
    _RABIN.format('Donald Trump'),
    (_RABIN.format('Hillary Clinton'), _RABIN.format('U.S.')),
  ),
  'anli_r1': Figure(
    'G.7',
    52,
    'anli 1: anli 1: MacGregor is a politician.\n'
    'Question: MacGregor has a best friend. True, False, or Neither?',
    'Neither',
    ('True', 'False'),
  ),
  'openbookqa': Figure(
    'G.8',
    53,
    'Organisms require energy in order to do what?',
    'mature and develop.',
    ('rest soundly.', 'absorb light.', 'take in nutrients.'),
  ),
  'hellaswag': Figure(
    'G.9',
    53,
    'Making a cake: Several cake pops are shown on a display. A woman and girl are '
    'shown making the cake pops in a kitchen. They',
    'bake them, then frost and decorate.',
    (
      'taste them as they place them on plates.',
      'put the frosting on the cake as they pan it.',
      'come out and begin decorating the cake as well.',
    ),
  ),
  'anli_r3': Figure(
    'G.10',
    53,
    'anli 3: anli 3: We shut the loophole.\n'
    'Question: The loophole is now gone True, False, or Neither?',
    'False',
    ('True', 'Neither'),
  ),
  'arc_challenge': Figure(
    'G.11',
    53,
    'Question: George wants to warm his hands quickly by rubbing them. Which skin '
    'surface will produce the most heat?\nAnswer:',
    'dry palms',
    ('wet palms', 'palms covered with oil', 'palms covered with lotion'),
  ),
  'sat': Figure(
    'G.12',
    53,
    'lull is to trust as',
    'cajole is to compliance',
    (
      'balk is to fortitude',
      'betray is to loyalty',
      'hinder is to destination',
      'soothe is to passion',
    ),
  ),
  'winograd': Figure(
    'G.13',
    53,
    'Grace was happy to trade me her sweater for my jacket. She thinks the sweater',
    'looks dowdy on her.',
    ('Grace was happy to trade me her sweater for my jacket. She thinks the jacket',),
  ),
  'winogrande': Figure(
    'G.14',
    54,
    'Johnny likes fruits more than vegetables in his new keto diet because the fruits',
    'are saccharine.',
    (
      'Johnny likes fruits more than vegetables in his new keto diet because the '
      'vegetables',
    ),
  ),
  'multirc': Figure(
    'G.15',
    54,
    'READING COMPREHENSION ANSWER KEY\n'
    'President Clinton was scheduled to travel to India. The State Department felt '
    'that he should not visit India without also visiting Pakistan.\n'
    'Who did The State Department feel should visit both India and Pakistan?',
    '- [False] Bin Laden',
    ('- [True] Bin Laden',),
  ),
  'arc_easy': Figure(
    'G.16',
    54,
    'Question: Which factor will most likely cause a person to develop a fever?\n'
    'Answer:',
    'a bacterial population in the bloodstream',
    (
      'a leg muscle relaxing after exercise',
      'several viral particles on the skin',
      'carbohydrates being digested in the stomach',
    ),
  ),
  'storycloze': Figure(
    'G.17',
    55,
    'Bob went to the gas station to fill up his car. His tank was completely empty and '
    'so was his wallet. The cashier offered to pay for his gas if he came back later '
    'to pay. Bob felt grateful as he drove home.',
    'Bob believed that there were good people in the world.',
    ('Bob contemplated how unfriendly the world was.',),
  ),
  'coqa': Figure(
    'G.18',
    55,
    'Helsinki is the capital and largest city of Finland.\n'
    'Q: what is the most populous municipality in Finland?\n'
    'A: Helsinki\n'
    'Q: how many people live there?\n'
    'A:',
    '1.4 million',
  ),
  'cycle_letters_in_word': _scrambled('G.19', 55, 'asinoc', 'casino'),
  'drop': Figure(
    'G.20',
    56,
    'Passage: Saint Jean de Brébeuf travelled to New France in 1625, except for a few '
    'years in France from 1629 to 1633.\n'
    'Question: How many years did Saint Jean de Brébeuf stay in New France before he '
    'went back to France for a few years?\n'
    'Answer:',
    '4',
  ),
  'lambada': Figure(
    'G.21',
    56,
    'Fill in blank:\nShe held the torch in front of her.\n'
    '"A step. Cut in the rock." She moved faster. "In fact," she said, "there\'s more '
    'than a _____. ->',
    'step',
    unsure='how many underscores: 4, 5 or 6',
  ),
  'mid_word_1_anagrams': _scrambled('G.22', 56, 'skicts', 'sticks'),
  'mid_word_2_anagrams': _scrambled('G.23', 56, 'volwskagen', 'volkswagen'),
  'natural_questions': Figure(
    'G.24', 56, 'Q: Who played tess on touched by an angel?\nA:', 'Della Reese'
  ),
  'quac': Figure(
    'G.25',
    57,
    'TITLE: William Perry (American football) - Professional career\n'
    'PARAGRAPH: In 1985, he was selected in the first round of the 1985 NFL Draft by '
    'the Chicago Bears.\n\n'
    'Q: what team did he play for?\n\n'
    'A:',
    'the Chicago Bears',
    breaks='blank',
  ),
  'random_insertion_in_word': _scrambled(
    'G.26', 57, 'r e!c.i p r o.c a/l', 'reciprocal'
  ),
  'reversed_words': _scrambled('G.27', 57, 'taefed', 'defeat'),
  'squad_v2': Figure(
    'G.28',
    58,
    'Title: The Blitz\n\n'
    'Background: From the German point of view, March 1941 saw an improvement. The '
    'Luftwaffe flew 4,000 sorties that month.\n\n'
    'Q: How many sorties were flown in March 1941?\n\n'
    'A: 4,000\n\n'
    'Q: When did the Luftwaffe fly inland missions?\n\n'
    'A:',
    'only on moonlit nights',
    breaks='blank',
    unsure="'The_Blitz', as in the file, in one transcription, 'The Blitz' in two",
  ),
  'boolq': Figure(
    'G.29',
    58,
    'Normal force -- In a simple case such as an object resting upon a table, the '
    'normal force on the object is equal but in opposite direction to the '
    'gravitational force.\n'
    'question: is the normal force equal to the force of gravity?\n'
    'answer:',
    'yes',
    breaks='blank',
  ),
  'cb': Figure(
    'G.30',
    58,
    "Certainly, the recent drop in prices doesn't mean Manhattan comes cheap.\n"
    'question: Manhattan comes cheap. true, false, or neither?\n'
    'answer:',
    'false',
    breaks='blank',
  ),
  'rte': Figure(
    'G.31',
    59,
    'The bet, which won him dinner for four, was regarding the existence and mass of '
    'the top quark, an elementary particle discovered in 1995.\n'
    'question: The Top Quark is the last of six flavors of quarks predicted by the '
    'standard model theory of particle physics. True or False?\n'
    'answer:',
    'False',
  ),
  'wic': Figure(
    'G.32',
    59,
    'An outfitter provided everything needed for the safari.\n'
    'Before his first walking holiday, he went to a specialist outfitter to buy some '
    'boots.\n'
    "question: Is the word 'outfitter' used in the same way in the two sentences "
    'above?\n'
    'answer:',
    'no',
  ),
  'wsc': Figure(
    'G.33',
    59,
    _EXAM + "Mr. Moncrieff visited Chester's luxurious New York apartment, thinking "
    'that it belonged to his son Edward. The result was that Mr. Moncrieff has decided '
    "to cancel Edward's allowance on the ground that he no longer requires *his* "
    'financial support.\n'
    'Question: In the passage above, what does the pronoun "*his*" refer to?\n'
    'Answer:',
    'mr. moncrieff',
  ),
  'triviaqa': Figure(
    'G.34',
    59,
    "Q: 'Nude Descending A Staircase' is perhaps the most famous painting by which "
    '20th century artist?\nA:',
    'MARCEL DUCHAMP',
  ),
  'webquestions': Figure(
    'G.35',
    60,
    'Q: What school did burne hogarth establish?\nA:',
    'School of Visual Arts',
  ),
  'wmt16_de_en': Figure('G.36', 60, f'{_ZWECKE} =', _PURPOSES),
  'wmt16_en_de': Figure('G.37', 60, f'{_PURPOSES} =', _ZWECKE),
  'wmt14_en_fr': Figure('G.38', 60, f'{_INSTARS} =', _STADES),
  'wmt14_fr_en': Figure('G.39', 60, f'{_STADES} =', _INSTARS),
  'wmt16_en_ro': Figure('G.40', 60, f'{_STANDSTILL} =', _MORT),
  'wmt16_ro_en': Figure(
    'G.41',
    61,
    f'{_MORT} =',
    _STANDSTILL,
    unsure="the last '=', which one transcription of three leaves out",
  ),
  'single_digit_three_ops': _sum('G.42', 61, '(2 * 4) * 6', '48'),
  'two_digit_subtraction': _sum('G.43', 61, '17 minus 14', '3'),
  'two_digit_addition': _sum('G.44', 61, '98 plus 45', '143'),
  'two_digit_multiplication': _sum('G.45', 61, '95 times 45', '4275'),
  'three_digit_subtraction': _sum('G.46', 61, '509 minus 488', '21'),
  'three_digit_addition': _sum('G.47', 61, '556 plus 497', '1053'),
  'four_digit_subtraction': _sum('G.48', 61, '6209 minus 3365', '2844'),
  'four_digit_addition': _sum('G.49', 62, '9923 plus 617', '10540'),
  'five_digit_subtraction': _sum('G.50', 62, '40649 minus 78746', '-38097'),
  'five_digit_addition': _sum('G.51', 62, '65360 plus 16204', '81564'),
}
# The caption of G.36: what these tasks are asked without examples.
ZERO_SHOT_TRANSLATION = 'Q: What is the {language} translation of {sentence} A:'
NOT_SHOWN = {
  'cnn_dm': Unpublished(
    "GPT-2, section 3.6: 'we add the text TL;DR: after the article and generate 100 "
    "tokens'; nothing of what parts the two",
    'a line end before TL;DR:, as summaries stand in posts',
  ),
  'cbt_cn': Unpublished(
    "GPT-2, section 3.2: 'the probability of each choice and the rest of the sentence "
    "conditioned on this choice'",
    'the 20 sentences and the 21st, de-tokenized, joined by blanks',
  ),
  'cbt_ne': Unpublished('as cbt_cn', 'as cbt_cn'),
  'six_digit_addition': Unpublished(
    "not in the paper; the authors' files hold the strings", "the files' own strings"
  ),
  'six_digit_subtraction': Unpublished(
    "not in the paper; the authors' files hold the strings", "the files' own strings"
  ),
  'sum_of_digits': Unpublished(
    "not in the paper; the authors' files hold the strings", "the files' own strings"
  ),
  'sciq': Unpublished('in neither paper', 'as arc_easy, after its support'),
  'mctest': Unpublished('in neither paper', 'as race_middle'),
}
