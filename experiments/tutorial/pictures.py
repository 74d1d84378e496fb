"""The tutorial's pictures, as SVG: small, sharp, and the same letters on any screen."""

import pathlib
from collections.abc import Callable, Sequence
from html import escape

import numpy as np

from gpt_jax.files import write_whole

_FONT = 'ui-monospace, Menlo, Consolas, DejaVu Sans Mono, monospace'
_SIZE = 15  # of letters, pixels
_LETTER = 0.602 * _SIZE  # width of a letter
_INK, _DIM, _LINE = '#1c1c1c', '#666666', '#d8d8d8'
_TINTS = '#cfe3f7', '#fbe0c4', '#d6efd1', '#f6d5df', '#e3daf5'
_RED, _BLUE = (200, 60, 30), (30, 90, 200)


def shown(piece: str) -> str:
  """Returns a piece of text as pictures show it: blanks and line breaks are visible."""
  return piece.replace(' ', '·').replace('\n', '⏎') or '⊢'


def _text(x: float, y: float, text: str, *, size=_SIZE, color=_INK, more='') -> str:
  return (
    f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" fill="{color}" {more}>'
    f'{escape(text)}</text>'
  )


def _letters(x: float, y: float, text: str, **how) -> str:
  """Returns text of the width that its letters should have, whatever the font."""
  width = f'textLength="{len(text) * _LETTER:.1f}" lengthAdjust="spacingAndGlyphs"'
  return _text(x, y, text, more=width, **how)


def _box(x, y, width, height, fill, line='none') -> str:
  return (
    f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}" rx="3" '
    f'fill="{fill}" stroke="{line}"/>'
  )


def _tint(color: tuple[int, int, int], share: float) -> str:
  """Returns a colour between white (0) and `color` (1)."""
  parts = (round(255 - share * (255 - part)) for part in color)
  return '#' + ''.join(f'{part:02x}' for part in parts)


def _write(target: str | pathlib.Path, parts: list[str], width, height) -> None:
  target = pathlib.Path(target)
  target.parent.mkdir(parents=True, exist_ok=True)
  body = '\n'.join([_box(0, 0, width, height, 'white'), *parts])
  size = f'width="{width:.0f}" height="{height:.0f}"'
  view = f'viewBox="0 0 {width:.0f} {height:.0f}"'
  write_whole(
    target,
    f'<svg xmlns="http://www.w3.org/2000/svg" {size} {view} font-family="{_FONT}">\n'
    f'{body}\n</svg>\n',
  )


def _pieces(
  parts: list[str],
  y: float,
  pieces: Sequence[str],
  fill: Callable[[int], str],
  width: float,
  below: Sequence[str] = (),
) -> float:
  """Adds pieces in boxes, broken into lines, to `parts`; returns where they end."""
  x, row = 12.0, 42 if below else 32
  for number, piece in enumerate(pieces):
    piece = shown(piece)
    own = len(piece) * _LETTER + 8
    if below:
      own = max(own, 0.602 * 10 * len(below[number]) + 6)
    if x + own > width - 8 and x > 12:
      x, y = 12.0, y + row
    parts.append(_box(x, y, own, 24, fill(number), _LINE))
    parts.append(_letters(x + (own - len(piece) * _LETTER) / 2, y + 17, piece))
    if below:
      at = x + (own - 0.602 * 10 * len(below[number])) / 2
      parts.append(_text(at, y + 35, below[number], size=10, color=_DIM))
    x += own + 3
  return y + row


def splits(
  rows: Sequence[tuple[str, Sequence[str]]], target: str | pathlib.Path, width=860
) -> None:
  """Draws how a text is cut into pieces in several ways, one below the other.

  Args:
    rows: of each way its name and the pieces.
    target: the .svg file to write.
    width: pixels.
  """
  parts, y = [], 14.0
  for name, pieces in rows:
    parts.append(_text(12, y + 12, name, size=13, color=_DIM))
    y = _pieces(parts, y + 20, pieces, lambda n: _TINTS[n % len(_TINTS)], width) + 6
  _write(target, parts, width, y)


def surprise(
  pieces: Sequence[str], logp: Sequence[float], target: str | pathlib.Path, width=860
) -> None:
  """Draws a text with each token the redder, the less a model expected it.

  Args:
    pieces: end-of-text, then the T - 1 tokens of the text.
    logp: [T - 1] of these tokens [nats]; below each are its bits.
    target: the .svg file to write.
    width: pixels.
  """
  bits = [0.0, *(-np.asarray(logp) / np.log(2)).tolist()]
  most = max(1.0, *bits)
  parts: list[str] = []
  below = ['', *(f'{max(b, 0):.1f}' for b in bits[1:])]
  y = _pieces(
    parts, 12, pieces, lambda n: _tint(_RED, 0.75 * bits[n] / most), width, below
  )
  _write(target, parts, width, y + 4)


