"""The look that all pages share, in light and in dark."""

STYLE = """
:root { color-scheme: light dark; --page: #f6f7f9; --card: #fff; --text: #1c2330; --soft: #5c6675; --rule: #d9dee6;
  --blue: #2563c9; --green: #0f8a6d; --grey: #7a8494; --orange: #b4540a; --purple: #8a45c4; --red: #c02b55; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12151a; --card: #1b2027; --text: #e6eaf0; --soft: #9aa5b4; --rule: #323a45;
    --blue: #6ea8ff; --green: #4fd1ae; --grey: #939eae; --orange: #f0a25a; --purple: #c59bf2; --red: #f27a9a; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--text); font: 15px/1.45 system-ui, sans-serif; }
main { max-width: 1180px; margin: 0 auto; padding: 16px; }
h1 { font-size: 1.5rem; margin: 0 0 4px; overflow-wrap: anywhere; }
h2 { font-size: 1.05rem; margin: 0 0 4px; }
header p, .about, caption { color: var(--soft); margin: 0 0 8px; font-size: .9rem; overflow-wrap: anywhere; }
.note, .warning { border-left: 3px solid var(--orange); padding-left: 8px; }
.warning { color: var(--text); font-weight: 600; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 8px; margin: 12px 0; }
.tile, section { background: var(--card); border: 1px solid var(--rule); border-radius: 8px; padding: 12px; }
.tile b { display: block; font-size: 1.3rem; }
.tile span { color: var(--soft); font-size: .85rem; }
section { break-inside: avoid; margin-bottom: 12px; }
@media (min-width: 900px) { .grid { columns: 2; column-gap: 12px; } }
.chart { display: block; margin: 4px 0 8px; overflow: visible; font-size: 13px; }
.chart text { fill: var(--text); }
.chart .value { font-variant-numeric: tabular-nums; font-weight: 600; }
.fill, .swatch { fill: var(--kind); background: var(--kind); }
.stroke { stroke: var(--kind); stroke-width: 1.5px; fill: none; vector-effect: non-scaling-stroke; }
.legend { margin: 0 0 6px; font-size: .85rem; color: var(--soft); }
.entry { display: inline-block; margin-right: 14px; }
.swatch { display: inline-block; width: 10px; height: 10px; border-radius: 2px; margin-right: 5px; }
.scroll { overflow-x: auto; margin-top: 6px; }
table { border-collapse: collapse; font-size: .85rem; font-variant-numeric: tabular-nums; width: 100%; }
caption { text-align: left; caption-side: bottom; margin: 4px 0 0; }
th, td { padding: 3px 8px; border-bottom: 1px solid var(--rule); text-align: right; white-space: nowrap; }
th { font-weight: 600; }
tbody th, th:first-child { text-align: left; font-weight: 400; }
.facts td, .facts th { white-space: normal; text-align: left; overflow-wrap: anywhere; vertical-align: top; }
.facts th { min-width: 9em; }
@media (max-width: 520px) {
  section { padding: 10px; }
  table { font-size: .76rem; }
  th, td { padding: 3px 4px; white-space: normal; }
  tbody th { min-width: 5.5em; }
}
details { margin-top: 8px; }
summary { cursor: pointer; color: var(--soft); font-size: .9rem; }
"""
