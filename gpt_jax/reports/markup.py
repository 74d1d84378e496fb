"""Reports: Markdown with its pictures beside it, and the same as one HTML page.

A report is a list of Markdown blocks, made by the functions here. The page is rendered
from that Markdown. What a user named (runs, files, fields) goes through `plain` or
`code`, so that no character in it is taken for markup.
"""

import base64
import html
import io
import pathlib
import re
from collections.abc import Mapping, Sequence

from markdown_it import MarkdownIt
from matplotlib.figure import Figure

from gpt_jax.config import UserError
from gpt_jax.files import write_whole

_TEMPLATE = pathlib.Path(__file__).with_suffix('.html')
# Only what the functions below write: a text can hold no link and no raw HTML.
_MARKDOWN = MarkdownIt('zero').enable(
  ['heading', 'list', 'fence', 'table', 'backticks', 'emphasis', 'escape', 'image']
)


def heading(text: str, level: int = 2) -> str:
  """Returns a heading; level 1 is the page's title."""
  return f'{"#" * level} {text}'


def lowered(blocks: Sequence[str]) -> list[str]:
  """Returns blocks with their headings one level down."""
  return [f'#{block}' if block.startswith('#') else block for block in blocks]


def bullets(items: Sequence[str]) -> str:
  """Returns a list."""
  return '\n'.join(f'- {item}' for item in items)


def fenced(text: str) -> str:
  """Returns a block of code, such as a command or a sample; its lines stay."""
  fence = '`' * max(3, 1 + _longest_ticks(text))
  return f'{fence}\n{text}\n{fence}'


def picture(name: str, caption: str) -> str:
  """Returns a plot, by the name of its PNG without .png, with a caption below it."""
  return f'![{name}]({name}.png)\n\n{caption}'


def table(head: Sequence[str], rows: Sequence[Sequence], numbers: int) -> str:
  """Returns a table; the columns from `numbers` on are aligned to the right."""
  lines = ['---' if i < numbers else '---:' for i in range(len(head))]
  cells = (
    [' '.join(str(cell).replace('|', r'\|').split('\n')) for cell in row]
    for row in (head, lines, *rows)
  )
  return '\n'.join(f'| {" | ".join(row)} |' for row in cells)


def code(text: str) -> str:
  """Returns a text as code within a line, with as many backticks as it needs."""
  longest = _longest_ticks(text)
  ticks, pad = '`' * (longest + 1), ' ' * bool(longest)
  return f'{ticks}{pad}{text}{pad}{ticks}'


def plain(text: str) -> str:
  """Returns a user's text on one line, such that Markdown shows it as it is."""
  text = re.sub(r'[\\`*<>&\[\]#]|(?<!\w)_|_(?!\w)', r'\\\g<0>', text)
  return ' '.join(text.split())


def _longest_ticks(text: str) -> int:
  return max(map(len, re.findall('`+', text)), default=0)


def folder(target: str | pathlib.Path) -> pathlib.Path:
  """Returns the folder of a report, and makes it where it is missing.

  Raises:
    UserError: it is a file.
  """
  target = pathlib.Path(target)
  if target.exists() and not target.is_dir():
    raise UserError(f'target={target} is a file and must be a folder; choose another')
  target.mkdir(parents=True, exist_ok=True)
  return target


def write(
  target: str | pathlib.Path,
  name: str,
  blocks: Sequence[str],
  figures: Mapping[str, Figure | None],
) -> tuple[pathlib.Path, pathlib.Path]:
  """Writes NAME.md with its pictures, and NAME.html, and returns the paths of the two.

  Args:
    target: a folder, made where it is missing; an older report in it is replaced.
    name: of the two files, without an ending.
    blocks: Markdown; blank lines are put between them.
    figures: the pictures by name; an older PNG is removed where there is None.

  Raises:
    UserError: the target is a file.
  """
  target, pictures = folder(target), {}
  for title, figure in figures.items():
    path, staged = target / f'{title}.png', target / f'.{title}.png'
    if figure is None:
      path.unlink(missing_ok=True)
      continue
    buffer = io.BytesIO()
    figure.savefig(buffer, dpi=130, format='png')
    pictures[title] = buffer.getvalue()
    staged.write_bytes(buffer.getvalue())
    staged.replace(path)
  text = '\n\n'.join(blocks) + '\n'
  write_whole(target / f'{name}.md', text)
  write_whole(target / f'{name}.html', page(text, pictures))
  return target / f'{name}.md', target / f'{name}.html'


def page(text: str, pictures: Mapping[str, bytes]) -> str:
  """Returns Markdown as one HTML page that holds its pictures, PNGs by name."""
  blocks = _MARKDOWN.parse(text)
  inlines = [block for block in blocks if block.children]
  for token in (token for inline in inlines for token in inline.children):
    if token.type == 'image':
      png = pictures[str(token.attrs['src']).removesuffix('.png')]
      token.attrs['src'] = f'data:image/png;base64,{base64.b64encode(png).decode()}'
  title = ''.join(token.content for token in inlines[0].children)
  body = _MARKDOWN.renderer.render(blocks, _MARKDOWN.options, {})
  template = _TEMPLATE.read_text(encoding='utf-8')
  return template.replace('<!--TITLE-->', html.escape(title)).replace(
    '<!--BODY-->', body
  )
