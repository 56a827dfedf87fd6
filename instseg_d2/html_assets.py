"""The style sheet and the script of :mod:`.html_page`, as text that stands inside the page.

Colours are variables, set once for light and once for dark, so that charts follow the reader's
choice as texts do. The script only sorts tables: all that is said can be read without it.
"""

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #ffffff; --panel: #f5f7fa; --ink: #1c2430; --soft: #5a6675; --line: #d9dfe7;
  --accent: #0b62a8; --bar: #cfe3f5; --warn: #fff4d6; --warn-line: #d9a300; --warn-ink: #5c4500;
  --s0: #0072b2; --s1: #d55e00; --s2: #008a66; --s3: #b4528a; --s4: #a67c00; --s5: #3f8fc4;
  --s6: #6b5bb8; --s7: #5a6675;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #12161c; --panel: #1b212a; --ink: #e6eaf0; --soft: #9daaba; --line: #333d4a;
    --accent: #7cc0f5; --bar: #23445f; --warn: #3a2f10; --warn-line: #b58a10; --warn-ink: #f3dfa5;
    --s0: #56a8e0; --s1: #f08a4b; --s2: #3fc79a; --s3: #dd8fbd; --s4: #e0b93c; --s5: #8ccbf2;
    --s6: #a99cf0; --s7: #9daaba;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--paper); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  overflow-wrap: break-word;
}
.page { max-width: 72rem; margin: 0 auto; padding: 0 1.25rem 3rem; }
header { padding: 2rem 0 1rem; border-bottom: 1px solid var(--line); }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -0.01em; }
h2 { margin: 2.75rem 0 0.75rem; font-size: 1.35rem; line-height: 1.25; scroll-margin-top: 1rem; }
h3 { margin: 1.75rem 0 0.5rem; font-size: 1.05rem; }
p { margin: 0.5rem 0; max-width: 46rem; }
.soft, .caption, figcaption, caption, footer { color: var(--soft); }
.soft, .caption, figcaption, caption, footer, nav { font-size: 0.9rem; }
header p { margin: 0.35rem 0 0; }
a { color: var(--accent); }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
.skip { position: absolute; left: -999rem; }
.skip:focus { left: 1rem; top: 1rem; padding: 0.5rem 1rem; background: var(--paper); }
nav ul { display: flex; flex-wrap: wrap; gap: 0.4rem; margin: 1rem 0 0; padding: 0; }
nav li { list-style: none; }
nav a {
  display: block; padding: 0.3rem 0.75rem; border: 1px solid var(--line); border-radius: 999px;
  text-decoration: none;
}
nav a:hover { background: var(--panel); }
.tiles {
  display: grid; grid-template-columns: repeat(auto-fill, minmax(11.5rem, 1fr)); gap: 0.75rem;
  margin: 1rem 0; padding: 0;
}
.tile { padding: 0.8rem 1rem; background: var(--panel); border-radius: 0.6rem; }
.tile dt { color: var(--soft); font-size: 0.85rem; }
.tile dd { margin: 0; font-size: 1.6rem; font-weight: 600; line-height: 1.3; }
.tile dd.more { color: var(--soft); font-size: 0.8rem; font-weight: 400; }
.notice {
  margin: 1rem 0; padding: 0.6rem 1rem; background: var(--warn); color: var(--warn-ink);
  border-left: 4px solid var(--warn-line); border-radius: 0.3rem; max-width: 46rem;
}
.wide { overflow-x: auto; margin: 0.75rem 0; max-width: 100%; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
caption { text-align: left; padding-bottom: 0.4rem; }
th, td { padding: 0.3rem 0.75rem; text-align: left; border-bottom: 1px solid var(--line); }
td, tbody th { vertical-align: top; }
th { font-size: 0.85rem; vertical-align: bottom; }
tbody th { font-size: inherit; font-weight: 500; }
thead tr > :first-child, tbody th { position: sticky; left: 0; background: var(--paper); }
caption span {
  position: sticky; left: 0; display: inline-block; max-width: min(46rem, 100vw - 2rem);
}
td.number, th.number { text-align: right; white-space: nowrap; }
td.bar {
  min-width: 5.5rem;
  background: linear-gradient(to right, var(--bar) var(--part), transparent var(--part));
}
tbody tr:hover, tbody tr:hover th { background: var(--panel); }
th button {
  all: unset; cursor: pointer; font: inherit; border-bottom: 1px dotted var(--soft);
}
th button:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; }
th button::after { content: " \\2195"; color: var(--soft); }
th[aria-sort="ascending"] button::after { content: " \\2191"; color: var(--accent); }
th[aria-sort="descending"] button::after { content: " \\2193"; color: var(--accent); }
.matrix th, .matrix td {
  padding: 0.25rem 0.45rem; text-align: center; border: 1px solid var(--line);
}
.matrix tbody th { text-align: right; white-space: nowrap; }
.matrix thead th { font-weight: 500; white-space: nowrap; }
.matrix thead th span { writing-mode: vertical-rl; transform: rotate(180deg); }
.matrix td { min-width: 2.2rem; }
.matrix td {
  background: color-mix(in srgb, var(--shade, var(--s0)) calc(var(--part, 0) * 55%), transparent);
}
.charts {
  display: grid; gap: 1.5rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 22rem), 1fr));
}
.gallery {
  display: grid; gap: 1.25rem; margin: 1rem 0;
  grid-template-columns: repeat(auto-fill, minmax(min(100%, 20rem), 1fr));
}
figure { margin: 0; min-width: 0; }
figcaption { margin-top: 0.35rem; }
figure img, figure svg { display: block; max-width: 100%; height: auto; border-radius: 0.4rem; }
figure svg { width: 100%; max-width: 36rem; }
figure strong { color: var(--ink); }
.legend { display: flex; flex-wrap: wrap; gap: 0.3rem 1.1rem; margin: 0.5rem 0; padding: 0; }
.legend li { list-style: none; display: flex; align-items: center; gap: 0.4rem; font-size: 0.9rem; }
.swatch {
  display: inline-block; flex: none; width: 1.1rem; height: 0.7rem; border-radius: 0.15rem;
  background: var(--colour); print-color-adjust: exact; -webkit-print-color-adjust: exact;
}
.axis { stroke: var(--soft); stroke-width: 1; fill: none; }
.grid { stroke: var(--line); stroke-width: 1; fill: none; }
.curve { fill: none; stroke-width: 2; stroke-linejoin: round; }
.guide { fill: none; stroke: var(--soft); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg text { fill: var(--ink); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg text.soft { fill: var(--soft); font-size: 12px; }
details {
  margin: 0.75rem 0; padding: 0.5rem 1rem; border: 1px solid var(--line); border-radius: 0.5rem;
}
summary { cursor: pointer; font-weight: 600; }
pre {
  overflow-x: auto; margin: 0.5rem 0; padding: 0.75rem 1rem; background: var(--panel);
  border-radius: 0.4rem; font: 0.82rem/1.45 ui-monospace, Menlo, Consolas, monospace;
}
pre.wrap { white-space: pre-wrap; }
footer { margin-top: 3rem; padding-top: 1rem; border-top: 1px solid var(--line); }
@media (max-width: 40rem) {
  .page { padding: 0 0.9rem 2rem; }
  header { padding-top: 1.25rem; }
  h1 { font-size: 1.5rem; }
  th, td { padding: 0.3rem 0.5rem; }
  tbody th { max-width: 45vw; }
  .tiles { grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); gap: 0.5rem; }
  .tile { padding: 0.6rem 0.75rem; }
  .tile dd { font-size: 1.35rem; }
}
@media (prefers-reduced-motion: reduce) { html { scroll-behavior: auto; } }
@media print {
  :root {
    color-scheme: light;
    --paper: #fff; --panel: #f5f7fa; --ink: #000; --soft: #444; --line: #bbb; --bar: #cfe3f5;
    --s0: #0072b2; --s1: #d55e00; --s2: #008a66; --s3: #b4528a; --s4: #a67c00; --s5: #3f8fc4;
    --s6: #6b5bb8; --s7: #5a6675;
  }
  body { font-size: 11pt; }
  nav, .skip { display: none; }
  .wide, pre { overflow: visible; white-space: pre-wrap; }
  figure, .tile, tr, .notice { break-inside: avoid; }
  h2, h3 { break-after: avoid; }
  td.bar, .matrix td, .tile { print-color-adjust: exact; -webkit-print-color-adjust: exact; }
}
"""

SCRIPT = """
"use strict";
// Headings of tables become buttons that sort by their column: first ascending for texts and
// descending for numbers, then the other way. Cells without a value stay last.
for (const table of document.querySelectorAll("table.sortable")) {
  const body = table.tBodies[0];
  const heads = [...table.tHead.rows[0].cells];
  heads.forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const isNumber = head.classList.contains("number");
      const now = head.getAttribute("aria-sort");
      const first = isNumber ? "descending" : "ascending";
      const second = isNumber ? "ascending" : "descending";
      const order = now === first ? second : first;
      for (const other of heads) other.removeAttribute("aria-sort");
      head.setAttribute("aria-sort", order);
      const sign = order === "ascending" ? 1 : -1;
      const value = (row) => {
        const cell = row.cells[column];
        return isNumber ? parseFloat(cell.dataset.sort) : cell.textContent;
      };
      const compare = (a, b) => {
        const x = value(a), y = value(b);
        if (!isNumber) return sign * x.localeCompare(y, undefined, { numeric: true });
        if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y);
        return sign * (x - y);
      };
      body.append(...[...body.rows].sort(compare));
    });
  });
}
"""
