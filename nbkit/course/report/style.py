"""How a report looks: on a desk, on a phone, in the dark, on paper."""

STYLE = """
:root { color-scheme: light dark; --ink: #1b1f24; --soft: #57606a; --paper: #fff; --line: #d0d7de;
  --good: #1a6e3c; --bad: #b3261e; --open: #7a5500; --panel: #f6f8fa; --bar: #8fb3d9; }
@media screen and (prefers-color-scheme: dark) { :root { --ink: #e6edf3; --soft: #9da7b3;
  --paper: #0d1117; --line: #30363d; --good: #5fd08a; --bad: #ff8a80; --open: #e3b341;
  --panel: #161b22; --bar: #3d5f85; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 68rem; padding: 1.5rem 1rem 4rem; color: var(--ink);
  background: var(--paper); font: 1rem/1.5 system-ui, sans-serif; overflow-wrap: break-word; }
h1 { font-size: 1.5rem; line-height: 1.3; margin: 0 0 1rem; }
h2 { font-size: 1.2rem; margin: 2.5rem 0 .3rem; } h3 { font-size: 1rem; margin: 0; }
p { margin: .3rem 0; } ul { margin: .3rem 0; padding-left: 1.2rem; }
.soft { color: var(--soft); font-size: .875rem; } a { color: inherit; }
.cards { display: grid; gap: .8rem; grid-template-columns: repeat(auto-fit, minmax(17rem, 1fr)); }
.card, .alert { border: 1px solid var(--line); border-radius: .5rem; padding: .7rem 1rem;
  background: var(--panel); }
.alert { border-left: 4px solid var(--bad); margin-top: .8rem; }
.alert.odd { border-left-color: var(--open); }
.counts { display: flex; flex-wrap: wrap; gap: .2rem 1.2rem; margin: .3rem 0; }
.count b { font-size: 1.7rem; line-height: 1.2; margin-right: .3rem; }
table { border-collapse: collapse; width: 100%; margin-top: .6rem; table-layout: fixed; }
th { text-align: left; font-size: .8rem; color: var(--soft); font-weight: 600; }
th, td { border-bottom: 1px solid var(--line); padding: .45rem .8rem .45rem 0;
  vertical-align: top; }
.number { font-variant-numeric: tabular-nums; }
.w-verdict { width: 8rem; } .w-effect { width: 12rem; } .w-n { width: 7rem; }
.w-tasks { width: 4rem; }
.w-lesson { width: 25%; } .w-claim { width: 34%; }
.mark { font-weight: 700; font-size: .8rem; letter-spacing: .03em; white-space: nowrap; }
.marks { display: flex; flex-wrap: wrap; gap: 0 .9rem; }
.supported, .ran { color: var(--good); } .refuted, .failed, .flipped { color: var(--bad); }
.inconclusive, .unfinished, .disagree { color: var(--open); }
.skipped, .not { color: var(--soft); }
.bar { display: block; height: .5rem; margin-top: .4rem; min-width: 2px;
  background: var(--bar); border-radius: .2rem;
  print-color-adjust: exact; -webkit-print-color-adjust: exact; }
tr.differs > td:first-child { border-left: 4px solid var(--open); padding-left: .6rem; }
.pictures { display: flex; flex-wrap: wrap; gap: .8rem; margin-top: .8rem;
  align-items: flex-start; }
figure { margin: 0; flex: 0 1 32rem; min-width: 0; }
.side { flex: 1 1 17rem; min-width: 0; }
.side figure { margin-bottom: .6rem; }
img { display: block; max-width: 100%; height: auto; border: 1px solid var(--line);
  border-radius: .3rem; background: #fff; }
pre { background: var(--panel); border-left: 4px solid var(--bad); padding: .6rem .8rem;
  margin: .5rem 0; white-space: pre-wrap; font-size: .85rem; }
.lesson { border-top: 1px solid var(--line); margin-top: 2rem; }
.lesson h2 { margin-top: 1rem; } summary { cursor: pointer; }
@media screen and (max-width: 40rem) { body { padding-top: 1rem; } thead { display: none; }
  table, tbody { display: block; }
  tr { display: block; border-bottom: 1px solid var(--line); padding: .5rem 0; }
  td { display: block; border: 0; padding: .1rem 0; } td:empty { display: none; }
  td[data-name]::before { content: attr(data-name) ": "; color: var(--soft); font-size: .875rem; }
  td.column { padding: .5rem 0 0; }
  td.column::before { display: block; content: attr(data-name); font-weight: 600; }
  figure { flex-basis: 100%; } }
@page { margin: 1.5cm; }
@media print { html { font-size: 9.5pt; } body { max-width: none; padding: 0; }
  tr, figure, .card, .alert, pre { break-inside: avoid; }
  h2, h3, thead, .lesson > p { break-after: avoid; } h2, .lesson { margin-top: 1.2rem; }
  figure { flex-basis: 8cm; } a { text-decoration: none; } .links { display: none; }
  details::details-content { content-visibility: visible; block-size: auto; }
  details ul { columns: 2; column-gap: 2rem; } }
"""
