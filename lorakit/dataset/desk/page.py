"""The check as one HTML page: thumbnails with bucket and crop, findings, tags and token counts. No scripts from elsewhere, no files beside it."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Final

from lorakit.dataset.desk.report import Finding, Item, Report

__all__ = ["html_page"]

_WORDS: Final = {"fail": "stops the trainer", "look": "look", "note": "note"}
_LINES_SHOWN: Final = 60
_TAGS_SHOWN: Final = 200
#: Nothing on the page may load or send anything.
_POLICY: Final = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"

_STYLE: Final = """
:root{color-scheme:light dark;--back:#fbfaf8;--text:#1f1d1a;--dim:#6e6a63;--line:#e2ded6;--card:#fff;--fail:#b3261e;--look:#8a6100;--done:#1f7a3d;--bar:#5b7fa6;--crop:#ffb000}
@media(prefers-color-scheme:dark){:root{--back:#161513;--text:#ece8e1;--dim:#a09a90;--line:#35322d;--card:#1f1d1a;--fail:#ff8a80;--look:#f0c060;--done:#7bd695;--bar:#7fa6cf;--crop:#ffb000}}
*{box-sizing:border-box}body{margin:0;background:var(--back);color:var(--text);font:15px/1.5 system-ui,sans-serif}
main{max-width:1240px;margin:0 auto;padding:24px 16px 64px}h1{font-size:22px;margin:0 0 4px;overflow-wrap:anywhere}h2{font-size:16px;margin:32px 0 8px}
p{margin:4px 0}.dim{color:var(--dim)}.fail{color:var(--fail)}.look{color:var(--look)}.done{color:var(--done)}.note{color:var(--dim)}
details{border:1px solid var(--line);border-radius:8px;background:var(--card);padding:8px 12px;margin:6px 0}summary{cursor:pointer;overflow-wrap:anywhere}
summary b{font-weight:600;margin-right:.5em}ul{margin:6px 0;padding-left:20px}li{overflow-wrap:anywhere}
.scroll{overflow-x:auto}table{border-collapse:collapse}td,th{text-align:left;padding:3px 14px 3px 0;vertical-align:middle;font-weight:400;white-space:nowrap}th{color:var(--dim)}td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
.bar{display:inline-block;height:10px;background:var(--bar);border-radius:2px;vertical-align:middle}
.tags{display:flex;flex-wrap:wrap;gap:6px}.tags span{border:1px solid var(--line);border-radius:12px;padding:0 9px;background:var(--card);overflow-wrap:anywhere}.tags i{font-style:normal;color:var(--dim);margin-left:4px}
.grid{display:grid;grid-template-columns:repeat(auto-fill,minmax(190px,1fr));gap:12px;align-items:start}
figure{margin:0;background:var(--card);border:1px solid var(--line);border-radius:8px;padding:8px;content-visibility:auto;contain-intrinsic-size:190px 300px}
.shot{position:relative;overflow:hidden;margin:0 auto;max-width:100%;background:var(--line)}.shot img{display:block;width:100%;height:100%}
.crop{position:absolute;outline:2px solid var(--crop);outline-offset:-2px;box-shadow:0 0 0 999px rgb(0 0 0/.6)}
figcaption{font-size:13px;margin-top:6px;overflow-wrap:anywhere}figcaption .text{max-height:6em;overflow:auto;margin-top:4px}.lost{text-decoration:line-through;color:var(--fail)}
.flags{margin-top:4px}.flags span{display:inline-block;border-radius:4px;border:1px solid currentColor;font-size:11px;padding:0 5px;margin:0 4px 2px 0}
.choose{display:flex;flex-wrap:wrap;gap:6px;margin:8px 0 12px}.choose button{font:inherit;font-size:13px;border:1px solid var(--line);border-radius:14px;background:var(--card);color:inherit;padding:2px 11px;cursor:pointer}.choose button[aria-pressed=true]{border-color:var(--text);font-weight:600}
"""  # fmt: skip

_SCRIPT: Final = """
for(const b of document.querySelectorAll('.choose button'))b.onclick=()=>{
for(const o of document.querySelectorAll('.choose button'))o.setAttribute('aria-pressed',o===b);
const f=b.dataset.f;for(const g of document.querySelectorAll('.grid figure'))g.hidden=f!==''&&!(' '+g.dataset.f+' ').includes(' '+f+' ')}
"""


def html_page(report: Report) -> str:
    """The whole page. Every name and caption is escaped; pictures without a thumbnail are left out and counted."""
    title = f"Dataset {report.asked}"
    parts = [
        "<!doctype html><html lang=en><head><meta charset=utf-8>",
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name=viewport content="width=device-width,initial-scale=1">',
        f"<title>{_e(title)}</title><style>{_STYLE}</style></head><body><main>",
        *_head(report),
        *_findings(report),
        *_folders(report),
        *_buckets(report),
        *_tokens(report),
        *_tags(report),
        *_pictures(report),
        f"</main><script>{_SCRIPT}</script></body></html>\n",
    ]
    return "\n".join(parts)


def _head(report: Report) -> Iterable[str]:
    fails, looks = len(report.of_level("fail")), len(report.of_level("look"))
    told = (
        "<span class=fail>the trainer would stop at it</span>" if fails
        else f'<span class=done>can be trained on</span>, {_count(looks, "thing")} to look at' if looks
        else "<span class=done>can be trained on</span>, nothing to look at"
    )  # fmt: skip
    yield f"<h1>{_e(report.asked)}</h1>"
    yield f"<p>{_count(len(report.items), 'picture')} · {told}</p>"
    width, height = report.resolution
    yield (
        f"<p class=dim>{width}×{height} px, batch {report.batch_size}: "
        f"{_count(report.data.batches_per_epoch, 'batch', 'batches')} per epoch</p>"
    )


def _findings(report: Report) -> Iterable[str]:
    if report.findings:
        yield "<h2>What was found</h2>"
    for finding in report.findings:
        lines = _lines(finding, report.asked)
        shown = "".join(f"<li>{_e(line)}</li>" for line in lines[:_LINES_SHOWN])
        more = f"<p class=dim>and {len(lines) - _LINES_SHOWN} more</p>" if len(lines) > _LINES_SHOWN else ""
        todo = f"<p>→ {_e(finding.todo.replace(' DIR', f' {report.asked}'))}</p>" if finding.todo else ""
        opened = " open" if finding.level == "fail" else ""
        yield (
            f"<details{opened}><summary><b class={finding.level}>{_WORDS[finding.level]}</b>{_e(finding.what)}</summary>"
            f"{todo}<ul>{shown}</ul>{more}</details>"
        )


def _lines(finding: Finding, asked: Path) -> list[str]:
    files = [_name(path, asked) for path in finding.files]
    if files and len(files) == len(finding.details):
        return [f"{file}: {detail}" for file, detail in zip(files, finding.details, strict=True)]
    return list(finding.details) or files


def _folders(report: Report) -> Iterable[str]:
    yield "<h2>Folders</h2><div class=scroll><table><tr><th>folder<th class=n>pictures<th class=n>repeats<th class=n>per epoch<th class=n>repeats to balance</tr>"
    for one in report.folders:
        balanced = "regularisation" if one.is_reg else str(one.balanced)
        yield f"<tr><td>{_e(one.path.name)}<td class=n>{one.images}<td class=n>{one.repeats}<td class=n>{one.items}<td class=n>{balanced}</tr>"
    yield "</table></div>"


def _buckets(report: Report) -> Iterable[str]:
    counts: defaultdict[tuple[int, int], int] = defaultdict(int)
    for dataset in report.data.datasets:
        for bucket, count in dataset.bucket_counts().items():
            counts[bucket] += count
    most = max(counts.values(), default=1)
    yield "<h2>Buckets</h2><div class=scroll><table><tr><th>bucket<th class=n>per epoch<th></tr>"
    for bucket, count in sorted(counts.items(), key=lambda item: -item[1]):
        width = max(1, round(240 * count / most))
        yield f"<tr><td>{bucket[0]}×{bucket[1]}<td class=n>{count}<td><span class=bar style='width:{width}px'></span></tr>"
    yield "</table></div>"


def _tokens(report: Report) -> Iterable[str]:
    tokens = report.tokens
    yield "<h2>Caption length</h2>"
    if tokens.why_not:
        yield f"<p class=look>not counted: {_e(tokens.why_not)}</p>"
        return
    parts = [f"{tokens.by_length[name]} {'fit' if name == '75' else 'need'} {name}" for name in ("75", "150", "225")]
    yield f"<p>longest {tokens.longest} tokens of {tokens.length} · {' · '.join(parts)} · {tokens.by_length['more']} longer</p>"
    yield f"<p class=dim>TE1 and TE2 count alike: one vocabulary, other padding ({_e(tokens.source)})</p>"


def _tags(report: Report) -> Iterable[str]:
    table = report.tags
    if not table.captions:
        return
    yield f"<h2>Tags</h2><p class=dim>{_count(len(table.counts), 'tag')} in {_count(table.captions, 'caption')}</p><div class=tags>"
    yield "".join(f"<span>{_e(tag)}<i>{count}</i></span>" for tag, count in table.counts[:_TAGS_SHOWN])
    yield "</div>"
    if len(table.counts) > _TAGS_SHOWN:
        yield f"<p class=dim>and {len(table.counts) - _TAGS_SHOWN} rarer ones</p>"


def _pictures(report: Report) -> Iterable[str]:
    flags: defaultdict[Path, list[Finding]] = defaultdict(list)
    for finding in report.findings:
        for path in dict.fromkeys(finding.files):
            flags[path].append(finding)
    drawn = [item for item in report.items if item.picture.thumbnail]
    lost = {path: cut.lost for path, cut in report.tokens.cuts}
    yield "<h2>Pictures</h2>"
    if len(drawn) < len(report.items):
        yield f"<p class=dim>{len(drawn)} of {len(report.items)} are drawn, those with findings first (--pictures N draws more)</p>"
    yield "<p class=dim>As the trainer sees them. What is dark is cropped away for the bucket.</p>"
    used = [one for one in report.findings if any(item.path in one.files for item in drawn)]
    yield "<div class=choose><button data-f='' aria-pressed=true>all</button>"
    yield "".join(f"<button data-f='{_e(one.code)}' aria-pressed=false>{_e(one.code)}</button>" for one in used)
    yield "</div><div class=grid>"
    for item in drawn:
        yield _figure(item, flags[item.path], lost.get(item.path, ""), report)
    yield "</div>"


def _figure(item: Item, flags: Sequence[Finding], lost: str, report: Report) -> str:
    left = max(0.0, (item.resized[0] - item.bucket[0]) / 2 / item.resized[0] * 100)
    top = max(0.0, (item.resized[1] - item.bucket[1]) / 2 / item.resized[1] * 100)
    width, height = item.size
    shrink = 174 / max(width, height)
    crop = f"<div class=crop style='left:{left:.2f}%;right:{left:.2f}%;top:{top:.2f}%;bottom:{top:.2f}%'></div>"
    marks = "".join(f"<span class={one.level}>{_e(one.code)}</span>" for one in flags)
    tokens = "" if item.tokens is None else f" · {item.tokens} tokens"
    kept = item.text.removesuffix(lost) if lost else item.text
    text = f"{_e(kept)}<span class=lost>{_e(lost)}</span>" if lost else _e(kept)
    kind = "regularisation, " if item.is_reg else "validation, " if item.validation else ""
    return (
        f"<figure data-f='{' '.join(_e(one.code) for one in flags)}'>"
        f"<div class=shot style='width:{width * shrink:.0f}px;aspect-ratio:{width}/{height}'>"
        f"<img alt='' loading=lazy src='data:image/jpeg;base64,{item.picture.thumbnail}'>{crop}</div>"
        f"<figcaption>{_e(_name(item.path, report.asked))}<div class=dim>{kind}{width}×{height} → {item.bucket[0]}×{item.bucket[1]}"
        f"{f', {item.cut * 100:.0f} % cropped' if item.cut >= 0.005 else ''}{tokens}</div>"
        f"<div class=flags>{marks}</div><div class=text>{text}</div></figcaption></figure>"
    )


def _name(path: Path, asked: Path) -> str:
    return os.path.relpath(path, asked if asked.is_dir() else asked.parent)


def _e(value: object) -> str:
    """Text for HTML; what is no valid text is shown as what it is."""
    return escape(str(value).encode("utf-8", "backslashreplace").decode("utf-8"), quote=True)


def _count(number: int, word: str, words: str = "") -> str:
    return f"{number} {word if number == 1 else words or word + 's'}"
