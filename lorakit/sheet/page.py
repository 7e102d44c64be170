"""A sheet as one HTML file to look at: nothing is loaded from elsewhere, every name and caption is escaped."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from lorakit.sheet.cells import Cell
from lorakit.sheet.layout import BASE, Grid

if TYPE_CHECKING:
    from PIL import Image

__all__ = ["page"]

#: Pictures up to this many bytes as PNG are kept as they are; larger ones become WebP, which the eye does not tell from them.
_EXACT: Final = 60_000
_QUALITY: Final = 90

_STYLE: Final = """
:root{color-scheme:light dark;--paper:#fff;--ink:#1c1e24;--quiet:#767a84;--rule:#dee0e6;--accent:#265cc8;--side:180px}
@media(prefers-color-scheme:dark){:root{--paper:#15161a;--ink:#e8e9ed;--quiet:#9498a3;--rule:#33353d;--accent:#8fb4ff}}
*{box-sizing:border-box}
body{margin:0;background:var(--paper);color:var(--ink);font:14px/1.4 system-ui,sans-serif}
header{padding:18px 20px 10px;position:sticky;left:0}
h1{font-size:20px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:16px;margin:18px 20px 6px;position:sticky;left:20px}
p{margin:2px 0;color:var(--quiet);max-width:90ch;overflow-wrap:anywhere}
label{color:var(--quiet)}input[type=range]{vertical-align:middle;width:180px}
table{border-spacing:6px;margin:0 14px}
th{font-weight:500;font-size:13px;background:var(--paper)}
thead th{position:sticky;top:0;z-index:2;width:var(--side);vertical-align:bottom;overflow-wrap:anywhere}
tbody th{position:sticky;left:0;z-index:1;text-align:right;padding-right:8px;min-width:90px;max-width:220px;overflow-wrap:anywhere}
.base{color:var(--accent)}
td{padding:0;text-align:center;vertical-align:middle;color:var(--quiet);border:1px solid transparent}
td img{display:block;width:var(--side);height:auto;margin:auto;cursor:zoom-in;border-radius:2px}
td img:focus-visible{outline:3px solid var(--accent)}
.none{background:color-mix(in srgb,var(--rule) 40%,transparent);width:var(--side);height:calc(var(--side)/2)}
dialog{border:0;padding:0;background:var(--paper);color:var(--ink);max-width:96vw;max-height:96vh;overflow:auto}
dialog::backdrop{background:#000c}
dialog img{display:block;margin:auto;max-width:96vw;max-height:70vh;min-width:min(512px,90vw);image-rendering:auto}
dialog pre{white-space:pre-wrap;overflow-wrap:anywhere;margin:0;padding:10px 14px;font-size:12px;max-width:80ch}
dialog b{display:block;padding:10px 14px 0}
"""

_SCRIPT: Final = """
const all=[...document.querySelectorAll('td img')],box=document.querySelector('dialog'),big=box.querySelector('img');
const said=box.querySelector('pre'),where=box.querySelector('b'),size=document.querySelector('input');
let at=0;
const base=i=>all.findIndex(o=>o.dataset.z===all[i].dataset.z&&o.dataset.base&&
  (o.dataset.x===all[i].dataset.x||o.dataset.y===all[i].dataset.y));
const show=i=>{at=(i+all.length)%all.length;big.src=all[at].src;big.alt=all[at].alt;said.textContent=all[at].dataset.text;
  where.textContent=all[at].alt;if(!box.open)box.showModal();};
const near=(dx,dy)=>{const d=all[at].dataset,i=all.findIndex(o=>o.dataset.z===d.z&&+o.dataset.x===+d.x+dx&&+o.dataset.y===+d.y+dy);
  if(i>=0)show(i);};
all.forEach((one,i)=>{one.onclick=()=>show(i);one.onkeydown=e=>{if(e.key==='Enter')show(i);};});
box.onclick=e=>{if(e.target!==said)box.close();};
document.onkeydown=e=>{if(!box.open)return;const m={ArrowLeft:[-1,0],ArrowRight:[1,0],ArrowUp:[0,-1],ArrowDown:[0,1]}[e.key];
  if(m){e.preventDefault();near(...m);}
  if(e.key==='b'){const i=base(at);if(i>=0)big.src=all[i].src;}};
document.onkeyup=e=>{if(e.key==='b'&&box.open)big.src=all[at].src;};
size.oninput=()=>document.documentElement.style.setProperty('--side',size.value+'px');
"""


def page(grid: Grid, open_cell: Callable[[Cell], Image.Image], text_of: Callable[[Cell], str], *, title: str) -> str:
    """The page of a sheet; ``text_of`` gives the parameters that a picture is shown with. The same cells give the same page."""
    known: dict[Cell, str] = {}

    def source(cell: Cell) -> str:
        one = cell.settled()
        if one not in known:
            known[one] = _data(open_cell(one))
        return known[one]

    planes = []
    for z, (label, plane) in enumerate(zip(grid.z, grid.cells, strict=True)):
        head = "".join(f"<th{_class(name)}>{_safe(name)}</th>" for name in grid.x)
        rows = []
        for y, (name, row) in enumerate(zip(grid.y, plane, strict=True)):
            cells = []
            for x, cell in enumerate(row):
                if cell is None:
                    cells.append('<td class="none">no such checkpoint</td>')
                    continue
                names = " · ".join(part for part in (label, name, grid.x[x]) if part)
                mark = ' data-base="1"' if cell.settled().lora is None else ""
                cells.append(
                    f'<td><img tabindex="0" src="{source(cell)}" alt="{_safe(names)}" data-z="{z}" data-y="{y}" data-x="{x}"{mark}'
                    f' data-text="{_safe(text_of(cell))}"></td>'
                )
            rows.append(f"<tr><th{_class(name)}>{_safe(name)}</th>{''.join(cells)}</tr>")
        title_of = f"<h2>{_safe(label)}</h2>" if len(grid.z) > 1 else ""
        planes.append(f"{title_of}<table><thead><tr><th></th>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>")
    facts = " · ".join(f"{name} {value}" for name, value in grid.constants().items())
    widest = max((cell.width for cell in grid), default=128)
    side = min(max(widest, 160), 320)
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none';img-src data:;style-src 'unsafe-inline';script-src 'unsafe-inline'">
<title>{_safe(title)}</title><style>{_STYLE}:root{{--side:{side}px}}</style></head><body>
<header><h1>{_safe(title)}</h1><p>{_safe(facts)}</p>
<p>Click a picture to see it large; arrow keys go on, and holding B shows the base model in its place.
<label>size <input type="range" min="64" max="1024" step="16" value="{side}"></label></p></header>
{"".join(planes)}
<dialog><b></b><img alt=""><pre></pre></dialog><script>{_SCRIPT}</script></body></html>
"""


def _safe(text: str) -> str:
    return html.escape(text.encode("utf-8", "replace").decode("utf-8"), quote=True)


def _class(label: str) -> str:
    return ' class="base"' if label == BASE else ""


def _data(picture: Image.Image) -> str:
    """A picture as a data address."""
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    kind = "png"
    if buffer.tell() > _EXACT:
        buffer, kind = io.BytesIO(), "webp"
        picture.save(buffer, "WEBP", quality=_QUALITY, method=4)
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode('ascii')}"
