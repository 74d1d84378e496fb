"""The words of the tutorial's corpus, in English and in Russian."""

from typing import NamedTuple


class Noun(NamedTuple):
  """A thing.

  Attributes:
    en: in English.
    ru: in Russian, nominative.
    it: the same, accusative.
    gender: of the Russian word: m, f or n.
    kind: its number in KINDS.
    what_en: what ends its definition in English.
    what_ru: what ends it in Russian.
  """

  en: str
  ru: str
  it: str
  gender: str
  kind: int
  what_en: str
  what_ru: str


class Adjective(NamedTuple):
  """A quality: English, Russian by gender, and the feminine accusative."""

  en: str
  m: str
  f: str
  n: str
  acc: str

  def of(self, noun: Noun) -> str:
    """Returns the Russian nominative that agrees with a noun."""
    return getattr(self, noun.gender)

  def it(self, noun: Noun) -> str:
    """Returns the Russian accusative that agrees with a noun."""
    if noun.gender == 'f':
      return self.acc
    animate = noun.gender == 'm' and noun.it != noun.ru
    if not animate:
      return self.of(noun)
    stem, soft = self.m[:-2], self.n.endswith('ее')
    return stem + ('его' if soft else 'ого')


KINDS = [  # English with its article, Russian, the gender of 'which'
  ('an animal', 'животное', 'n'),
  ('a thing', 'вещь', 'f'),
  ('a food', 'еда', 'f'),
  ('a place', 'место', 'n'),
]
WHICH = {'m': 'который', 'f': 'которая', 'n': 'которое'}

_NOUNS = """
cat       кот       кота      m 0 catches mice            ловит мышей
dog       собака    собаку    f 0 guards the house        сторожит дом
fox       лиса      лису      f 0 has a red tail          носит рыжий хвост
mouse     мышь      мышь      f 0 likes cheese            любит сыр
horse     лошадь    лошадь    f 0 runs fast               быстро бегает
bird      птица     птицу     f 0 flies and sings         летает и поёт
fish      рыба      рыбу      f 0 swims in the water      плавает в воде
bear      медведь   медведя   m 0 sleeps in winter        спит зимой
wolf      волк      волка     m 0 lives in the forest     живёт в лесу
frog      лягушка   лягушку   f 0 jumps and croaks        прыгает и квакает
boat      лодка     лодку     f 1 carries people          возит людей
ball      мяч       мяч       m 1 is thrown and caught    летает и катится
book      книга     книгу     f 1 is read at night        учит читать
lamp      лампа     лампу     f 1 gives light             даёт свет
key       ключ      ключ      m 1 opens the door          открывает дверь
bag       сумка     сумку     f 1 holds many things       хранит много вещей
letter    письмо    письмо    n 1 comes by post           приходит по почте
box       коробка   коробку   f 1 holds small things      хранит мелкие вещи
apple     яблоко    яблоко    n 2 grows on a tree         растёт на дереве
bread     хлеб      хлеб      m 2 is baked every day      пахнет печкой
soup      суп       суп       m 2 is eaten with a spoon   кипит в кастрюле
milk      молоко    молоко    n 2 comes from a cow        бывает у коровы
cheese    сыр       сыр       m 2 is made of milk         получается из молока
honey     мёд       мёд       m 2 is made by bees         получается у пчёл
house     дом       дом       m 3 keeps people warm       хранит тепло
river     река      реку      f 3 runs to the sea         бежит к морю
forest    лес       лес       m 3 is full of trees        полно деревьев
garden    сад       сад       m 3 is full of flowers      полно цветов
school    школа     школу     f 3 teaches children        учит детей
"""


def _noun(line: str) -> Noun:
  en, ru, it, gender, kind, rest = line.split(maxsplit=5)
  what_en, what_ru = (part.strip() for part in rest.split('  ', 1))
  return Noun(en, ru, it, gender, int(kind), what_en, what_ru)


NOUNS = [_noun(line) for line in _NOUNS.strip().splitlines()]

