"""The look of every page: one style sheet, light and dark, no asset from outside."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --paper: #fbfbfd; --card: #ffffff; --ink: #1b1d26; --quiet: #666b7c; --line: #e3e5ec; --wash: #f1f2f7;
  --accent: #6a3fb5; --accent-soft: #efe8fb; --good: #17794a; --good-soft: #e4f5ec; --bad: #b3352f; --bad-soft: #fbe9e8;
  --s0: #6a3fb5; --s1: #d9632a; --s2: #14808c; --s3: #b5307f; --s4: #5a7a12; --s5: #34507e;
}
@media (prefers-color-scheme: dark) {
  :root {
    --paper: #13141a; --card: #1b1d26; --ink: #e8e9f0; --quiet: #9a9fb2; --line: #2d303d; --wash: #232632;
    --accent: #b79cf0; --accent-soft: #2b2340; --good: #6fd3a1; --good-soft: #16321f;
    --bad: #f19690; --bad-soft: #3b1c1b;
    --s0: #b79cf0; --s1: #f0955f; --s2: #5cc7d2; --s3: #ee86c0; --s4: #b3d463; --s5: #9db8e8;
  }
}
* { box-sizing: border-box; }
html { scroll-behavior: smooth; scroll-padding-top: 4rem; }
body { margin: 0; background: var(--paper); color: var(--ink); line-height: 1.55; font-size: 16px;
  font-family: ui-sans-serif, system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
header { padding: 3.2rem 1.5rem 1.4rem; max-width: 1180px; margin: 0 auto; }
h1 { font-size: 2.1rem; line-height: 1.15; margin: 0 0 .4rem; letter-spacing: -.02em; }
h2 { font-size: 1.35rem; margin: 0 0 .3rem; letter-spacing: -.01em; }
h3 { font-size: 1rem; margin: 1.4rem 0 .5rem; }
p { margin: .35rem 0 .8rem; max-width: 76ch; }
.quiet, figcaption, .intro { color: var(--quiet); }
.intro { margin-bottom: 1.1rem; }
nav { position: sticky; top: 0; z-index: 2; background: var(--paper); border-bottom: 1px solid var(--line); }
nav ul { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; list-style: none; margin: 0 auto; max-width: 1180px;
  padding: .6rem 1.5rem; font-size: .9rem; }
nav a { color: var(--quiet); text-decoration: none; } nav a:hover { color: var(--accent); }
main { max-width: 1180px; margin: 0 auto; padding: 1.4rem 1.5rem 4rem; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 14px; padding: 1.5rem 1.6rem;
  margin: 0 0 1.4rem; }
.verdict { border-left: 5px solid var(--accent); background: var(--accent-soft); border-radius: 10px;
  padding: .9rem 1.2rem; margin: 0 0 1.1rem; max-width: none; }
.verdict strong { display: block; font-size: 1.12rem; }
.verdict.good { border-color: var(--good); background: var(--good-soft); }
.verdict.bad { border-color: var(--bad); background: var(--bad-soft); }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(140px, 1fr)); gap: .8rem; margin: 0 0 1rem; }
.facts div { background: var(--wash); border-radius: 10px; padding: .65rem .9rem; }
.facts dt { color: var(--quiet); font-size: .82rem; } .facts dd { margin: 0; font-size: 1.25rem; font-weight: 600;
  font-variant-numeric: tabular-nums; overflow-wrap: anywhere; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: .93rem; font-variant-numeric: tabular-nums; }
th, td { text-align: left; padding: .45rem .8rem .45rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--quiet); font-weight: 600; font-size: .83rem; white-space: nowrap; }
td.number, th.number { text-align: right; white-space: nowrap; padding-right: 1.6rem; }
p.chart-title { margin: 0 0 .3rem; font-size: .9rem; font-weight: 600; }
tr:last-child td { border-bottom: 0; }
.grid { display: grid; gap: 1rem; }
figure { margin: 0; } figcaption { font-size: .83rem; margin-top: .35rem; overflow-wrap: anywhere; }
img { display: block; width: 100%; height: auto; border-radius: 6px; background: var(--wash); }
.strip { display: grid; gap: 5px; align-items: start; }
.strip figcaption { text-align: center; margin-top: .15rem; font-size: .76rem; }
.strip .given img { outline: 3px solid var(--accent); outline-offset: -3px; }
.strip .right img { outline: 3px solid var(--good); outline-offset: -3px; }
.strip .wrong img { outline: 3px dashed var(--bad); outline-offset: -3px; }
.rows > *, .grid > *, .strip > * { min-width: 0; }
.rows { display: grid; grid-template-columns: repeat(auto-fill, minmax(min(340px, 100%), 1fr)); gap: 1rem 1.4rem; }
.beside { display: grid; grid-template-columns: 3fr 2fr; gap: 1rem 2rem; } .beside > * { min-width: 0; }
.beside h3:first-child { margin-top: 0; }
.rows.wide { grid-template-columns: 1fr; }
.over { position: relative; } .over svg { position: absolute; inset: 0; width: 100%; height: 100%; }
.over rect { fill: var(--s2); fill-opacity: .16; stroke: var(--s2); stroke-width: .8;
  vector-effect: non-scaling-stroke; }
svg.chart { width: 100%; height: auto; display: block; overflow: visible; font-size: 12px; }
svg.forest { max-width: 640px; font-size: 14px; }
svg.chart text { fill: var(--quiet); } svg.chart text.ink { fill: var(--ink); }
svg.chart .gridline { stroke: var(--line); stroke-width: 1; }
svg.chart .zero { stroke: var(--quiet); stroke-dasharray: 4 3; }
svg.chart .raw { fill: none; stroke-width: 1; opacity: .28; } svg.chart .smooth { fill: none; stroke-width: 2; }
.s0 { stroke: var(--s0); } .s1 { stroke: var(--s1); } .s2 { stroke: var(--s2); } .s3 { stroke: var(--s3); }
.s4 { stroke: var(--s4); } .s5 { stroke: var(--s5); }
.f0 { fill: var(--s0); } .f1 { fill: var(--s1); } .f2 { fill: var(--s2); } .f3 { fill: var(--s3); }
.f4 { fill: var(--s4); } .f5 { fill: var(--s5); }
.legend { display: flex; flex-wrap: wrap; gap: .2rem 1.1rem; list-style: none; padding: 0; margin: .3rem 0 0;
  font-size: .85rem; color: var(--quiet); }
.legend svg { width: 12px; height: 12px; margin-right: .4rem; vertical-align: -1px; }
details { border-top: 1px solid var(--line); padding: .55rem 0; } details:first-of-type { border-top: 0; }
summary { cursor: pointer; font-weight: 600; } pre { overflow-x: auto; background: var(--wash); border-radius: 8px;
  padding: .8rem 1rem; font-size: .82rem; line-height: 1.45; }
code, pre { font-family: ui-monospace, SFMono-Regular, Menlo, Consolas, monospace; }
ul.failures { color: var(--bad); margin: .2rem 0; padding-left: 1.1rem; }
footer { color: var(--quiet); font-size: .85rem; max-width: 1180px; margin: 0 auto; padding: 0 1.5rem 3rem; }
ul { margin: .2rem 0 .8rem; padding-left: 1.2rem; max-width: 76ch; } li { margin: .2rem 0; }
@media (max-width: 640px) {
  header { padding: 1.6rem .9rem .8rem; } main { padding: .8rem .6rem 2rem; } nav ul { padding: .5rem .9rem; }
  nav { position: static; } h1 { font-size: 1.6rem; } section { padding: 1rem .9rem; border-radius: 10px; }
  .facts { grid-template-columns: repeat(auto-fit, minmax(110px, 1fr)); gap: .5rem; } svg.chart { font-size: 14px; }
  .beside { grid-template-columns: 1fr; }
  table, tbody, tr, td { display: block; } thead { display: none; }
  tr { border-bottom: 1px solid var(--line); padding: .5rem 0; } td { border: 0; padding: .1rem 0; }
  td.number { text-align: left; white-space: normal; padding-right: 0; }
  td::before { content: attr(data-label) ": "; color: var(--quiet); } td:first-child { font-weight: 600; }
  td:empty { display: none; }
}
@media print { nav { display: none; } section { break-inside: avoid; } }
"""