def bars(
  groups: Sequence[tuple[str, Sequence[tuple[str, float]]]], target: str | pathlib.Path
) -> None:
  """Draws likelihoods as bars, groups side by side.

  Args:
    groups: of each its title, and (piece, probability) from the top down.
    target: the .svg file to write.
  """
  parts, x, height = [], 12.0, 0
  for title, rows in groups:
    left = max(len(shown(piece)) for piece, _ in rows) * _LETTER + 8
    own = max(left + 190, len(title) * 0.602 * 13) + 20
    parts.append(_text(x, 24, title, size=13, color=_DIM))
    for number, (piece, p) in enumerate(rows):
      y = 38 + 26 * number
      parts.append(_letters(x, y + 15, shown(piece)))
      parts.append(_box(x + left, y + 2, max(1, 120 * p), 16, _tint(_BLUE, 0.7)))
      label = f'{100 * p:.1f} %'
      parts.append(_text(x + left + 120 * p + 6, y + 15, label, size=12, color=_DIM))
    height = max(height, 38 + 26 * len(rows) + 8)
    x += own
  _write(target, parts, x, height)


def attention(
  pieces: Sequence[str], weights: np.ndarray, target: str | pathlib.Path, title=''
) -> None:
  """Draws where the tokens of a text look, in one head.

  Args:
    pieces: the T tokens.
    weights: [T, T], rows look at columns.
    target: the .svg file to write.
    title: what stands above.
  """
  cell, names = 19, [shown(piece) for piece in pieces]
  left = max(map(len, names)) * _LETTER * 0.8 + 16
  top = left + (24 if title else 0)
  parts = [_text(12, 22, title, size=13, color=_DIM)] if title else []
  size = round(_SIZE * 0.8)
  for t, name in enumerate(names):
    middle = (t + 0.5) * cell + 4
    end = 'text-anchor="end"'
    parts.append(_text(left - 5, top + middle, name, size=size, more=end))
    x, y = left + middle, top - 5
    turn = f'transform="rotate(-90 {x:.1f} {y:.1f})"'
    parts.append(_text(x, y, name, size=size, more=turn))
    for s in range(t + 1):
      fill = _tint(_BLUE, float(weights[t, s]))
      parts.append(
        f'<rect x="{left + s * cell:.0f}" y="{top + t * cell:.0f}" width="{cell - 1}" '
        f'height="{cell - 1}" fill="{fill}" stroke="#eef2fa"/>'
      )
  side = len(names) * cell + 8
  _write(target, parts, max(left + side, 12 + len(title) * 0.602 * 13), top + side)


def beam_tree(steps: Sequence[Sequence], target: str | pathlib.Path, text_of) -> None:
  """Draws the hypotheses that beam search kept after each step; the best is marked.

  Args:
    steps: after 1, 2, ... tokens the `Generation`s that were kept, best first.
    target: the .svg file to write.
    text_of: token -> its text.
  """
  column, row = 128, 40
  places, parts, lines = {(): (4.0, 0.0)}, [], []
  best = steps[-1][0].ids
  height = max(len(kept) for kept in steps) * row
  for depth, kept in enumerate(steps, 1):
    alive = {tuple(one.ids) for one in steps[depth]} if depth < len(steps) else set()
    alive |= {ids[:depth] for later in steps[depth:] for ids in map(_ids, later)}
    for place, one in enumerate(kept):
      ids = _ids(one)
      if len(ids) < depth:
        continue  # it ended before
      x, y = 12 + (depth - 1) * column, 10 + place * row
      places[ids] = x, y
      on_the_way = list(ids) == best[:depth]
      ends = depth < len(steps) and ids not in alive
      color = _DIM if ends else _INK
      fill = _tint(_BLUE, 0.25) if on_the_way else 'white'
      parts.append(_box(x, y, column - 26, 30, fill, _LINE))
      name = shown(text_of(ids[-1]))
      parts.append(_text(x + 5, y + 13, name, size=13, color=color))
      parts.append(_text(x + 5, y + 26, f'{one.logp:.2f}', size=10, color=_DIM))
      if depth > 1:
        x0, y0 = places.get(ids[:-1], (None, None))
        if x0 is not None:
          line = '#1e5ac8' if on_the_way else '#bbbbbb'
          lines.append(
            f'<path d="M{x0 + column - 26:.0f} {y0 + 15:.0f} C{x - 13:.0f} '
            f'{y0 + 15:.0f} {x - 13:.0f} {y + 15:.0f} {x:.0f} {y + 15:.0f}" '
            f'fill="none" stroke="{line}" stroke-width="{2 if on_the_way else 1}"/>'
          )
  _write(target, lines + parts, 12 + len(steps) * column, height + 12)


def _ids(one) -> tuple[int, ...]:
  return tuple(one.ids)