ADJECTIVES = [
  Adjective(*line.split())
  for line in """
red красный красная красное красную
blue синий синяя синее синюю
green зелёный зелёная зелёное зелёную
white белый белая белое белую
black чёрный чёрная чёрное чёрную
big большой большая большое большую
small маленький маленькая маленькое маленькую
old старый старая старое старую
new новый новая новое новую
funny смешной смешная смешное смешную
""".strip().splitlines()
]

OPPOSITES = [  # in English and in Russian, by pairs
  tuple(line.split())
  for line in """
big small большой маленький
old new старый новый
clean dirty чистый грязный
heavy light тяжёлый лёгкий
funny sad смешной грустный
white black белый чёрный
warm cold тёплый холодный
fast slow быстрый медленный
day night день ночь
yes no да нет
up down вверх вниз
good bad хороший плохой
""".strip().splitlines()
]

GIRLS = 'Anna Аня', 'Mary Маша', 'Kate Катя', 'Olga Оля', 'Vera Вера', 'Nina Нина'
BOYS = 'Tom Том', 'Peter Петя', 'Ivan Ваня', 'Nick Коля', 'Misha Миша', 'Anton Антон'
NAMES = [(*pair.split(), 'f') for pair in GIRLS] + [
  (*pair.split(), 'm') for pair in BOYS
]

PLACES = [  # 'near the ...', and the Russian genitive after 'у'
  ('river', 'реки'),
  ('forest', 'леса'),
  ('sea', 'моря'),
  ('house', 'дома'),
  ('road', 'дороги'),
  ('mountain', 'горы'),
  ('field', 'поля'),
  ('bridge', 'моста'),
  ('garden', 'сада'),
  ('school', 'школы'),
  ('shop', 'магазина'),
  ('station', 'вокзала'),
]

# What it was like, and what one did for it (Russian by gender).
CAUSES = [
  ('It was raining', 'hid it under a coat')
  + ('Шёл дождь', 'спрятал это под пальто', 'спрятала это под пальто'),
  ('It was cold', 'wrapped it in a scarf')
  + ('Было холодно', 'завернул это в шарф', 'завернула это в шарф'),
  ('It was dark', 'lit a candle') + ('Было темно', 'зажёг свечу', 'зажгла свечу'),
  ('The wind was strong', 'held it with both hands')
  + ('Дул сильный ветер', 'держал это двумя руками', 'держала это двумя руками'),
  ('It was late', 'ran home') + ('Было поздно', 'побежал домой', 'побежала домой'),
  ('The sun was hot', 'sat down in the shade')
  + ('Жарко светило солнце', 'сел в тени', 'села в тени'),
]

ENDINGS = [
  ('They laughed and went home.', 'Они засмеялись и пошли домой.'),
  ('Then they drank tea together.', 'Потом они вместе пили чай.'),
  ('Everyone was happy that day.', 'В тот день все были счастливы.'),
  ('They never spoke of it again.', 'Больше они об этом не говорили.'),
  ('In the morning it was gone.', 'Утром это исчезло.'),
]

# What reviews are of: English, Russian, and the Russian past tense that goes with it.
REVIEWED = [
  ('soup', 'суп', 'm'),
  ('cake', 'торт', 'm'),
  ('film', 'фильм', 'm'),
  ('book', 'книга', 'f'),
  ('song', 'песня', 'f'),
  ('city', 'город', 'm'),
  ('lesson', 'урок', 'm'),
  ('game', 'игра', 'f'),
  ('letter', 'письмо', 'n'),
  ('hotel', 'отель', 'm'),
]
WAS = {'m': 'был', 'f': 'была', 'n': 'было'}
GOOD = [
  ('wonderful', 'чудесный', 'чудесная', 'чудесное'),
  ('interesting', 'интересный', 'интересная', 'интересное'),
  ('beautiful', 'красивый', 'красивая', 'красивое'),
  ('pleasant', 'приятный', 'приятная', 'приятное'),
  ('bright', 'яркий', 'яркая', 'яркое'),
]
BAD = [
  ('boring', 'скучный', 'скучная', 'скучное'),
  ('terrible', 'ужасный', 'ужасная', 'ужасное'),
  ('silly', 'глупый', 'глупая', 'глупое'),
  ('grey', 'серый', 'серая', 'серое'),
  ('weak', 'слабый', 'слабая', 'слабое'),
]
