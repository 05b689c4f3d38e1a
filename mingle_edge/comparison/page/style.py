"""The style sheet of the page, beyond what all pages share."""

_TINTS = "\n".join(f".tint-{i} {{ background: color-mix(in srgb, var(--blue) {4 * i}%, transparent); }}" for i in range(11))

STYLE = (
    """
:root { --on: #fff; }
@media (prefers-color-scheme: dark) { :root { --on: #10151c; } }
.lead { color: var(--text); font-size: 1.05rem; max-width: 70em; margin: 8px 0 12px; }
h3 { font-size: .95rem; margin: 16px 0 4px; }
small { color: var(--soft); font-size: .85em; font-weight: 400; }
.failed { color: var(--red); }
.protocols { grid-template-columns: repeat(auto-fit, minmax(min(100%, 215px), 1fr)); }
.protocols .tile { border-top: 3px solid var(--kind); }
.tile b { overflow-wrap: anywhere; }
.tile strong { display: block; font-size: 1.6rem; line-height: 1.2; font-variant-numeric: tabular-nums; }
.tile strong small { font-size: 1rem; font-weight: 400; }
.tile p { margin: 0; font-size: .85rem; overflow-wrap: anywhere; }
main { max-width: 1400px; }
.p1 { --kind: var(--blue); } .p2 { --kind: var(--green); } .p3 { --kind: var(--orange); }
.first { --kind: var(--blue); } .second { --kind: var(--orange); } .third { --kind: var(--green); }
.fourth { --kind: var(--purple); }
.single { --kind: var(--orange); } .experts { --kind: var(--blue); } .reference, .quiet { --kind: var(--grey); }
.chart, .chart svg { overflow: visible; }
.plot { padding: 12px 10px 0 32px; font-size: 12px; }
.plot .chart { font-size: 12px; }
.plot.even { padding-left: 12px; padding-right: 12px; }
.plot.heat { padding: 0 0 0 104px; }
.chart .tick, .chart .axis { fill: var(--soft); font-size: 11px; font-variant-numeric: tabular-nums; }
.chart .row { text-anchor: end; font-size: 11px; }
.chart .number { text-anchor: middle; font-size: 11px; font-variant-numeric: tabular-nums; pointer-events: none; }
.chart .number.on { fill: var(--on); }
.grid-line { stroke: var(--rule); }
.base, .leader { stroke: var(--soft); }
.leader { stroke-opacity: .6; }
.mark { fill: var(--kind); stroke: var(--card); stroke-width: 1.5px; }
.point.reference .name { fill: var(--soft); }
.cells rect { fill: var(--blue); stroke: var(--card); stroke-width: .5px; }
.cells .own { stroke: var(--text); stroke-width: 1px; }
.chart .cells rect:hover { stroke: var(--orange); stroke-width: 2px; }
.cells.even rect { stroke: none; }
.scale { width: 160px; }
.chart .head { text-anchor: middle; }
.chart .head[text-anchor="end"] { text-anchor: end; }
.band { fill: var(--kind); fill-opacity: .14; }
.stroke.reference { stroke-dasharray: 5 4; }
.stroke.quiet { stroke-opacity: .35; }
.swatch.quiet { opacity: .35; }
.stroke.p2 { stroke-width: 4px; stroke-opacity: .45; }
.end { font-weight: 600; }
.chart .end { fill: var(--kind); }
.trial { fill: var(--card); stroke: var(--purple); stroke-width: 1.5px; }
.trial.chosen { fill: var(--purple); }
.reached { stroke: var(--kind); stroke-width: 4px; }
.stop { stroke: var(--soft); stroke-width: 2px; }
.stop.single { stroke: var(--text); }
figure { margin: 0; min-width: 0; }
figcaption { font-size: .85rem; overflow-wrap: anywhere; }
.figures { display: grid; gap: 16px 20px; grid-template-columns: repeat(auto-fill, minmax(min(100%, 300px), 1fr)); }
.panels { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(max(118px, 12%), 1fr)); }
.panels figure { display: flex; flex-direction: column; justify-content: space-between; }
.panels .plot { padding: 8px 2px 0 24px; }
.wide { display: none; }
@media (min-width: 640px) {
  .wide { display: block; } .narrow { display: none; }
  .plot.named { padding-right: 185px; }
}
@media (max-width: 639px) { .end { display: none; } }
@media (min-width: 1100px) {
  .pairs { display: grid; grid-template-columns: repeat(auto-fit, minmax(500px, 1fr)); column-gap: 12px; }
  .pairs section { min-width: 0; }
}
.scroll th:first-child, .scroll thead tr:first-child th:first-child { position: sticky; left: 0; background: var(--card); }
.methods td, .methods th, .tinted td, .tinted th { white-space: nowrap; }
.methods thead tr + tr th:first-child { position: static; text-align: right; font-weight: 600; }
.methods thead th, .tinted thead th { vertical-align: bottom; }
.methods .group { text-align: center; }
.methods .start { border-left: 1px solid var(--rule); }
.methods tbody th, .tinted tbody th { font-weight: 600; white-space: normal; overflow-wrap: anywhere; }
.methods tbody th, .tinted tbody th { min-width: 13em; max-width: 18em; }
details .figures { margin-top: 8px; }
.tinted { width: auto; }
.legend { overflow-wrap: anywhere; }
.methods .reference, .tinted .reference th { color: var(--soft); }
.methods .reference th, .tinted .reference th { font-weight: 400; }
.methods td, .methods th { padding: 3px 6px; }
.methods .words { text-align: left; white-space: normal; }
.methods td.words { min-width: 8em; color: var(--soft); }
.methods tbody tr:hover td { background: color-mix(in srgb, var(--blue) 6%, transparent); }
.tinted .upright span { writing-mode: vertical-rl; transform: rotate(180deg); }
@media (max-width: 520px) {
  .facts thead { display: none; }
  .facts tr, .facts th, .facts td { display: block; border: 0; padding: 1px 0; }
  .facts tr { border-bottom: 1px solid var(--rule); }
  .facts tbody th { font-weight: 600; }
  .methods tbody th, .tinted tbody th { white-space: normal; overflow-wrap: break-word; min-width: 8.5em; max-width: 9em; }
}
"""
    + _TINTS
)
